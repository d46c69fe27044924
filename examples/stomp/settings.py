"""The settings of the STOMP connector."""

from typing import ClassVar

from pydantic import Field, SecretStr

from .contract import ConnectorSettings


class Settings(ConnectorSettings):
    """RabbitMQ with its plugin for STOMP."""

    schemes: ClassVar = ("stomp",)
    schemes_with_hosts_only: ClassVar = schemes

    url: SecretStr = Field(
        default=SecretStr("stomp://127.0.0.1:61613"),
        description="stomp://[user:password@]host[:port][,host[:port]...]; the port is 61613 if not given.",
    )
    virtual_host: str = Field(default="/", description="RabbitMQ's virtual host.")
