"""The settings of the NATS connector."""

from typing import ClassVar

from pydantic import Field, FilePath, SecretStr

from .contract import TlsSettings


class Settings(TlsSettings):
    """A NATS server 2.2 or later, or a cluster of them; core NATS, without JetStream."""

    schemes: ClassVar = ("nats", "tls")
    schemes_with_hosts_only: ClassVar = schemes
    tls_schemes: ClassVar = ("tls",)
    user_may_be_token: ClassVar = True

    url: SecretStr = Field(
        default=SecretStr("nats://127.0.0.1:4222"),
        description="nats://[user:password@]host[:port], or tls:// to insist on TLS; of a cluster name several "
        "servers, as in nats://user:password@a:4222,b:4222. A user without a password is a token.",
    )
    token: SecretStr | None = Field(default=None, description="A token, for a server that asks for one.")
    credentials_file: FilePath | None = Field(
        default=None, description="A .creds file, with the JWT and the seed of a user of a decentralised set-up."
    )
    nkey_seed_file: FilePath | None = Field(default=None, description="A file with the seed of a user's NKey.")
    tls_handshake_first: bool = Field(
        default=False, description="Whether TLS begins before the server's greeting, as its handshake_first says."
    )
