"""The settings of the Redis connector."""

from typing import ClassVar

from pydantic import Field, SecretStr

from .contract import ConnectorSettings


class Settings(ConnectorSettings):
    """Redis 6 or later, Valkey, and what speaks their protocol; its cluster mode too, through any one node."""

    schemes: ClassVar = ("redis", "rediss", "unix")
    schemes_without_hosts: ClassVar = ("unix",)
    tls_schemes: ClassVar = ("rediss",)
    secret_options: ClassVar = ("password", "ssl_password")

    url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379"),
        description="redis://[user[:password]@]host[:port], rediss:// for TLS (with ?ssl_ca_certs=FILE and the "
        "like), or unix:///path/to/socket.",
    )
