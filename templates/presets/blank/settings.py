"""The settings of this connector: add what your broker's users expect (TLS, credentials, a virtual host …)."""

from pydantic import Field, SecretStr

from .contract import ConnectorSettings


class Settings(ConnectorSettings):
    """What all connectors have, and what this broker needs besides. Secrets are of the type `SecretStr`."""

    url: SecretStr = Field(description="Where the broker is: scheme://[user[:password]@]host:port.")
