"""The public face of a connector: its lifecycle, its operations, its events."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, TypedDict, overload
from uuid import uuid4

from ..about import BROKER_NAME, __version__
from .channels import Channels
from .codec import encode
from .errors import (
    ClosedError,
    ConnectError,
    ConnectionLostError,
    ConnectorError,
    ListenerError,
    NotReadyError,
    PublishError,
    SubscribeError,
    UnsubscribeError,
)
from .events import Events
from .inbox import Intake
from .link import CLOSING_TIME, Connection, Link, reason
from .listeners import Listener
from .outbox import Outbox, Settle
from .receipt import Receipt
from .settings import ConnectorSettings
from .topics import topic_fault
from .transport import S, Transport

Callback = Callable[[ConnectorError | None], object]
"""Called with the error of a publish, or None."""

Handler = Callable[..., Any]


class Stats(TypedDict):
    """Counters since the connector was made."""

    published: int
    """Messages that the broker accepted."""
    delivered: int
    """Messages that were handed to this node's listeners, each counted once."""
    filtered: int
    """Frames of this node's own that came back and were dropped."""
    lost: int
    """Messages of others that were reported as lost."""
    duplicates: int
    """Messages that came again and were dropped."""
    reconnects: int
    """Connections after the first."""
    pending: int
    """Messages that wait to be accepted now."""


