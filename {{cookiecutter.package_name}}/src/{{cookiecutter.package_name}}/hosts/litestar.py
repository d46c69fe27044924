"""A back end for Litestar's channels: `ChannelsPlugin(backend=ConnectorChannelsBackend(settings))`."""

import asyncio
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from functools import partial
from typing import Any

from litestar.channels.backends.base import ChannelsBackend

from .. import Connector, Settings
from ..contract import ConnectorError
from .joining import Joined, start
from .losses import watch

ROOM = 256 * 1024
"""Bytes that may wait for the broker, and for Litestar, before publishers and the connector wait, too."""

MESSAGE_COST = 256
"""Bytes that are added for each message."""


class ConnectorChannelsBackend(ChannelsBackend):
    """Carries the channels of Litestar's `ChannelsPlugin` to all processes, through outages of the broker.

    All channels share one topic, `topic`, and each is a key there: with `shards`, a process gets the shards of the
    channels to which its clients listen. Clients of the process that publishes hear a message at once, those of other
    processes through the broker.

    `settings` are the connector's settings, or a function that returns them. Each start of the plugin makes a connector
    from them, since a closed one stays closed. The application starts even while the broker is away.

    `missed` is for clients that can fetch their state again: when messages of other processes are lost for good, each
    channel to which somebody listens here gets these bytes, like a message. Without it, a loss is only logged.
    """

    def __init__(
        self,
        settings: Settings | Callable[[], Settings | Awaitable[Settings]],
        topic: str = "litestar",
        *,
        missed: bytes | None = None,
    ) -> None:
        Connector(settings)  # raises at once if they are wrong
        self._settings = settings
        self._topic = topic
        self._missed = missed
        self._node: _Node | None = None

    @property
    def connector(self) -> Connector | None:
        """The connector while the plugin runs, for its `is_ready` and its `stats()`; None before and after."""
        return self._node.connector if self._node else None

    async def on_startup(self) -> None:
        """Connect; while the broker is away, go on trying. Do nothing if that has begun."""
        if self._node is None:
            self._node = _Node(Connector(self._settings), self._topic, self._missed)
            try:
                await start(self._node.connector)
            except BaseException:
                await self.on_shutdown()
                raise

    async def on_shutdown(self) -> None:
        """Send what was published, and leave; do nothing if that was done, or before the start."""
        node, self._node = self._node, None
        if node:
            await node.close()

    async def publish(self, data: bytes, channels: Iterable[str]) -> None:
        """Send `data` to all who listen to one of `channels`, once for each of these.

        Returns when the message has its place behind those published before, and there is room for more. What cannot
        be sent is logged, and reaches nobody: an exception would end the plugin's publishing for good.

        Raises:
            RuntimeError: before `on_startup`, and after `on_shutdown`.
        """
        await self._running.publish(data, channels)

    async def subscribe(self, channels: Iterable[str]) -> None:
        """Let `stream_events` return what is published on `channels`.

        Returns when messages of other processes arrive; during an outage, at once, and they arrive later.

        Raises:
            SubscribeRefusedError: the broker refused. It is tried again until the channels are unsubscribed.
            RuntimeError: before `on_startup`, and after `on_shutdown`.
        """
        await self._running.joined.join(*channels)

    async def unsubscribe(self, channels: Iterable[str]) -> None:
        """Let `stream_events` return nothing more from `channels`."""
        if self._node:
            await self._node.joined.leave(*channels)

    async def stream_events(self) -> AsyncGenerator[tuple[str, bytes], None]:
        """Return channel and data of each message on a subscribed channel.

        Raises:
            RuntimeError: before `on_startup`, and after `on_shutdown`.
        """
        node = self._running
        while True:
            for channel, data in await node.next_events():
                if channel in node.joined.keys:
                    yield channel, data

    async def get_history(self, channel: str, limit: int | None = None) -> list[bytes]:
        """Raise `NotImplementedError`: a broker for messages has no state to show, and keeps no history of a channel."""
        raise NotImplementedError(
            "A connector keeps no history of channels: send each client its state when it connects."
        )

    @property
    def _running(self) -> "_Node":
        if self._node is None:
            raise RuntimeError("The back end has not been started, or was shut down: the plugin calls on_startup().")
        return self._node


class _Node:
    """The state of one start of the plugin: the connector, the channels, and what waits for the plugin."""

    def __init__(self, connector: Connector, topic: str, missed: bytes | None) -> None:
        self.connector = connector
        self.joined = Joined(connector, topic, self._take)
        self._topic = topic
        self._missed = missed
        self._events: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue()
        """Channels and data; None means lost messages."""
        self._has_missed = False
        self._waiting = 0
        """Bytes in `events`."""
        self._unconfirmed = 0
        """Bytes that the broker has not confirmed."""
        self._moved = asyncio.Event()
        """Set when waiting tasks have to look again."""
        watch(connector, topic, self._lost)
        connector.on("error", lambda error: self._moved.set())  # nobody waits for a broker that is away

    async def close(self) -> None:
        """Send what waits; release everything, and all waiting tasks."""
        await self.connector.close()
        self._waiting = 0
        self._moved.set()

    async def publish(self, data: bytes, channels: Iterable[str]) -> None:
        """Hand a message to this node's clients and to the broker; wait for room then. Raise nothing."""
        size = len(data) + MESSAGE_COST
        try:
            packed = _pack(data)
            for channel in dict.fromkeys(channels):
                try:
                    self.connector.publish_nowait(self._topic, [channel, packed], partial(self._settled, size), channel)
                except ConnectorError as error:
                    self.connector.log_unsent(error)
                else:
                    self._unconfirmed += size
                    self._hand_out(channel, data)
        except Exception as error:
            self.connector.log_unsent(error)
        if self._unconfirmed > ROOM:
            await asyncio.sleep(0)  # even in an outage, when nothing waits for the broker
        while self._waiting > ROOM or (self._unconfirmed > ROOM and self.connector.is_ready):
            await self._move()

    async def next_events(self) -> Iterable[tuple[str, bytes]]:
        """Return what comes next, mostly one event, as soon as there is something."""
        event = await self._events.get()
        if event is None:
            self._has_missed = False
            return [(channel, self._missed or b"") for channel in self.joined.keys]
        self._waiting -= len(event[1]) + MESSAGE_COST
        if self._waiting <= ROOM:
            self._moved.set()
        return (event,)

    def _take(self, message: Any) -> Awaitable[None] | None:
        channel, packed = message
        self._hand_out(channel, _unpack(packed))
        return self._read() if self._waiting > ROOM else None

    async def _read(self) -> None:
        """Let the connector's queue wait, which is bounded, until this one has room."""
        while self._waiting > ROOM:
            await self._move()

    async def _move(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    def _hand_out(self, channel: str, data: bytes) -> None:
        if channel in self.joined.keys:
            self._waiting += len(data) + MESSAGE_COST
            self._events.put_nowait((channel, data))

    def _lost(self) -> None:
        if self._missed is not None and not self._has_missed:
            self._has_missed = True
            self._events.put_nowait(None)

    def _settled(self, size: int, error: ConnectorError | None) -> None:
        self._unconfirmed -= size
        if self._unconfirmed <= ROOM:
            self._moved.set()
        self.connector.log_unsent(error)


def _pack(data: bytes) -> str | list[str]:
    """Return a value of JSON: text where the bytes are UTF-8, which costs little, and a list with base64 otherwise."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return [b64encode(data).decode()]


def _unpack(packed: str | list[str]) -> bytes:
    """Return the bytes that were packed."""
    return packed.encode() if isinstance(packed, str) else b64decode(packed[0])
