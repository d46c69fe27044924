"""The settings of this connector: add what your broker's users expect (a virtual host, a prefix …).

User, password and several hosts are there already; `self.settings.targets()` returns the url's hosts and ports. If
your broker can speak TLS, derive from `TlsSettings` instead, which has the settings for it, and give the client
`ssl_context(self.settings)` in `connect`; both come from `.contract`. A setting without a default is required: give it
in tests/settings.py, too.
"""

from pydantic import Field, SecretStr

from .contract import ConnectorSettings


class Settings(ConnectorSettings):
    """The settings of all connectors, and those that this broker adds. Secrets are of the type `SecretStr`."""

    url: SecretStr = Field(description="Where the broker is: scheme://[user[:password]@]host:port.")
