"""Channels across nodes for servers with plain websockets or server-sent events: Starlette, FastAPI, Quart, aiohttp."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import chain
from types import TracebackType
from typing import Any, Self

from .. import Connector
from ..contract import ClosedError, NotReadyError, Receipt
from ..contract.serialization import as_it_arrives
from .joining import Joined, start
from .losses import watch


class Missed(Exception):
    """Events are missing: a client that needs all of them must fetch its state again."""


class Fanout:
    """Delivers what any node publishes to a channel to all subscribers of that channel on all nodes.

        async with Fanout(Connector(Settings())) as fanout:
            async with fanout.subscribe("room 1") as events:
                await fanout.publish("room 1", {"text": "hello"})
                print(await anext(events))

    All channels share `topic` of the connector, which is connected and closed with the block. With `shards`, a channel is
    the key of its messages, and the broker is asked only for the shards to whose channels somebody subscribes here.

    At most `max_pending` events wait for one subscriber. `Missed` tells a subscriber that it missed events; other
    errors of the connector are logged.
    """

    def __init__(self, connector: Connector, topic: str = "fanout", max_pending: int = 1000) -> None:
        if max_pending < 1:
            raise ValueError(f"max_pending = {max_pending}: must be at least 1")
        self._connector = connector
        self._topic = topic
        self._most = max_pending
        self._channels: dict[str, set[Events]] = {}
        self._joined = Joined(connector, topic, self._take)
        self._is_sharded = False
        self._is_over = False
        watch(connector, topic, self._missed)

    async def __aenter__(self) -> Self:
        """Connect, and take what other nodes publish from now on; while the broker is away, go on trying.

        Raises:
            SubscribeRefusedError: the broker refused. The connector is closed.
            ClosedError: the connector was closed before.
        """
        try:
            await start(self._connector)
            with suppress(NotReadyError):  # the settings come from a function, and are not known yet
                self._is_sharded = self._connector.settings.shards > 1
            await self._joined.join(*(self._channels if self._is_sharded else (None,)))
        except BaseException:
            await self._connector.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connector, and end all subscriptions."""
        await self._connector.close()
        self._is_over = True
        for events in self._all():
            events.end()

    async def publish(self, channel: str, message: Any) -> None:
        """Send `message`, any JSON value, to all subscribers of `channel`; return when the broker has accepted it.

        This node's subscribers get it at once, in the order of the calls. Cancelling ends the wait, not the sending.

        Raises what `publish` of the connector raises. After a `PublishError`, subscribers of this node have got it;
        those of other nodes have it as well, or are told that they missed it.
        """
        receipt = Receipt()
        self._publish(channel, message, receipt.settle)
        await receipt

    def publish_nowait(self, channel: str, message: Any) -> None:
        """Send like `publish`, without waiting: in an outage, the message is sent when the broker is back.

        Raises known errors at once, as the connector does. Later ones are logged, at most one line a second.
        """
        self._publish(channel, message, self._connector.log_unsent)

    @asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncIterator["Events"]:
        """Get with `async for` what is published to `channel`, from when the block is entered until it is left.

        With `shards`, the block is entered when the broker delivers the channel; in an outage at once, and the broker
        delivers later.

        Raises:
            ClosedError: the block of the `Fanout` was left.
            SubscribeRefusedError: with `shards`, the broker refused.
            TypeError: `channel` is not a text.
        """
        if not isinstance(channel, str):
            raise TypeError(f"channel = {channel!r}: must be a str")
        if self._is_over:
            raise ClosedError("The Fanout is closed: create a new one.")
        events = Events(self._most)
        self._channels.setdefault(channel, set()).add(events)
        try:
            if self._is_sharded:
                await self._joined.join(channel)
            yield events
        finally:
            events.end()
            left = self._channels[channel]
            left.discard(events)
            if not left:
                del self._channels[channel]
                if self._is_sharded:
                    await self._joined.leave(channel)

    def _publish(self, channel: str, message: Any, callback: Callable[[Exception | None], object]) -> None:
        self._connector.publish_nowait(self._topic, [channel, message], callback, key=channel)
        if channel in self._channels:
            self._hand(channel, message if type(message) is str else as_it_arrives(message))

    def _take(self, message: Any) -> None:
        channel, event = message
        self._hand(channel, event)

    def _hand(self, channel: str, event: Any) -> None:
        for events in self._channels.get(channel, ()):
            events.put(event)

    def _missed(self) -> None:
        for events in self._all():
            events.miss()

    def _all(self) -> Iterator["Events"]:
        return chain.from_iterable(self._channels.values())


class Events:
    """The events that wait for one subscriber, to be taken with `async for` or `anext`.

    The iteration ends when the block of `subscribe` or of the `Fanout` is left, after the events that had arrived.
    Cancelling the wait loses no event. Several subscribers get the same objects: change none.

    Raises:
        Missed: events are missing here. Either `max_pending` were waiting, and were dropped, or they could not be
            repaired after an outage. The iteration can go on, with the events that came later.
        ClosedError: the iteration had ended, and is begun again.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[Any] = deque()
        self._news = asyncio.Event()
        self._is_over = False
        self._has_ended = False

    def __aiter__(self) -> Self:
        if self._has_ended:  # a loop that goes on after every `Missed` would block the event loop otherwise
            raise ClosedError("The subscription is over: subscribe again.")
        return self

    async def __anext__(self) -> Any:
        while not self._waiting:
            if self._is_over:
                self._has_ended = True
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        event = self._waiting.popleft()
        if event is Missed:
            raise Missed("Events were lost: fetch the state again, and go on.")
        return event

    def put(self, event: Any) -> None:
        """Add an event; if too many wait, the subscriber has missed them."""
        if len(self._waiting) >= self._most:
            self._waiting.clear()
            self.miss()
        self._waiting.append(event)
        self._news.set()

    def miss(self) -> None:
        """Note that events are missing here."""
        if not self._waiting or self._waiting[-1] is not Missed:
            self._waiting.append(Missed)
            self._news.set()

    def end(self) -> None:
        """End the iteration, once all that waits was handed out."""
        self._is_over = True
        self._news.set()
