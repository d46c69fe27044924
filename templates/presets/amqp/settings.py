"""The settings of the AMQP connector."""

import math
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from pydantic import Field, SecretStr
from yarl import URL

from .contract import ConnectorSettings


class Settings(ConnectorSettings):
    """RabbitMQ 3.8 or later, and other brokers of AMQP 0-9-1 with publisher confirms (LavinMQ)."""

    schemes: ClassVar = ("amqp", "amqps")
    tls_schemes: ClassVar = ("amqps",)

    url: SecretStr = Field(
        default=SecretStr("amqp://127.0.0.1:5672"),
        description="amqp://[user[:password]@]host[:port][/virtual-host], amqps:// for TLS.",
    )
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

    def client_url(self) -> URL:
        """Return the settings in the words of aiormq."""
        url = URL(self.url.get_secret_value())
        user, password = self.login
        path = url.raw_path if self.virtual_host is None else f"/{quote(self.virtual_host, safe='')}"
        files = {"cafile": self.ca_file, "certfile": self.cert_file, "keyfile": self.key_file}
        options = {name: str(file) for name, file in files.items() if file}
        options["heartbeat"] = str(max(2, math.ceil(self.heartbeat / 2)))
        url = url.with_path(path, encoded=True).with_query(url.query).update_query(options)
        return url.with_user(user or "guest").with_password(password or "guest")
