"""The settings of the AMQP connector."""

from typing import ClassVar, Literal, Self
from urllib.parse import parse_qsl

from pydantic import Field, SecretStr, model_validator

from .contract import TlsSettings


class Settings(TlsSettings):
    """RabbitMQ 3.8 or later, and other brokers of AMQP 0-9-1 with publisher confirms (LavinMQ)."""

    schemes: ClassVar = ("amqp", "amqps")
    tls_schemes: ClassVar = ("amqps",)

    url: SecretStr = Field(
        default=SecretStr("amqp://127.0.0.1:5672"),
        description="amqp://[user[:password]@]host[:port][,host[:port]...][/virtual-host], or amqps:// for TLS; the ports "
        "are 5672 and 5671 if not given.",
    )
    virtual_host: str | None = Field(default=None, description="The virtual host; overrides the one in the url.")
    sasl_mechanism: Literal["PLAIN", "EXTERNAL"] = Field(
        default="PLAIN",
        description="How the node authenticates: with user and password, or with its certificate (tls_cert_file).",
    )
    exchange: str = Field(
        default="deepstream",
        min_length=1,
        max_length=200,
        description="The topic exchange that all nodes share, created if missing; queues are named after it.",
    )
    max_frame_bytes: int = Field(
        default=16 * 1024 * 1024, gt=1024, description="The broker's max_message_size: nothing larger is sent to it."
    )
    max_queue_bytes: int = Field(
        default=128 * 1024 * 1024, gt=0, description="What the broker keeps for a slow node before it drops the oldest."
    )

    @model_validator(mode="after")
    def _has_no_options_in_its_url(self) -> Self:
        _, has_options, options = self.address.rest.partition("?")
        if has_options:
            names = ", ".join(name for name, _ in parse_qsl(options, keep_blank_values=True))
            raise ValueError(f"url must have no options, and has {names or '?'}: TLS, login and heartbeat are settings")
        return self

    @model_validator(mode="after")
    def _has_the_certificate_that_it_shows(self) -> Self:
        if self.sasl_mechanism == "EXTERNAL" and not self.tls_cert_file:
            raise ValueError("sasl_mechanism = EXTERNAL needs the node's certificate: tls_cert_file")
        return self
