"""The settings of the Kafka connector."""

import logging
from typing import Annotated, Any, ClassVar, Literal

from aiokafka.helpers import create_ssl_context  # type: ignore[import-untyped]
from pydantic import Field, SecretStr

from .contract import ConnectorSettings, escape


class Settings(ConnectorSettings):
    """Apache Kafka 2.1 or later, and what speaks its protocol; a whole cluster, found through any one of its brokers."""

    schemes: ClassVar = ("kafka",)

    url: SecretStr = Field(
        default=SecretStr("kafka://127.0.0.1:9092"),
        description="kafka://[user:password@]host[:port][,host[:port]...]: brokers that are asked for all the others.",
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="PLAIN", description="How user and password are proved."
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] | None = Field(
        default=None, description="As Kafka calls it; by default SASL_PLAINTEXT if there is a user, else PLAINTEXT."
    )
    ssl_ca_file: str | None = Field(
        default=None, description="Certificates that may have signed the brokers' (PEM); by default the system's."
    )
    ssl_cert_file: str | None = Field(default=None, description="This client's own certificate (PEM), if it has one.")
    ssl_key_file: str | None = Field(default=None, description="The key to ssl_cert_file (PEM), if it lies elsewhere.")
    ssl_key_password: SecretStr | None = Field(default=None, description="The password of that key, if it has one.")
    client_id: str = Field(default="deepstream", description="What the brokers' logs, metrics and quotas call us.")
    acks: Literal["all", "leader"] = Field(
        default="all",
        description="Who has a message when it counts as accepted: all replicas in sync, or the leader alone, with "
        "which it may be lost.",
    )
    max_batch_bytes: Annotated[int, Field(ge=1024)] = Field(
        default=1024 * 1024, description="The least message.max.bytes of the brokers and max.message.bytes of topics."
    )
    topic_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]*$", max_length=100)] = Field(
        default="", description="What the names of all topics begin with at the brokers, to share them with others."
    )
    replication_factor: Annotated[int, Field(ge=-1, le=32767)] = Field(
        default=-1, description="How many brokers keep a topic that is made here; -1: as the brokers are set up."
    )
    retention: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="Seconds for which a topic that is made here keeps messages, for nodes that are away; by default "
        "as the brokers are set up.",
    )

    def name_of(self, topic: str) -> str:
        """What Kafka calls a topic."""
        return self.topic_prefix + escape(topic, "_", 249 - len(self.topic_prefix))

    def new_topic(self, name: str) -> tuple[str, int, int, list[Any], list[tuple[str, str]]]:
        """What Kafka is to know of a topic that it makes."""
        configs = [("retention.ms", str(int(self.retention * 1000)))] if self.retention else []
        return name, 1, self.replication_factor, [], configs

    @property
    def confirmation(self) -> tuple[int, int]:
        """How many replicas are to confirm a message (-1: all), and within how many milliseconds."""
        return -1 if self.acks == "all" else 1, int(self.heartbeat * 1000 / 3)

    @property
    def fetch_wait(self) -> int:
        """For how many milliseconds a broker is to wait for messages: a new topic, or a ping, has to wait as long."""
        return int(min(self.heartbeat / 20, 0.5) * 1000)

    @property
    def uses_tls(self) -> bool:
        """Whether the connections are to be encrypted."""
        return self.security_protocol in ("SSL", "SASL_SSL")

    @property
    def entry(self) -> dict[str, Any]:
        """How to enter, in aiokafka's terms."""
        user, password = self.login
        protocol = self.security_protocol or ("SASL_PLAINTEXT" if user else "PLAINTEXT")
        key_password = self.ssl_key_password and self.ssl_key_password.get_secret_value()
        files = {"cafile": self.ssl_ca_file, "certfile": self.ssl_cert_file, "keyfile": self.ssl_key_file}
        return {
            "client_id": self.client_id,
            "request_timeout_ms": 2**31,
            "security_protocol": protocol,
            "ssl_context": create_ssl_context(**files, password=key_password) if self.uses_tls else None,
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": user or "",
            "sasl_plain_password": password or "",
        }


def log_no_password() -> None:
    """Have aiokafka keep the record to itself in which it would log the password, at DEBUG."""
    logging.getLogger("aiokafka.conn").addFilter(_shows_no_password)


def _shows_no_password(record: logging.LogRecord) -> bool:
    return "SaslAuthenticateRequest" not in record.getMessage()
