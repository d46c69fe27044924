"""AMQP 1.0 on the event loop: asyncio moves the bytes, proton, which does no I/O here, reads and writes them."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from ssl import get_default_verify_paths
from typing import Any
from uuid import uuid4

from proton import (
    Collector,
    Condition,
    Connection,
    Delivery,
    Endpoint,
    Link,
    Message,
    ProtonException,
    Transport,
    symbol,
)

from .contract import (
    ConnectError,
    MessageTooLargeError,
    PublishRefusedError,
    SubscribeRefusedError,
    ssl_context,
    tls_files,
)
from .settings import Settings

READ = 128 * 1024
"""The largest frame of AMQP that the broker may send, in bytes; a message may have many."""

TOPIC = symbol("topic")
"""What Artemis makes of a new address; otherwise a queue, whose messages have one receiver each."""

TOO_LARGE = Condition("amqp:link:message-size-exceeded", "it is larger than the broker takes")
LARGE = TOO_LARGE.name, "larger than configured max size"
"""The marks of a refusal for too large a message: AMQP's name for it, and RabbitMQ's text."""

PASSING = {
    *("amqp:internal-error", "amqp:resource-limit-exceeded", "amqp:illegal-state", "amqp:link:detach-forced"),
    *("com.microsoft:server-busy", "com.microsoft:timeout"),
}
"""Errors that may not come again when the request is repeated; all else is a refusal."""

SHUT_OUT = "amqp:unauthorized-access"
"""The mark of a refused login."""

NO_RIGHT = "AMQ229032", "AMQ229213"
"""The marks of Artemis's internal errors that are refusals, when an address, or a queue of one, may not be created."""

NO_LOGIN = "AMQ229031"
"""The mark that Artemis no longer accepts the login of a connection, since its password has changed."""


KEPT = timedelta(minutes=5)
"""For how long a node's subscription at Service Bus keeps messages, and outlives the node."""

REFUSALS = {400, 401, 403, 404}
"""Its management's answers where asking again is futile."""


