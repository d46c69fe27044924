"""One bounded, ordered queue for each listener, so that none delays another."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from inspect import isawaitable
from math import inf
from typing import Any, Self

from . import tasks
from .errors import ListenerError, SlowListenerError
from .events import shown
from .floods import Flood, Report, counted
from .serialization import Serialization
from .settings import ConnectorSettings

Listener = Callable[[Any], Any]
"""Called with each message; its result is awaited if it can be."""

SLICE = 0.01
"""Seconds for which all listeners of a connector together may work in one turn of the event loop."""

KEPT_DECODED = 1024 * 1024
"""How many bytes of bodies may wait for a listener before a frame is kept as its body alone, not decoded."""

_call: ContextVar[object] = ContextVar("call", default=None)
"""Identifies the call of a listener that we run in, even in the tasks that it has started."""


class Batch:
    """The messages of one frame on one topic.

    `body` holds `count` messages, at least one. The first `skip` of them are known already. All were published at the
    event loop's time `published`, in seconds, or before. `messages` is the decoded body, if somebody has decoded it.
    """

    __slots__ = ("body", "count", "messages", "published", "serialization", "skip", "unit")

    def __init__(
        self,
        serialization: Serialization,
        body: bytes,
        count: int,
        published: float,
        messages: list[Any] | None = None,
        skip: int = 0,
    ) -> None:
        self.serialization = serialization
        self.body = body
        self.count = count
        self.published = published
        self.messages = messages
        self.skip = skip
        self.unit = -(-len(body) // count)
        """The bytes that count for one message: the average, rounded up."""


class Turns:
    """Shares the time of the event loop among the listeners of a connector.

    A listener that has worked beyond `end` awaits `wait`. While one does, each new listener does so, too, and one of
    them goes on in each turn of the loop. So ten listeners of a large message decode it in ten turns, not in one.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.end = -inf
        """The event loop's time at which the present slice ends."""
        self._line: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Begin a slice, unless others wait for one; return whether it begins."""
        if self._line:
            return False
        self.end = self.loop.time() + SLICE
        return True

    async def wait(self) -> None:
        """Line up with the others, for a slice of `SLICE` seconds."""
        place = self.loop.create_future()
        if not self._line:
            self.loop.call_soon(self._next)
        self._line.append(place)
        await place

    def _next(self) -> None:
        self.end = self.loop.time() + SLICE
        while self._line:
            place = self._line.popleft()
            if not place.done():  # done: its listener was stopped
                place.set_result(None)
                break
        if self._line:
            self.loop.call_soon(self._next)


class Pending:
    """The messages of `topic` that wait for one listener; the broker delivers them on `topics`.

    Beyond `max_pending_messages` or `max_pending_bytes` the oldest are dropped, and a `SlowListenerError` counts them.
    No message is taken until `live` is set, and none that was published before `since`, in the event loop's time.
    """

    def __init__(
        self,
        topic: str,
        topics: tuple[str, ...],
        listener: object,
        settings: ConnectorSettings,
        report: Report,
        turns: Turns,
    ) -> None:
        self.topic = topic
        self.topics = topics
        self.listener = listener
        self.keys: set[str | None] = set()
        """The keys for which the listener was subscribed; None stands for all."""
        self.live = False
        self.since = -inf
        self._most = settings.max_pending_messages
        self._most_bytes = settings.max_pending_bytes
        self._report = report
        self._turns = turns
        self._slow = Flood(report, self._slow_error)
        self._messages: deque[Any] = deque()  # decoded; older than those in batches
        self._unit = 0  # the bytes that count for each of them
        self._batches: deque[tuple[Batch, list[Any] | None]] = deque()
        self._dropped = 0  # messages of the first batch that were dropped
        self._count = 0  # messages in all batches
        self._bytes = 0
        self._has_turn_ahead = False

    @property
    def waiting(self) -> int:
        """The number of messages that wait."""
        return self._count + len(self._messages)

    @property
    def waiting_bytes(self) -> int:
        """The bytes of bodies that wait; a frame's bytes are shared out evenly among its messages."""
        return self._bytes + len(self._messages) * self._unit

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits, and the listener is not at work."""
        return not self.waiting

    def put(self, batch: Batch) -> None:
        """Queue the messages of one frame; the first listener gets the decoded ones."""
        if not self.live or batch.published < self.since:
            return
        messages, batch.messages = batch.messages, None
        self._batches.append((batch, messages if self._bytes < KEPT_DECODED else None))
        count = batch.count - batch.skip
        self._count += count
        self._bytes += count * batch.unit
        self._wake()
        self._plan_trim()

    def is_calling_us(self) -> bool:
        """Tell whether this runs in a call of the listener that is awaited now, or in a task that the call started."""
        return False

    def stop(self) -> None:
        """Give the listener nothing more; a running call of it ends by itself."""
        self.live = False
        self._clear()
        self._slow.flush()

    async def finish(self, within: float) -> None:
        """Take no more messages, and give the listener `within` seconds for those that wait."""
        self.live = False
        self._slow.flush()

    def _wake(self) -> None:
        """See that the listener gets the messages that wait."""
        raise NotImplementedError

    def _load(self) -> bool:
        """Decode the next batch if no decoded messages are left; return whether there are any now."""
        while self._batches and not self._messages:
            batch, messages = self._batches.popleft()
            skip, self._dropped = batch.skip + self._dropped, 0
            left = batch.count - skip
            self._count -= left
            self._bytes -= left * batch.unit
            self._unit = batch.unit
            if messages is None:
                messages = batch.serialization.copy(batch.body)
            self._messages.extend(messages[skip:] if skip else messages)
        return bool(self._messages)

    def _clear(self) -> None:
        self._messages.clear()
        self._batches.clear()
        self._dropped = self._count = self._bytes = 0

    def _is_too_much(self) -> bool:
        left = len(self._messages)
        return self._count + left > self._most or self._bytes + left * self._unit > self._most_bytes

    def _plan_trim(self) -> None:
        """Trim after the listener's turn, since only what a slow listener leaves is too much."""
        if self._count > self._most or self._bytes > self._most_bytes or (self._messages and self._is_too_much()):
            self._turns.loop.call_soon(self._trim)

    async def _wait_for_first_slice(self) -> None:
        """Begin a slice for an idle listener, or wait for one; until then the listener is not slow."""
        if not self._turns.take():
            self._has_turn_ahead = True
            try:
                await self._turns.wait()
            finally:
                self._has_turn_ahead = False
                self._plan_trim()

    def _trim(self) -> None:
        """Drop the oldest messages beyond the limits."""
        if self._has_turn_ahead and (len(self._batches) == 1 or self.waiting_bytes <= self._most_bytes):
            return  # other listeners are at work; this one has had no turn, so it is not slow
        dropped = 0
        while self._is_too_much():
            dropped += self._drop()
        if dropped:
            self._slow.add(dropped)

    def _drop(self) -> int:
        """Drop as many messages of the oldest frame as need be; return how many."""
        batch = None if self._messages else self._batches[0][0]
        unit = batch.unit if batch else self._unit
        left = batch.count - batch.skip - self._dropped if batch else len(self._messages)
        count = max(self.waiting - self._most, -(-(self.waiting_bytes - self._most_bytes) // unit))
        count = min(count, left)
        if batch is None:
            for _ in range(count):
                self._messages.popleft()
            return count
        self._count -= count
        self._bytes -= count * unit
        self._dropped += count
        if count == left:
            self._batches.popleft()
            self._dropped = 0
        return count

    def _slow_error(self, count: int) -> SlowListenerError:
        return SlowListenerError(
            f"The listener {_name(self.listener)} on topic {self.topic!r} is too slow and missed {counted(count)}, "
            "the oldest that waited for it. Make it faster, or raise max_pending_messages "
            f"({self._most}) or max_pending_bytes ({self._most_bytes}).",
            topic=self.topic,
            count=count,
        )


class Subscription(Pending):
    """Calls `listener` with the messages of `topic`, one after another.

    It does so in a task, which ends when no message waits. Whatever the listener raises is reported as a
    `ListenerError`. If the listener cancels the task, that is reported, too, and a new task gets the messages left.
    """

    listener: Listener

    def __init__(
        self,
        topic: str,
        topics: tuple[str, ...],
        listener: Listener,
        settings: ConnectorSettings,
        report: Report,
        turns: Turns,
    ) -> None:
        super().__init__(topic, topics, listener, settings, report, turns)
        self._worker: asyncio.Task[None] | None = None
        self._running: object = None
        self._is_cut = False

    @property
    def is_idle(self) -> bool:
        return (self._worker is None or self._worker.done()) and not (self._messages or self._batches)

    def is_calling_us(self) -> bool:
        return self._running is not None and self._running is _call.get()

    async def finish(self, within: float) -> None:
        """Take no more messages, and give the listener `within` seconds for those that wait.

        A listener that has not finished by then is cancelled, and has `within` seconds to end. A listener that calls
        this is not waited for.
        """
        await super().finish(within)
        if self.is_calling_us():
            self._clear()
            return
        if self._messages or self._batches:
            self._wake()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        while self._worker and not self._worker.done() and (left := deadline - loop.time()) > 0:
            await asyncio.wait((self._worker,), timeout=left)
        if self._worker:
            self._is_cut = True
            self._clear()
            self._worker.cancel()
            await asyncio.wait((self._worker,), timeout=within)
        self._slow.flush()

    def _wake(self) -> None:
        if self._worker is None or self._worker.done():  # done: cancelled before it began
            self._worker = tasks.start(self._work(), self._turns.loop)

    async def _work(self) -> None:
        turns, messages, listener, worker = self._turns, self._messages, self.listener, self._worker
        assert worker is not None
        loop = turns.loop
        time, cancelling = loop.time, worker.cancelling
        try:
            if time() > turns.end:
                await self._wait_for_first_slice()
            # A new object for each call costs 0.1 µs, so calls that are not awaited, and end at once, share one.
            _call.set(call := object())
            while messages or (self._batches and self._load()):
                try:
                    result = listener(messages.popleft())
                    if result is not None and isawaitable(result):
                        self._running = call
                        try:
                            await result
                        finally:
                            self._running = None
                            _call.set(call := object())
                except BaseException as error:
                    if loop.is_closed():
                        raise  # the interpreter throws away a task that nobody ended
                    self._complain(error)
                    if cancelling():
                        return
                else:
                    if cancelling():
                        self._complain(asyncio.CancelledError("it cancelled its own task"))
                        return
                if time() > turns.end:
                    await turns.wait()
        finally:
            self._worker = None
            if (messages or self._batches) and not loop.is_closed():
                self._wake()

    def _complain(self, error: BaseException) -> None:
        if self._is_cut and isinstance(error, asyncio.CancelledError):
            return
        complaint = ListenerError(
            f"The listener {_name(self.listener)} on topic {self.topic!r} raised {shown(error)}. "
            "The listener does not get this message again; fix the listener."
        )
        complaint.__cause__ = error
        self._report(complaint)


class PulledSubscription(Pending):
    """Hands out the messages of `topic` to `async for`.

    The iteration ends at once after `stop`. After `finish` it ends when the messages that had arrived are handed out.
    Several tasks may iterate at the same time: each message goes to one of them. Cancelling loses no message.
    """

    def __init__(
        self, topic: str, topics: tuple[str, ...], settings: ConnectorSettings, report: Report, turns: Turns
    ) -> None:
        super().__init__(topic, topics, self, settings, report, turns)
        self._arrived = asyncio.Event()
        self._is_over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        turns = self._turns
        time = turns.loop.time
        if time() > turns.end:
            await turns.wait()
        while not (self._messages or self._load()):
            if self._is_over:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
            if time() > turns.end:
                await self._wait_for_first_slice()
        return self._messages.popleft()

    def stop(self) -> None:
        super().stop()
        self._end()

    async def finish(self, within: float) -> None:
        """Take no more messages; those that wait can still be fetched, at any time."""
        await super().finish(within)
        self._end()

    def _end(self) -> None:
        self._is_over = True
        self._arrived.set()

    def _wake(self) -> None:
        self._arrived.set()


def _name(listener: object) -> str:
    return shown(listener, lambda named: getattr(named, "__qualname__", None) or repr(named))
