"""The settings of the AMQP 1.0 connector."""

from typing import ClassVar, Literal, Self

from pydantic import Field, SecretStr, model_validator

from .contract import TlsSettings, escape

PREFIXES = {
    "artemis": "deepstream.",
    "activemq": "topic://deepstream.",
    "qpid": "amq.topic/deepstream.",
    "rabbitmq": "/topic/deepstream.",
    "servicebus": "deepstream.",
}
"""The prefix of a topic's address, by the kind of the server."""

LONGEST_NAME = 150
"""Characters of a topic's name; with a prefix, it must fit into the 255 of a routing key."""


class Settings(TlsSettings):
    """Artemis, ActiveMQ, Qpid Broker-J, RabbitMQ with its plugin rabbitmq_amqp1_0, Azure Service Bus."""

    schemes: ClassVar = ("amqp", "amqps")
    schemes_with_hosts_only: ClassVar = schemes
    tls_schemes: ClassVar = ("amqps",)

    url: SecretStr = Field(
        default=SecretStr("amqp://127.0.0.1:5672"),
        description="amqp://[user:password@]host[:port][,host[:port]...], or amqps:// for TLS; the ports are 5672, and "
        "5671 with TLS, if not given.",
    )
    server: Literal["artemis", "activemq", "qpid", "rabbitmq", "servicebus"] = Field(
        default="artemis", description="What kind of server it is, since each has addresses of its own."
    )
    prefix: str | None = Field(
        default=None,
        max_length=80,
        description="The prefix of each topic's address: an exchange, an acceptor's multicastPrefix, or any other; by "
        f"default that of the server: {', '.join(PREFIXES.values())}.",
    )
    subscription: str | None = Field(
        default=None,
        max_length=50,
        description="Service Bus: this node's own subscription, which each topic must have; no two nodes may share it.",
    )
    management: str | None = Field(
        default=None,
        description="Service Bus: the host at which the node makes and deletes its subscriptions, as "
        "NAME.servicebus.windows.net; if not given, they must be there. It needs the extra `azure`.",
    )
    virtual_host: str | None = Field(
        default=None,
        description="The virtual host, if it is not the url's host: Qpid's name for it, RabbitMQ's after vhost:.",
    )
    max_frame_bytes: int = Field(
        default=16 * 1024 * 1024,
        gt=1024,
        description="The largest message that the server takes, in bytes: nothing larger is sent to it.",
    )

    @model_validator(mode="after")
    def _fits_the_server(self) -> Self:
        if self.server == "servicebus" and not self.subscription:
            raise ValueError("server = servicebus needs a subscription, this node's own")
        if self.management and self.server != "servicebus":
            raise ValueError("management is only for server = servicebus")
        return self

    def address_of(self, topic: str, receives: bool) -> str:
        """Return the address at the broker to which `topic` is sent, or from which it is received."""
        address = (PREFIXES[self.server] if self.prefix is None else self.prefix) + escape(topic, "_", LONGEST_NAME)
        if receives and self.server == "servicebus":
            address += f"/Subscriptions/{self.subscription}"
        return address
