"""The settings of the connector for Nchan."""

from typing import ClassVar

from pydantic import Field, SecretStr

from .contract import ConnectorSettings


class Settings(ConnectorSettings):
    """One nginx with the module Nchan, which publishes at `/pub/…` and delivers at `/sub/…`."""

    schemes: ClassVar = ("http",)
    schemes_with_hosts_only: ClassVar = schemes

    url: SecretStr = Field(
        default=SecretStr("http://127.0.0.1"),
        description="http://[user:password@]host[:port]; the port is 80 if not given.",
    )
