"""The settings of the NATS connector."""

import ssl
from typing import Any, ClassVar

from pydantic import Field, FilePath, SecretStr

from .contract import ConnectorSettings


class Settings(ConnectorSettings):
    """A NATS server 2.2 or later, or a cluster of them; core NATS, without JetStream."""

    schemes: ClassVar = ("nats", "tls")
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
    tls_ca_file: FilePath | None = Field(
        default=None, description="The certificates (PEM) that vouch for the server; otherwise the system's."
    )
    tls_cert_file: FilePath | None = Field(
        default=None, description="This client's certificate (PEM), for a server that asks for one."
    )
    tls_key_file: FilePath | None = Field(
        default=None, description="The key (PEM) of this client's certificate, if it is not in the same file."
    )
    tls_handshake_first: bool = Field(
        default=False, description="Whether TLS begins before the server's greeting; as its handshake_first says."
    )

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is to be encrypted."""
        return super().uses_tls or bool(self.tls_ca_file or self.tls_cert_file)

    def client_options(self) -> dict[str, Any]:
        """Return the settings in the words of nats-py."""
        user, password = self.login
        options: dict[str, Any] = {
            "servers": [f"{self.address.scheme}://{target}" for target in self.targets()],
            "connect_timeout": self.connect_timeout,
            "name": self.node_name,
            "tls_hostname": self.host_name,
            "user_credentials": self.credentials_file,
            "nkeys_seed": self.nkey_seed_file,
        }
        if self.token:
            options["token"] = self.token.get_secret_value()
        elif user and password is None and self.username is None:
            options["token"] = user
        elif user or password:
            options |= {"user": user or "", "password": password or ""}
        if self.uses_tls:
            options["tls"] = context = ssl.create_default_context(cafile=self.tls_ca_file)
            options["tls_handshake_first"] = self.tls_handshake_first
            if self.tls_cert_file:
                context.load_cert_chain(self.tls_cert_file, self.tls_key_file)
        return options
