"""The settings of the PostgreSQL connector."""

from typing import ClassVar

from pydantic import Field, SecretStr

from .contract import ConnectorSettings


class Settings(ConnectorSettings):
    """PostgreSQL 12 or later, and what speaks its protocol and has LISTEN and NOTIFY."""

    schemes: ClassVar = ("postgresql", "postgres")

    url: SecretStr = Field(
        default=SecretStr("postgresql://127.0.0.1:5432/postgres"),
        description="postgresql://[user[:password]@]host[:port][,host...]/database; for TLS with "
        "?sslmode=verify-full&sslrootcert=FILE&sslcert=FILE&sslkey=FILE, as in libpq. All nodes name one database.",
    )
    username: str | None = Field(default=None, description="The user, if the url does not name it.")
    password: SecretStr | None = Field(default=None, description="The user's password, if the url does not hold it.")
    table: str = Field(
        default="public.deepstream_frames",
        pattern=r"^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?$",
        description="The table for frames of more than 5997 bytes, the same for all nodes; made when it is missing.",
    )
