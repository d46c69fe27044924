"""The settings of this connector: add what your broker's users expect (a virtual host, a prefix …).

User, password and several hosts are there already; `self.settings.targets()` is the url's hosts and ports, parsed. If
your broker can speak TLS, derive from `TlsSettings` instead, which has the settings for it, and give the client
`ssl_context(self.settings)` in `connect`; both come from `.contract`. A setting without a default is required: give it
in tests/settings.py, too.
"""

from pydantic import Field, SecretStr

from .contract import ConnectorSettings


class Settings(ConnectorSettings):
    """What all connectors have, and what this broker needs besides. Secrets are of the type `SecretStr`."""

    url: SecretStr = Field(description="Where the broker is: scheme://[user[:password]@]host:port.")
