"""The settings of the Kafka connector."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, SecretStr, model_validator

from .contract import TlsSettings, escape


class Settings(TlsSettings):
    """Apache Kafka 2.1 or later, and what speaks its protocol; a whole cluster, found through any of its brokers."""

    schemes: ClassVar = ("kafka",)
    schemes_with_hosts_only: ClassVar = schemes

    url: SecretStr = Field(
        default=SecretStr("kafka://127.0.0.1:9092"),
        description="kafka://[user:password@]host[:port][,host[:port]...]: brokers that are asked for all the others.",
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        default="PLAIN",
        description="How the node authenticates; with OAUTHBEARER, the password is the token, and no user is needed.",
    )
    client_id: str = Field(
        default="deepstream", description="This client's name in the brokers' logs, metrics and quotas."
    )
    acks: Literal["all", "leader"] = Field(
        default="all",
        description="Which replicas must have a message before it is accepted: all that are in sync, or only the "
        "leader, with which it may be lost.",
    )
    max_batch_bytes: Annotated[int, Field(ge=1024)] = Field(
        default=1_000_000,
        description="The largest batch that brokers and topics take: the least of message.max.bytes and "
        "max.message.bytes.",
    )
    topic_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]*$", max_length=100)] = Field(
        default="", description="The prefix of all topic names at the brokers, to share the brokers with others."
    )
    replication_factor: Annotated[int, Field(ge=-1, le=32767)] = Field(
        default=-1, description="How many brokers keep a topic that is created here; -1: as the brokers are set up."
    )
    retention: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="Seconds for which a topic that is created here keeps messages, for nodes that are away; by default "
        "as the brokers are set up.",
    )

    def name_of(self, topic: str) -> str:
        """Return Kafka's name of a topic."""
        return self.topic_prefix + escape(topic, "_", 249 - len(self.topic_prefix))

    @property
    def configs(self) -> dict[str, str]:
        """Kafka's options for a topic that is created here."""
        return {"retention.ms": str(int(self.retention * 1000))} if self.retention else {}

    @property
    def confirmation(self) -> tuple[int, float]:
        """How many replicas must confirm a message (-1: all), and within how many seconds."""
        return -1 if self.acks == "all" else 1, self.heartbeat / 3

    @property
    def fetch_wait(self) -> float:
        """For how many seconds a broker waits for messages: a new topic, or a ping, has to wait as long."""
        return min(self.heartbeat / 20, 0.5)

    @property
    def security_protocol(self) -> str:
        """Kafka's name for the kind of connection: with or without a login, and with or without TLS."""
        return f"{'SASL_' if self.login != (None, None) else ''}{'SSL' if self.uses_tls else 'PLAINTEXT'}"

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        if self.sasl_mechanism == "OAUTHBEARER" and self.password_file is None and not self.login[1]:
            raise ValueError("sasl_mechanism = OAUTHBEARER needs a token: password, or password_file")
        return self