class MessageConnector(Generic[S]):
    """Joins a node to the others through a broker.

    Events, with their arguments: `ready` (), after every connection; `error` (exception), for what is
    no operation's own error; `close` (), once. Use it from one event loop, the one of `connect()`.
    """

    transport: ClassVar[type[Transport[Any]]]
    """The blanks, filled in for a broker."""
    name = BROKER_NAME
    version = __version__

    def __init__(self, settings: S) -> None:
        if not isinstance(settings, ConnectorSettings):
            raise TypeError(f"settings must be Settings, not {type(settings).__name__}")
        self.settings = settings
        self.node_name = settings.node_name
        self._id = uuid4().bytes
        self._memory: dict[str, Any] = {}
        self._events = Events()
        self._link = Link(settings, self._make_connection, self._restore, self._up, self._down)
        self._channels = Channels(settings, self._link, self._report, self._forget)
        self._intake = Intake(self._id, self._channels.of, self._report)
        self._outbox = Outbox(settings, self._id)
        self._opening: asyncio.Task[None] | None = None
        self._openers = 0
        self._closing: asyncio.Task[None] | None = None
        self._connections = 0

    def __repr__(self) -> str:
        state = "closed" if self._closing else "ready" if self.is_ready else "not ready"
        return f"<{self.name} connector {self.node_name!r} at {self.settings.where}, {state}>"

    @property
    def is_ready(self) -> bool:
        """Whether messages come and go now."""
        return self._link.is_up and self._closing is None

    def stats(self) -> Stats:
        """Return the counters of this moment."""
        intake, outbox = self._intake, self._outbox
        return Stats(
            published=outbox.published,
            delivered=intake.delivered,
            filtered=intake.filtered,
            lost=intake.lost,
            duplicates=intake.duplicates,
            reconnects=max(self._connections - 1, 0),
            pending=outbox.pending,
        )

    @overload
    def on(self, event: str) -> Callable[[Handler], Handler]: ...
    @overload
    def on(self, event: str, handler: Handler) -> Handler: ...
    def on(self, event: str, handler: Handler | None = None) -> Any:
        """Call `handler`, a function or a coroutine function, at each `event`; also a decorator."""
        return self._events.on(event) if handler is None else self._events.on(event, handler)

    def once(self, event: str, handler: Handler | None = None) -> Any:
        """Call `handler` at the next `event` only; also a decorator."""
        return self._events.once(event, handler)

    def remove_listener(self, event: str, handler: Handler) -> None:
        """Take back what `on` or `once` did; `KeyError` if they did not."""
        self._events.remove_listener(event, handler)

    async def connect(self) -> None:
        """Connect, and stay connected until `close()`; do nothing if that is so already.

        Returns after `ready` was emitted. While the connector is reconnecting, waits for it. Raises
        `ConnectError` after `connect_timeout` at the latest; then nothing is left open, and it can be
        called again. Raises `ClosedError` after `close()`. Cancelling undoes the attempt.
        """
        self._check_open()
        if self._connections:
            await self._wait_until_up()
            return
        while self._opening and self._opening.cancelling():
            await asyncio.wait((self._opening,))
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open())
        opening = self._opening
        self._openers += 1
        try:
            await asyncio.wait((opening,))
        except asyncio.CancelledError:
            if self._openers == 1:
                opening.cancel()
                await asyncio.wait((opening,))
            raise
        finally:
            self._openers -= 1
        if opening.cancelled():
            raise self._closed()
        opening.result()

    def publish(self, topic: str, message: Any) -> Coroutine[Any, Any, None]:
        """Send `message`, any JSON value, to all other nodes that are subscribed to `topic`.

        The message is taken as it is at this call, and keeps its place behind those published before.
        What is returned, to be awaited, returns when the broker has accepted the message. It raises
        `NotReadyError`, `ClosedError`, `SerializationError`, `MessageTooLargeError` or
        `OutboxFullError` for a message that was not taken; and `PublishError` if the broker refused
        it, or did not confirm it within `publish_timeout`, outages included. Cancelling ends the
        waiting, not the sending.
        """
        try:
            receipt = Receipt(loop=self._prepare(topic))
            self._outbox.add(topic, encode(self.settings.serialization, message), receipt.settle)
        except ConnectorError as error:
            return _raise(error)
        return receipt

    def publish_nowait(self, topic: str, message: Any, callback: Callback | None = None) -> None:
        """Send like `publish`, without waiting.

        Raises at once what is known at once: all that `publish` raises but `PublishError` for what the
        broker says. What comes later goes to `callback(error_or_None)`, or without one, if it is an
        error, to the `error` event.
        """
        self._prepare(topic)
        settle: Settle = self._report_failure if callback is None else partial(self._call_back, callback)
        self._outbox.add(topic, encode(self.settings.serialization, message), settle)

    async def subscribe(self, topic: str, listener: Listener) -> None:
        """Have `listener(message)`, sync or async, called for what other nodes publish on `topic`.

        Returns when that is so; during an outage, when the connection is back. A listener that is
        subscribed to the topic already is not added again. Raises `SubscribeError` if the broker
        refused, or did not answer within `publish_timeout`; `NotReadyError`; `ClosedError`. Then, and
        when cancelled, the listener is not subscribed.
        """
        self._check_connected()
        if fault := topic_fault(topic):
            raise SubscribeError(f"{fault}.")
        if not callable(listener):
            raise SubscribeError(f"listener = {listener!r}: must be callable with one message.")
        await self._channels.subscribe(str(topic), listener)

    async def unsubscribe(self, topic: str, listener: Listener) -> None:
        """Call `listener` no more for messages on `topic`, from now on.

        Returns when the broker, if this was the topic's last listener, has been told. Raises
        `UnsubscribeError` if the listener is not subscribed, or the broker objects; `NotReadyError`;
        `ClosedError`. When cancelled, the listener is unsubscribed all the same.
        """
        self._check_connected()
        if fault := topic_fault(topic):
            raise UnsubscribeError(f"{fault}.")
        await self._channels.unsubscribe(str(topic), listener)

    async def close(self) -> None:
        """Send what waits to be sent, let listeners finish, and release everything, for good.

        Waits for the broker to accept what was published, `publish_timeout` at most; without a
        connection, what waits fails at once with `ClosedError`. Listeners have a second for what has
        arrived. Returns after `close` was emitted; may be called at any time, more than once, and by a
        listener. Cancelling ends the waiting, not the closing.
        """
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        elif self._is_in_listener():
            return
        await asyncio.wait((self._closing,))
        self._closing.result()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _open(self) -> None:
        try:
            try:
                await self._link.open()
                return
            except Exception as error:
                failure = reason(error)
            raise self._unreachable(self.settings.describe(failure)) from self.settings.cause(failure)
        finally:
            self._opening = None

    async def _wait_until_up(self) -> None:
        try:
            async with asyncio.timeout(self.settings.connect_timeout):
                await self._link.up()
        except TimeoutError:
            raise self._unreachable("the connection was lost, and could not be restored yet") from None

    async def _close(self) -> None:
        if self._opening:
            self._opening.cancel()
            await asyncio.wait((self._opening,))
        if self._link.is_up:
            await self._outbox.drain()
        await self._outbox.fail(self._closed)
        await self._link.close()
        await self._channels.close(CLOSING_TIME)
        self._events.emit("close")

    def _make_connection(self) -> Connection[S]:
        return Connection(self.transport, self.settings, self._memory, self._intake.take)

    async def _restore(self, connection: Connection[S]) -> None:
        await self._channels.restore(connection)

    def _up(self, connection: Connection[S]) -> None:
        self._connections += 1
        self._outbox.resume(connection)
        self._events.emit("ready")

    def _down(self, error: Exception) -> None:
        self._outbox.pause()
        lost = ConnectionLostError(
            f"The connection to {self.settings.where} was lost: {self.settings.describe(error)}. It is being restored; "
            "until then publishing waits. Check the broker and the network if this lasts."
        )
        lost.__cause__ = error
        self._report(lost)

    def _forget(self, topic: str) -> None:
        self._intake.forget(topic)
        self._memory.pop(topic, None)

    def _report(self, error: Exception) -> None:
        """Emit an `error` event that shows no secret."""
        error.args = (self.settings.redact(str(error)),)
        if error.__cause__:
            error.__cause__ = self.settings.cause(error.__cause__)
        self._events.report(error)

    def _report_failure(self, error: ConnectorError | None) -> None:
        if error:
            self._report(error)

    def _call_back(self, callback: Callback, error: ConnectorError | None) -> None:
        try:
            callback(error)
        except (Exception, asyncio.CancelledError) as raised:
            complaint = ListenerError(f"The callback {callback!r} of a publish raised {raised!r}; mend the callback.")
            complaint.__cause__ = raised
            self._report(complaint)

    def _prepare(self, topic: str) -> asyncio.AbstractEventLoop:
        self._check_connected()
        if fault := topic_fault(topic):
            raise PublishError(f"{fault}.")
        return asyncio.get_running_loop()

    def _check_open(self) -> None:
        if self._closing:
            raise self._closed()

    def _check_connected(self) -> None:
        self._check_open()
        if not self._connections:
            raise NotReadyError(f"The connector to {self.settings.where} is not connected: await connect() first.")

    def _is_in_listener(self) -> bool:
        return any(each.is_calling_us() for each in self._channels)

    def _closed(self) -> ClosedError:
        return ClosedError(f"The connector to {self.settings.where} is closed: make a new one.")

    def _unreachable(self, why: str) -> ConnectError:
        return ConnectError(
            f"Cannot connect to {self.settings.where} within connect_timeout = {self.settings.connect_timeout:g} s: "
            f"{why}. Check that the broker runs there, and user and password if it asks for them."
        )


async def _raise(error: ConnectorError) -> None:
    raise error
