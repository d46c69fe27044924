"""The settings of the NATS connector."""

import ssl
from typing import Any, ClassVar
from urllib.parse import unquote

from pydantic import Field, FilePath, SecretStr

from .contract import ConnectorSettings


class Settings(ConnectorSettings):
    """A NATS server 2.2 or later, or a cluster of them; core NATS, without JetStream."""

    schemes: ClassVar = ("nats", "tls")

    url: SecretStr = Field(
        default=SecretStr("nats://127.0.0.1:4222"),
        description="nats://[user:password@]host[:port], or tls:// to insist on TLS; of a cluster name several "
        "servers, as in nats://user:password@a:4222,b:4222. A user without a password is a token.",
    )
    username: str | None = Field(default=None, description="The user, if the url does not name it.")
    password: SecretStr | None = Field(default=None, description="The user's password, if the url does not hold it.")
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

    def client_options(self) -> dict[str, Any]:
        """Return the settings in the words of nats-py."""
        scheme, _, rest = self.url.get_secret_value().partition("://")
        login, _, hosts = rest.rstrip("/").rpartition("@")
        servers = [f"{scheme}://{host}" for host in hosts.split(",")]
        user, has_password, password = (unquote(part) for part in login.partition(":"))
        options: dict[str, Any] = {
            "servers": servers,
            "connect_timeout": self.connect_timeout / len(servers),
            "name": self.node_name,
            "user_credentials": self.credentials_file,
            "nkeys_seed": self.nkey_seed_file,
        }
        if self.token or (login and not has_password and not self.password):
            options["token"] = self.token.get_secret_value() if self.token else user
        elif self.username or login:
            options["user"] = self.username or user
            options["password"] = self.password.get_secret_value() if self.password else password
        if scheme == "tls" or self.tls_ca_file or self.tls_cert_file:
            options["tls"] = context = ssl.create_default_context(cafile=self.tls_ca_file)
            options["tls_handshake_first"] = self.tls_handshake_first
            if self.tls_cert_file:
                context.load_cert_chain(self.tls_cert_file, self.tls_key_file)
        return options
