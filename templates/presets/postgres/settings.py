"""The settings of the PostgreSQL connector."""

import os
from typing import ClassVar
from urllib.parse import parse_qs

from pydantic import Field, SecretStr

from .contract import ConnectorSettings


class Settings(ConnectorSettings):
    """PostgreSQL 12 or later, and what speaks its protocol and has LISTEN and NOTIFY."""

    schemes: ClassVar = ("postgresql", "postgres")
    secret_options: ClassVar = ("password", "sslpassword")

    url: SecretStr = Field(
        default=SecretStr("postgresql://127.0.0.1:5432/postgres"),
        description="postgresql://[user[:password]@]host[:port][,host...]/database; for TLS with "
        "?sslmode=verify-full&sslrootcert=FILE&sslcert=FILE&sslkey=FILE, as in libpq. All nodes name one database.",
    )
    table: str = Field(
        default="public.deepstream_frames",
        pattern=r"^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?$",
        description="The table for frames of more than 5997 bytes, the same for all nodes; made when it is missing.",
    )

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is to be encrypted, by `sslmode`."""
        options = parse_qs(self.address.rest.partition("?")[2])
        return options.get("sslmode", [os.environ.get("PGSSLMODE")])[-1] in ("require", "verify-ca", "verify-full")