class Client(asyncio.Protocol):
    """One connection, all of it on the event loop's thread.

    Arguments:
        settings: where the broker is, and the login.
        handler: its methods `on_...` are called with proton's events.
        lost: called with the error when the connection has ended, or will; perhaps more than once.
    """

    def __init__(self, settings: Settings, handler: Any, lost: Callable[[Exception], None]) -> None:
        self._settings, self._handler, self._lost = settings, handler, lost
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._socket: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_due = self._is_full = False
        self._engine, self._events, self.connection = Transport(), Collector(), Connection()
        self._engine.max_frame_size = READ
        self.connection.collect(self._events)
        self.connection.container = uuid4().hex
        self.connection.hostname = settings.virtual_host or settings.host_name

    async def open(self) -> None:
        """Connect, and begin to log in; the broker's first answer shows whether it accepts that."""
        [target, *_], tls = self._settings.targets(), None
        if self._settings.uses_tls:
            tls = await asyncio.to_thread(ssl_context, self._settings)
        port = target.port or (5671 if tls else 5672)
        await self._loop.create_connection(lambda: self, target.host, port, ssl=tls)

    def connection_made(self, socket: asyncio.BaseTransport) -> None:
        assert isinstance(socket, asyncio.Transport)
        self._socket = socket
        user, password = self._settings.login
        login = self._engine.sasl()
        if user is not None:
            login.allowed_mechs("PLAIN")
            login.allow_insecure_mechs = True
            self.connection.user, self.connection.password = user, password or ""
        else:
            login.allowed_mechs("EXTERNAL" if self._settings.tls_cert_file else "ANONYMOUS")
        self._engine.bind(self.connection)
        self.connection.open()
        self.flush()

    def data_received(self, data: bytes) -> None:
        while data and (room := self._engine.capacity()) > 0:
            self._engine.push(data[:room])
            data = data[room:]
            self._dispatch()
        self.flush()
        if not self._timer and (silence := self._engine.remote_idle_timeout):
            self._keep_alive(silence / 4)

    def flush_soon(self) -> None:
        """Send what is to be sent, together with that of the loop's other callbacks in this turn."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what is to be sent, now."""
        self._is_due = False
        if self._socket is None:
            return
        self._dispatch()
        size = 0
        while not self._is_full and (size := self._engine.pending()) > 0:
            self._socket.write(self._engine.peek(size) or b"")
            self._engine.pop(size)
        if size < 0 and (self._engine.capacity() < 0 or self.connection.state & Endpoint.REMOTE_CLOSED):
            self._socket.close()

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        self._socket = None
        if self._timer:
            self._timer.cancel()
        self._ended.set_result(None)
        if condition := self._engine.condition:  # such as that the login failed
            error = error_of(condition)
        self._lost(error or ConnectionError("the broker has closed the connection"))

    async def close(self) -> None:
        """Say goodbye, if the broker hears it, and release the connection."""
        self.connection.close()
        self.flush()
        hears = bool(self.connection.state & Endpoint.REMOTE_ACTIVE)  # one that never answered will not do so now
        for patience in (0.4 if hears else 0, 0.4) if self._socket else ():
            await asyncio.wait((self._ended,), timeout=patience)
            if self._socket:
                self._socket.abort()

    def _dispatch(self) -> None:
        try:
            while event := self._events.peek():
                event.dispatch(self._handler)
                self._events.pop()
        except Exception as error:  # not itself: its traceback holds objects of proton's
            self._lost(ConnectionError(f"{type(error).__name__}: {error}"))

    def _keep_alive(self, period: float) -> None:
        self._engine.tick(self._loop.time())
        self.flush()
        self._timer = self._loop.call_later(period, self._keep_alive, period)

    def link(self, topic: str, receives: bool) -> Link:
        """Open a link, in a session of its own, that receives messages of `topic`, at most once, or sends them."""
        session = self.connection.session()
        session.open()
        link = session.receiver(uuid4().hex) if receives else session.sender(uuid4().hex)
        if receives:
            link.snd_settle_mode = Link.SND_SETTLED
        end = link.source if receives else link.target
        end.address = self._settings.address_of(topic, receives)
        end.capabilities.put_object(TOPIC)
        link.open()
        return link

    def make_subscription(self, topic: str) -> None:
        """Have Service Bus create this node's subscription to a topic, unless it is there; in another thread.

        Raises `SubscribeRefusedError` where there is no such topic, or the policy has no right to manage it.
        """
        self._manage("create", topic, {409}, default_message_time_to_live=KEPT, auto_delete_on_idle=KEPT)

    def delete_subscription(self, topic: str) -> None:
        """Have Service Bus delete this node's subscription to a topic, if it is there; in another thread."""
        self._manage("delete", topic, {404})

    def _manage(self, verb: str, topic: str, fine: set[int], **options: Any) -> None:
        from azure.core.exceptions import HttpResponseError  # the extra `azure`, which most servers do not need
        from azure.servicebus.management import ServiceBusAdministrationClient

        settings, (user, key) = self._settings, self._settings.login
        text = f"Endpoint=sb://{settings.management}/;SharedAccessKeyName={user};SharedAccessKey={key}"
        within = {"connection_timeout": settings.connect_timeout, "read_timeout": settings.connect_timeout}
        with tls_files(settings) as files:
            trusted = str(files.ca) if files.ca else get_default_verify_paths().cafile or True
            more: dict[str, Any] = {"connection_verify": trusted, "retry_total": 0, **within}
            with ServiceBusAdministrationClient.from_connection_string(text, **more) as client:
                act = client.create_subscription if verb == "create" else client.delete_subscription
                try:
                    act(settings.address_of(topic, False), settings.subscription or "", **options)
                except HttpResponseError as error:
                    if error.status_code not in fine:
                        kind = SubscribeRefusedError if error.status_code in REFUSALS else ConnectionError
                        text = f"the management of Service Bus answered {error.status_code}: {error.reason}"
                        raise kind(text) from None


def error_of(condition: Condition | None, refusal: type[Exception] = ConnectionError) -> Exception:
    """Return the broker's answer as an error: a refusal, or one that may pass."""
    if condition is None:
        return ConnectionError("the broker gave no reason")
    text = f"{condition.name}: {condition.description}"
    if condition.name == SHUT_OUT and refusal is ConnectionError:
        return ConnectError(text, refused=True)
    kind = MessageTooLargeError if any(name in text for name in LARGE) else refusal
    may_pass = condition.name in PASSING and not any(code in text for code in NO_RIGHT)
    return ConnectionError(text) if may_pass else kind(text)


def verdict(delivery: Delivery, server: str) -> Exception | None:
    """Return None if the broker has accepted a message, else the error."""
    if delivery.remote_state == Delivery.ACCEPTED:
        return None
    if delivery.remote_state == Delivery.REJECTED:
        return error_of(delivery.remote.condition or Condition("amqp:rejected"), PublishRefusedError)
    if delivery.remote_state == Delivery.RELEASED and server == "rabbitmq":
        return None  # it means that nobody has subscribed
    return ConnectionError("the broker gave the message back")


def payload_of(data: bytes) -> bytes:
    """Return the payload of a message; all that came, if it is not one of ours."""
    message = Message()
    try:
        message.decode(data)
    except ProtonException:
        return data
    body = message.body
    return bytes(body) if isinstance(body, bytes | memoryview) else data  # a copy, since its memory is freed
