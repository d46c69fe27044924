"""The settings of the PostgreSQL connector."""

from typing import ClassVar
from urllib.parse import parse_qsl, unquote

from pydantic import Field, SecretStr, field_validator

from .contract import TlsSettings

OPTIONS = "application_name", "options"
"""The options of the url that are passed on to the server."""

INSTEAD = {
    "sslmode": "set tls = True, which always checks the certificate",
    "sslrootcert": "set tls_ca_file, or tls = True alone if the system trusts the server",
    "sslcert": "set tls_cert_file",
    "sslkey": "set tls_key_file",
    "sslpassword": "set tls_key_file to a key without a password",
    "user": "set username",
    "password": "set password or password_file",
    "passfile": "set password_file",
    **dict.fromkeys(("host", "hostaddr", "port"), "name the hosts as host:port,host:port"),
    **dict.fromkeys(("dbname", "database"), "name the database after the hosts, as host/database"),
    "connect_timeout": "set connect_timeout",
    **dict.fromkeys(
        ("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"),
        "set heartbeat",
    ),
    "target_session_attrs": "leave it out: only a primary is taken",
    "load_balance_hosts": "leave it out: the hosts are tried in turn",
    "channel_binding": "leave it out, and set tls = True",
}
"""What to use in place of libpq's other options."""


class Settings(TlsSettings):
    """PostgreSQL 12 or later, and what speaks its protocol and has LISTEN and NOTIFY."""

    schemes: ClassVar = ("postgresql", "postgres")

    url: SecretStr = Field(
        default=SecretStr("postgresql://127.0.0.1:5432/postgres"),
        description="postgresql://[user[:password]@]host[:port][,host[:port]...]/database[?application_name=...], "
        "where one of the hosts is the primary. All nodes name one database.",
    )
    table: str = Field(
        default="public.deepstream_frames",
        pattern=r"^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?$",
        description="The table for frames of more than 5997 bytes, the same for all nodes; created if missing.",
    )

    @field_validator("url")
    @classmethod
    def _has_only_known_options(cls, url: SecretStr) -> SecretStr:
        options = parse_qsl(url.get_secret_value().partition("?")[2], keep_blank_values=True)
        if unknown := dict.fromkeys(name for name, _ in options if name not in OPTIONS):
            rest = f"only {' and '.join(OPTIONS)} are"
            faults = [f"the option {name} is not taken in the url: {INSTEAD.get(name, rest)}" for name in unknown]
            raise ValueError("; ".join(faults))
        return url

    @property
    def database(self) -> str:
        """The database; if it is empty, the server takes the one with the user's name."""
        return unquote(self.address.rest.partition("?")[0].removeprefix("/"))

    @property
    def options(self) -> dict[str, str]:
        """The options of the url."""
        return dict(parse_qsl(self.address.rest.partition("?")[2]))
