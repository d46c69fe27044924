"""The settings of the connectors to the small broker."""

from typing import ClassVar

from pydantic import Field, SecretStr

from .contract import ConnectorSettings


class Settings(ConnectorSettings):
    """The broker's two ports: one is in the url."""

    schemes: ClassVar = ("small",)

    url: SecretStr = Field(description="small://[user[:password]@]host:port, where messages are published.")
    subscribe_port: int = Field(default=4002, description="The port of the same host where messages are taken.")
