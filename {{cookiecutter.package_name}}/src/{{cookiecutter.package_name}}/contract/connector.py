"""The public face of a connector: its lifecycle, its operations, its events."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from inspect import iscoroutinefunction
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, ClassVar, Generic, Self, TypedDict, cast, overload

from . import errors, serialization, tasks
from .connection import CLOSING_TIME, Connection
from .errors import (
    ClosedError,
    ConnectError,
    ConnectionLostError,
    ConnectorError,
    ListenerError,
    NotReadyError,
    PublishRefusedError,
    SubscribeRefusedError,
    UnsubscribeError,
)
from .events import Events, Handler, shown
from .identity import Identity, NodeName
from .link import Link
from .listeners import Listener
from .node_inbox import NodeInbox
from .outbox import Outbox, Settle
from .receipt import Receipt
from .receiving import Receiver
from .repair import Repair
from .sending import Sender
from .settings import ConnectorSettings
from .shards import Shards, key_fault
from .subscriptions import Subscriptions
from .topics import text_of, topic_fault
from .transport import S, Transport
from .wire import Signer

Callback = Callable[[ConnectorError | None], object]
"""Called with the error of a publish, or None."""

CONTRACT_VERSION = Path(__file__).with_name("VERSION").read_text(encoding="utf-8").strip()


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
    repaired: int
    """Messages of others that were missed at first, and delivered when they were sent again."""
    duplicates: int
    """Messages that came again and were dropped."""
    reconnects: int
    """Connections after the first."""
    pending: int
    """Messages that now wait to be accepted."""


class Node(Generic[S]):
    """The parts of a connector that belong to one identity; `limits` are the settings that never change."""

    def __init__(
        self,
        identity: Identity,
        limits: S,
        link: Link[S],
        default_serialization: str,
        keeps_messages: bool,
        topic_memory: dict[str, Any],
        report: Callable[[Exception], None],
    ) -> None:
        self.identity = identity
        self.limits = limits
        self.shards = Shards(limits.shards)
        self.is_sharded = limits.shards > 1
        self.control = self.shards.coarse(limits.control_topic)
        self.serialization = serialization.by_name(limits.serialization or default_serialization)
        sender = Sender(
            identity.sender,
            self.serialization,
            limits.max_history_bytes,
            limits.heartbeat,
            limits.forget_after,
            limits.max_message_bytes,
            limits.shards,
            keeps_messages,
        )
        patience = 2 * limits.heartbeat + limits.reconnect_delay_max + limits.connect_timeout + limits.publish_timeout
        self.receiver = Receiver(limits.heartbeat, patience)
        self.subscriptions: Subscriptions[S] = Subscriptions(
            limits,
            link,
            report,
            on_begin=lambda topic: self.receiver.listen(topic, self.subscriptions.called_at(topic)),
            on_live=lambda topic: self.repair.ask_numbers(topic),
            on_left=self._left,
            settled=lambda topic: self.repair.settled(topic),
        )
        self.inbox = NodeInbox(limits, identity.sender, self.receiver, self.subscriptions.of, report)
        self.repair: Repair[S] = Repair(limits, sender, self.receiver, self.inbox.handle, self.subscriptions.behind)
        self.outbox: Outbox[S] = Outbox(limits, sender, link, self.repair.tell)
        self.inbox.repair, self.repair.outbox = self.repair, self.outbox
        self.connections = 0
        self.sender = sender
        self._topic_memory = topic_memory

    async def restore(self, connection: Connection[S], settings: S) -> None:
        """Bring a new connection to where the last one was."""
        self.sender.signer = self.inbox.signer = Signer(settings.cluster_keys)
        await self.repair.restore(connection)
        await self.subscriptions.restore(connection)

    def resume(self, connection: Connection[S]) -> None:
        """Go on, on a new connection."""
        self.connections += 1
        self.repair.resume(connection, self.connections == 1)
        self.outbox.resume(connection)

    def pause(self) -> None:
        """Wait for the next connection."""
        self.repair.pause()
        self.outbox.pause()

    def _left(self, topic: str) -> None:
        self.inbox.forget(topic)
        if not self.subscriptions.is_delivered(topic):
            self._topic_memory.pop(topic, None)


class MessageConnector(Generic[S]):
    """Joins a node to the others through a broker.

    `settings` are the settings, or a function, sync or async, that returns them; it is called before each attempt to
    connect, so that passwords, tokens and addresses may change. Limits and timeouts stay as they were at first.

    Events, with their arguments: `ready` (), after every connection; `error` (exception), for errors
    that belong to no operation; `close` (), once.

    A connector belongs to the process and the event loop in which it first connects. Any call from elsewhere raises
    `RuntimeError`.
    """

    transport_class: ClassVar[type[Transport[Any]]]
    """The blanks, filled in for a broker."""
    Settings: ClassVar[type[ConnectorSettings]]
    errors: ClassVar[ModuleType] = errors
    """The module with all exception classes."""
    name: ClassVar[str]
    """The name of the broker."""
    version: ClassVar[str]
    """The version of the package."""
    contract_version: ClassVar[str] = CONTRACT_VERSION
    default_serialization: ClassVar[str] = "json"
    """How messages are serialised unless the settings say otherwise."""

    def __init__(self, settings: S | Callable[[], S | Awaitable[S]]) -> None:
        if not isinstance(settings, ConnectorSettings) and not callable(settings):
            raise TypeError(
                f"settings must be Settings, or a function that returns them, not {type(settings).__name__}"
            )
        self._source = settings
        self._memory: dict[str, Any] = {}
        self._topic_memory: dict[str, Any] = {}
        self._events = Events()
        self._name = NodeName()
        self._identity: Identity | None = None
        self._link: Link[S] | None = None
        self._node: Node[S] | None = None
        self._is_started = False
        self._is_open = False
        """Whether operations are taken: from the first connection or `start()` on, until `close()`."""
        self._opening: asyncio.Task[None] | None = None
        self._openers = 0
        self._closing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = "closed" if self._closing else "ready" if self.is_ready else "not ready"
        return f"<{self.name} connector {self.node_name!r} at {self._where}, {state}>"

    @property
    def settings(self) -> S:
        """The settings of the last attempt to connect; `NotReadyError` if a function has not returned any yet."""
        if settings := self._known_settings:
            return settings
        raise NotReadyError("The settings are not known before the first attempt to connect.")

    @property
    def node_name(self) -> str:
        """This node's name, which its private topic carries; drawn at random at its first use, unless it is set."""
        settings = self._known_settings
        return (settings and settings.node_name) or self._name.get()

    @property
    def is_ready(self) -> bool:
        """Whether messages flow now."""
        return self._closing is None and self._node is not None and self._link is not None and self._link.is_up

    def stats(self) -> Stats:
        """Return the present counters."""
        if self._node is None:
            return Stats(
                published=0, delivered=0, filtered=0, lost=0, repaired=0, duplicates=0, reconnects=0, pending=0
            )
        inbox, outbox = self._node.inbox, self._node.outbox
        return Stats(
            published=outbox.published,
            delivered=inbox.delivered,
            filtered=inbox.filtered,
            lost=inbox.lost,
            repaired=inbox.repaired,
            duplicates=self._node.receiver.duplicates,
            reconnects=max(self._node.connections - 1, 0),
            pending=outbox.pending,
        )

    @overload
    def on(self, event: str) -> Callable[[Handler], Handler]: ...
    @overload
    def on(self, event: str, handler: Handler) -> Handler: ...
    def on(self, event: str, handler: Handler | None = None) -> Any:
        """Call `handler`, a function or a coroutine function, at each `event`; also a decorator."""
        return self._events.on(event, handler)

    def once(self, event: str, handler: Handler | None = None) -> Any:
        """Call `handler` at the next `event` only; also a decorator."""
        return self._events.once(event, handler)

    def remove_listener(self, event: str, handler: Handler) -> None:
        """Take back what `on` or `once` did; `KeyError` if they did not."""
        self._events.remove_listener(event, handler)

    def log_unsent(self, error: Exception | None) -> None:
        """Log how many messages may be lost: at once, then once a second at most, and when the connector closes.

        A callback for `publish_nowait`. A host also calls it with what that raised, if its users must not see it.
        """
        if error:
            self._events.log_unsent(error)

    async def connect(self) -> None:
        """Connect, and stay connected until `close()`; do nothing if already connected.

        Returns after `ready` was emitted. While the connector is reconnecting, and after `start()`, waits for that.
        Cancelling undoes the attempt.

        Raises:
            ConnectError: no connection within `connect_timeout`. Nothing is left open, and this can be called again.
            ClosedError: `close()` was called.
            RuntimeError: the connector belongs to another event loop or process.
        """
        self._check_open()
        if self._is_started or (self._node and self._node.connections):
            await self._wait_until_up()
            return
        while self._opening and self._opening.cancelling():
            await asyncio.wait((self._opening,))
            self._check_open()
        if self._opening is None:
            self._identity = Identity()
            self._opening = tasks.start(self._open())
        opening = self._opening
        self._openers += 1
        try:
            await asyncio.wait((opening,))
        except asyncio.CancelledError:
            if self._openers == 1 and not opening.done():
                opening.cancel()
                await asyncio.wait((opening,))
            raise
        finally:
            self._openers -= 1
        if opening.cancelled():
            raise self._closed()
        opening.result()

    def start(self) -> None:
        """Connect in the background, and stay connected until `close()`; do nothing if that has begun.

        Returns at once, even if the broker cannot be reached. Until the first connection, everything is as in an
        outage: publishing and subscribing wait, and `error` events say what is wrong. If `settings` is a coroutine
        function, limits and timeouts have their defaults.

        Raises:
            ClosedError: `close()` was called.
            RuntimeError: no event loop runs, or the connector belongs to another one or to another process.
        """
        self._check_open()
        if self._is_started or self._opening or self._node:
            return
        self._identity = Identity()
        self._is_started = self._is_open = True
        source, limits = first_settings(self._source, self.Settings)
        self._link = self._make_link(source)
        self._make_node(self._link, cast(S, limits))
        self._link.start()

    def publish(self, topic: str, message: Any, key: str | None = None) -> Coroutine[Any, Any, None]:
        """Send `message`, any JSON value, to all other nodes that are subscribed to `topic`.

        The message is taken as it is at this call. It stays behind those published before with the same key or, if it
        has none, behind those without one. With `shards` = 1, the key has no effect.
        The awaitable returns when the broker has accepted the message. Cancelling ends the wait, not the
        sending.

        Raises, when awaited:
            NotReadyError, ClosedError: before `connect()` or `start()`; after `close()`.
            SerializationError, MessageTooLargeError, OutboxFullError: the message was not taken.
            PublishRefusedError: the broker refused the message: nobody gets it.
            PublishUnconfirmedError: the broker did not confirm it within `publish_timeout`, outages included.

        Raises at once:
            RuntimeError: the connector belongs to another event loop or process.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return self._publish_from_outside(topic, message, key)
        try:
            node = self._node
            if node is None or not self._is_open or loop is not node.identity.loop:
                node = self._connected()  # which says what is wrong
            if type(topic) is not str or topic not in node.sender.lanes or node.is_sharded or key is not None:
                topic = self._place(node, topic, key)
            data = node.serialization.encode(message, node.sender.largest)
            receipt = Receipt(loop=loop)
            node.outbox.add(topic, data, receipt.settle)
        except ConnectorError as error:
            return _raise(error)
        return receipt

    def publish_nowait(
        self, topic: str, message: Any, callback: Callback | None = None, key: str | None = None
    ) -> None:
        """Send like `publish`, without waiting.

        Raises known errors at once: all that `publish` raises, except a `PublishError` for the broker's
        answer. The later outcome goes to `callback(error_or_None)`. Without one, a later error goes to
        the `error` event, and without a handler of that to `log_unsent`.
        """
        node = self._connected()
        node.outbox.add(*self._prepared(node, topic, message, callback, key))

    async def subscribe(self, topic: str, listener: Listener, key: str | None = None) -> None:
        """Call `listener(message)`, sync or async, for what other nodes publish on `topic`.

        With a key, the listener gets the messages of that key's shard: those with this key, and with others. A listener
        with several keys of one shard gets each message once. With and without a key, it counts as two listeners.

        Returns when the listener is subscribed; during an outage, when the connection is back. A listener
        that is already subscribed to the topic is not added again. If this call raises or is cancelled, the listener
        is not subscribed.

        Raises:
            SubscribeRefusedError: the broker refused.
            SubscribeUnconfirmedError: the broker did not confirm within `publish_timeout`.
            NotReadyError, ClosedError, RuntimeError: as for `publish`.
        """
        node = self._connected()
        text = self._subscribable(topic, key)
        if not callable(listener):
            raise SubscribeRefusedError(f"listener = {shown(listener)}: must be callable with one message.", topic=text)
        await node.subscriptions.subscribe(text, listener, key)

    @asynccontextmanager
    async def messages(self, topic: str, key: str | None = None) -> AsyncIterator[AsyncIterator[Any]]:
        """Subscribe to `topic`, or to the shard of a key, for the time of a block, and get messages with `async for`.

        The subscription is live when the block is entered. Limits apply as for a listener. The iteration
        ends with the block, or after `close()` with the last message that had arrived.

        Raises what `subscribe` and `unsubscribe` raise.
        """
        node = self._connected()
        pulled = node.subscriptions.pulled(self._subscribable(topic, key), key)
        await node.subscriptions.add(pulled)
        try:
            yield pulled
        finally:
            await node.subscriptions.remove(pulled)

    async def unsubscribe(self, topic: str, listener: Listener, key: str | None = None) -> None:
        """Stop calling `listener` for messages on `topic`, from now on.

        With keys, the calls stop once each key of the shard for which the listener was subscribed is unsubscribed.

        Returns when the broker, if this was the topic's last listener, has been told. Cancelling ends the wait, not the
        unsubscribing.

        Raises:
            UnsubscribeError: the listener is not subscribed with this key, or the broker objects.
            NotReadyError, ClosedError, RuntimeError: as for `publish`.
        """
        node = self._connected()
        if fault := topic_fault(topic) or key_fault(key):
            raise UnsubscribeError(f"{fault}.")
        await node.subscriptions.unsubscribe(text_of(topic), listener, key)

    async def close(self) -> None:
        """Send the waiting messages, let listeners finish, and release everything, for good.

        Waits for the broker to accept what was published, `publish_timeout` at most; without a
        connection, waiting messages fail with `ClosedError`. Listeners have a second for what has
        arrived. Returns after `close` was emitted; may be called at any time, more than once, and by a
        listener. Cancelling ends the wait, not the closing.
        """
        if self._closing is None:
            if self._identity:
                self._identity.check()
            self._is_open = False
            if self._node:
                self._node.outbox.shut()
            self._closing = tasks.start(self._close())
        elif self._closing.done() or self._is_called_by_us():
            return
        elif self._identity:
            self._identity.check()
        await asyncio.wait((self._closing,))
        self._closing.result()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # Connections.

    async def _open(self) -> None:
        try:
            self._link = self._make_link(self._source)
            await self._link.open()
        except BaseException:
            self._identity = self._node = None
            self._is_open = False
            self._memory.clear()
            self._topic_memory.clear()
            raise
        finally:
            self._opening = None

    async def _wait_until_up(self) -> None:
        assert self._link
        timeout = (self._node.limits if self._node else self.settings).connect_timeout
        try:
            async with asyncio.timeout(timeout):
                await self._link.up()
        except TimeoutError:
            why = self._link.last_failure or "the connection was lost, and could not be restored yet"
            raise ConnectError(
                f"Could not connect to {self._where} within connect_timeout = {timeout:g} s: {why}. The connector keeps "
                "trying; check that the broker runs there, and user and password if it asks for them."
            ) from None

    async def _close(self) -> None:
        if self._opening:
            self._opening.cancel()
            await asyncio.wait((self._opening,))
        node, link = self._node, self._link
        if node and link:
            if link.is_up:
                await node.outbox.drain()
            if link.is_up:
                await node.repair.leave()
            node.pause()
            await link.close()
            await node.subscriptions.close(CLOSING_TIME)
            node.inbox.close()
            await node.outbox.fail(self._closed)
        self._events.emit("close")
        await self._events.close()

    def _make_link(self, source: Any) -> Link[S]:
        return Link(
            self.transport_class,
            source,
            self._memory,
            self._topic_memory,
            self._received,
            self._restore,
            self._up,
            self._down,
            self._report,
        )

    def _make_node(self, link: Link[S], limits: S) -> Node[S]:
        assert self._identity
        keeps_messages = self.transport_class.keeps_messages
        self._node = Node(
            self._identity,
            limits,
            link,
            self.default_serialization,
            keeps_messages,
            self._topic_memory,
            self._report,
        )
        return self._node

    def _received(self, topic: str, payload: bytes) -> None:
        if self._node:
            self._node.inbox.received(topic, payload)

    async def _restore(self, connection: Connection[S]) -> None:
        assert self._link
        node = self._node or self._make_node(self._link, self.settings)
        await node.restore(connection, self.settings)

    def _up(self, connection: Connection[S], settings: S) -> None:
        assert self._node
        self._is_open = self._closing is None
        self._node.resume(connection)
        self._events.ready(settings.where)

    def _down(self, error: Exception) -> None:
        assert self._node
        self._node.pause()
        if self._closing:
            return  # nothing is restored any more
        settings = self.settings
        lost = ConnectionLostError(
            f"The connection to {settings.where} was lost: {settings.describe(error)}. Reconnecting; "
            "publishing waits. If this lasts, check the broker and the network."
        )
        lost.__cause__ = error
        self._report(lost)

    # Errors.

    def _report(self, error: Exception) -> None:
        """Emit an `error` event that shows no secret."""
        if error.__cause__ and (settings := self._known_settings):
            error.__cause__ = settings.cause(error.__cause__)
        self._events.report(error)

    def _report_failure(self, error: ConnectorError | None) -> None:
        if error and not self._events.emit("error", error):
            self.log_unsent(error)

    def _call_back(self, callback: Callback, error: ConnectorError | None) -> None:
        try:
            callback(error)
        except BaseException as raised:
            complaint = ListenerError(
                f"The callback {shown(callback)} of a publish raised {shown(raised)}; fix the callback."
            )
            complaint.__cause__ = raised
            self._report(complaint)

    # Other threads.

    def hand_over(self, topic: str, message: Any, callback: Callback | None, key: str | None) -> None:
        """Do what `publish_nowait` does, on another thread. For `BlockingConnector`."""
        node = self._node
        if node is None:
            raise self._not_ready()
        if not node.outbox.hand(*self._prepared(node, topic, message, callback, key)):
            raise self._closed()

    # Checks.

    def _prepared(
        self, node: Node[S], topic: str, message: Any, callback: Callback | None, key: str | None
    ) -> tuple[str, bytes, Settle]:
        """Return what the outbox takes."""
        if type(topic) is not str or topic not in node.sender.lanes or node.is_sharded or key is not None:
            topic = self._place(node, topic, key)
        settle: Settle = self._report_failure if callback is None else partial(self._call_back, callback)
        return topic, node.serialization.encode(message, node.sender.largest), settle

    def _publish_from_outside(self, topic: str, message: Any, key: str | None) -> Coroutine[Any, Any, None]:
        """Take a message where no event loop runs, for `run_coroutine_threadsafe`."""
        node = self._node
        if node is None:
            return _raise(NotReadyError(f"The connector to {self._where} is not connected: await connect() first."))
        try:
            data = node.serialization.encode(message, node.sender.largest)
        except ConnectorError as error:
            return _raise(error)
        return self._publish_data(topic, data, key)

    async def _publish_data(self, topic: str, data: bytes, key: str | None) -> None:
        node = self._connected()
        receipt = Receipt(loop=node.identity.loop)
        node.outbox.add(self._place(node, topic, key), data, receipt.settle)
        await receipt

    def _place(self, node: Node[S], topic: str, key: str | None) -> str:
        """Return the broker's topic for a message.

        This is not called for a topic without shards on which the node has published before.
        """
        if fault := self._fault(topic) or key_fault(key):
            raise PublishRefusedError(f"{fault}.", topic=topic if isinstance(topic, str) else "")
        return node.shards.topic(text_of(topic), key)

    def _subscribable(self, topic: str, key: str | None) -> str:
        if fault := self._fault(topic) or key_fault(key):
            raise SubscribeRefusedError(f"{fault}.", topic=topic if isinstance(topic, str) else "")
        return text_of(topic)

    def _fault(self, topic: str) -> str | None:
        if fault := topic_fault(topic):
            return fault
        node = self._node
        if node and topic == node.control:
            return f"topic = {topic!r}: is the cluster's own (control_topic)"
        if node and node.is_sharded and node.shards.is_reserved(topic):
            return f"topic = {topic!r}: is the name of a shard of a topic (shards = {node.shards.number})"
        return None

    def _check_open(self) -> None:
        if self._identity:
            self._identity.check()
        if self._closing:
            raise self._closed()

    def _connected(self) -> Node[S]:
        if self._identity:
            self._identity.check()
        if self._closing:
            raise self._closed()
        node = self._node
        if node is None or not self._is_open:
            raise self._not_ready()
        return node

    def _is_called_by_us(self) -> bool:
        in_listener = self._node and any(each.is_calling_us() for each in self._node.subscriptions)
        return bool(in_listener) or self._events.is_calling_us()

    @property
    def _known_settings(self) -> S | None:
        if self._link and self._link.settings:
            return self._link.settings
        return self._source if isinstance(self._source, ConnectorSettings) else None

    @property
    def _where(self) -> str:
        settings = self._known_settings
        return settings.where if settings else "the broker"

    def _not_ready(self) -> NotReadyError:
        return NotReadyError(f"The connector to {self._where} is not connected: await connect(), or call start().")

    def _closed(self) -> ClosedError:
        return ClosedError(f"The connector to {self._where} is closed: create a new one.")


def first_settings(source: Any, kind: type[ConnectorSettings]) -> tuple[Any, ConnectorSettings]:
    """Return a source and the settings that it will return first, if that can be known without waiting.

    Otherwise the settings are the defaults.
    """
    if isinstance(source, ConnectorSettings):
        return source, source
    defaults = kind.model_construct()
    if iscoroutinefunction(source):
        return source, defaults
    first: list[Any] = []
    try:
        first.append(source())
    except (Exception, SystemExit):
        return source, defaults  # the first attempt says what is wrong
    is_known = isinstance(first[0], ConnectorSettings)
    return lambda: first.pop() if first else source(), first[0] if is_known else defaults


async def _raise(error: BaseException) -> None:
    raise error
