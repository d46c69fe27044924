"""The settings of the AMQP connector."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field, SecretStr

from .contract import ConnectorSettings


class Settings(ConnectorSettings):
    """RabbitMQ 3.8 or later, and other brokers of AMQP 0-9-1 with publisher confirms (LavinMQ)."""

    schemes: ClassVar = ("amqp", "amqps")

    url: SecretStr = Field(
        default=SecretStr("amqp://127.0.0.1:5672"),
        description="amqp://[user[:password]@]host[:port][/virtual-host], amqps:// for TLS.",
    )
    username: str | None = Field(default=None, description="The user, if the url does not name it.")
    password: SecretStr | None = Field(default=None, description="The user's password, if the url does not hold it.")
    virtual_host: str | None = Field(default=None, description="The virtual host, if the url does not name it.")
    exchange: str = Field(
        default="deepstream",
        min_length=1,
        max_length=200,
        description="The topic exchange that all nodes share, made when it is missing; queues are called after it.",
    )
    ca_file: Path | None = Field(default=None, description="Who is trusted with TLS, in PEM; else as the system says.")
    cert_file: Path | None = Field(default=None, description="The client's certificate for TLS, in PEM.")
    key_file: Path | None = Field(default=None, description="The key of the client's certificate, in PEM.")
    max_frame_bytes: int = Field(
        default=16 * 1024 * 1024, gt=1024, description="The broker's max_message_size: nothing larger is sent to it."
    )
    max_queue_bytes: int = Field(
        default=128 * 1024 * 1024, gt=0, description="What the broker keeps for a slow node before it drops the oldest."
    )
