"""The settings of the AMQP 1.0 connector."""

from typing import ClassVar, Literal
from uuid import uuid4

from proton import Condition, Connection, Delivery, Link, Message, ProtonException, Session, SSLDomain, symbol
from proton.reactor import Container
from pydantic import Field, FilePath, SecretStr, model_validator

from .contract import ConnectError, ConnectorSettings, MessageTooLargeError, PublishRefusedError, escape

PREFIXES = {
    "artemis": "deepstream.",
    "activemq": "topic://deepstream.",
    "qpid": "amq.topic/deepstream.",
    "rabbitmq": "/topic/deepstream.",
    "servicebus": "deepstream.",
}
"""What comes before a topic in an address, by the kind of the server."""

LONGEST_NAME = 150
"""Characters of a topic's name; with a prefix, it is to fit into the 255 of a routing key."""


TOPIC = symbol("topic")
"""What Artemis makes of an address that is new; it would be a queue, whose messages have one receiver each."""

TOO_LARGE = Condition("amqp:link:message-size-exceeded", "it is larger than the broker takes")
LARGE = TOO_LARGE.name, "larger than configured max size"
"""By what a refusal is known for one of too large a message: AMQP's name for it, and RabbitMQ's text."""

PASSING = {"amqp:internal-error", "amqp:resource-limit-exceeded", "amqp:illegal-state", "amqp:link:detach-forced"}
"""What a broker may not say again when it is asked again; all else is a refusal."""


SHUT_OUT = "amqp:unauthorized-access"
"""By what a refusal to let us in is known."""

NO_RIGHT = "AMQ229032", "AMQ229213"
"""By what Artemis's internal errors are known for refusals, when an address, or a queue of one, may not be made."""


class Settings(ConnectorSettings):
    """Artemis, ActiveMQ, Qpid Broker-J, RabbitMQ with its plugin rabbitmq_amqp1_0, Azure Service Bus."""

    schemes: ClassVar = ("amqp", "amqps")
    tls_schemes: ClassVar = ("amqps",)

    url: SecretStr = Field(
        default=SecretStr("amqp://127.0.0.1:5672"),
        description="amqp://[user:password@]host[:port], or amqps:// for TLS; the ports are 5672 and 5671 if not given.",
    )
    server: Literal["artemis", "activemq", "qpid", "rabbitmq", "servicebus"] = Field(
        default="artemis", description="What kind of server it is, since each has addresses of its own."
    )
    prefix: str | None = Field(
        default=None,
        max_length=80,
        description="What comes before a topic in an address: a prefix of names, an exchange, an acceptor's "
        f"multicastPrefix; if not given, as the server has it: {', '.join(PREFIXES.values())}.",
    )
    subscription: str | None = Field(
        default=None,
        max_length=50,
        description="Service Bus: this node's own subscription, which each topic must have; no two nodes may share it.",
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
    tls_ca_file: FilePath | None = Field(
        default=None, description="The certificates (PEM) that vouch for the server; otherwise the system's."
    )
    tls_cert_file: FilePath | None = Field(
        default=None, description="This client's certificate (PEM), for a server that asks for one."
    )
    tls_key_file: FilePath | None = Field(
        default=None, description="The key (PEM) of this client's certificate, if it is not in the same file."
    )

    @model_validator(mode="after")
    def _has_subscription(self) -> "Settings":
        if self.server == "servicebus" and not self.subscription:
            raise ValueError("server = servicebus needs a subscription, this node's own")
        return self

    def link(self, connection: Connection, topic: str, receives: bool) -> Link:
        """Open a link, in a session of its own, by which messages of `topic` are received, at most once, or sent."""
        session = connection.session()
        session.open()
        link = session.receiver(uuid4().hex) if receives else session.sender(uuid4().hex)
        prefix = PREFIXES[self.server] if self.prefix is None else self.prefix
        address = prefix + escape(topic, "_", LONGEST_NAME)
        if receives:
            link.snd_settle_mode = Link.SND_SETTLED
            if self.server == "servicebus":
                address += f"/Subscriptions/{self.subscription}"
        end = link.source if receives else link.target
        end.address = address
        end.capabilities.put_object(TOPIC)
        link.open()
        return link

    def ping_link(self, session: Session) -> Link:
        """Make a link by which a message could be sent to nobody."""
        link = session.sender(uuid4().hex)
        link.target.address = f"{PREFIXES[self.server]}ping"
        return link

    def open(self, container: Container) -> Connection:
        """Have proton's container connect, once."""
        [target, *_], (user, password) = self.targets(), self.login
        tls = SSLDomain(SSLDomain.MODE_CLIENT) if self.uses_tls else None
        if tls and self.tls_ca_file:
            tls.set_trusted_ca_db(str(self.tls_ca_file))
        if tls and self.tls_cert_file:
            tls.set_credentials(str(self.tls_cert_file), str(self.tls_key_file or self.tls_cert_file), None)
        return container.connect(
            f"{self.address.scheme}://{target}",  # without the password, since proton logs it
            user=user,
            password=password,
            virtual_host=self.virtual_host or self.host_name,
            sni=self.host_name,
            ssl_domain=tls,
            reconnect=False,
        )

    def error(self, condition: Condition | None, refusal: type[Exception] = ConnectionError) -> Exception:
        """Return what the broker has said as an error: a refusal, or one that may pass."""
        if condition is None:
            return ConnectionError("the broker gave no reason")
        text = f"{condition.name}: {condition.description}"
        if condition.name == SHUT_OUT and refusal is ConnectionError:
            return ConnectError(text, refused=True)
        kind = MessageTooLargeError if any(name in text for name in LARGE) else refusal
        may_pass = condition.name in PASSING and not any(code in text for code in NO_RIGHT)
        return ConnectionError(text) if may_pass else kind(text)

    def verdict(self, delivery: Delivery) -> Exception | None:
        """Return what the broker has made of a message: None, if it has accepted it."""
        if delivery.remote_state == Delivery.ACCEPTED:
            return None
        if delivery.remote_state == Delivery.REJECTED:
            return self.error(delivery.remote.condition or Condition("amqp:rejected"), PublishRefusedError)
        if delivery.remote_state == Delivery.RELEASED and self.server == "rabbitmq":
            return None  # so it says that nobody has subscribed
        return ConnectionError("the broker gave the message back")

    def payload(self, data: bytes) -> bytes:
        """Return what a message holds; all that came, if it is none of ours."""
        message = Message()
        try:
            message.decode(data)
        except ProtonException:
            return data
        body = message.body
        return bytes(body) if isinstance(body, bytes | memoryview) else data  # a copy, since its memory is freed
