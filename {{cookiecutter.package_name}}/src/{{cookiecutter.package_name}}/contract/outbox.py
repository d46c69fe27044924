"""Published messages, from `publish` to the broker's answer: the tasks and timers around the numbers of `sending`."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any, Generic

from .connection import Call, Connection, Lost
from .errors import (
    ConnectorError,
    MessageTooLargeError,
    OutboxFullError,
    PublishRefusedError,
    PublishUnconfirmedError,
)
from .link import Link
from .sending import ACCEPTED, MESSAGE_COST, Lane, Outcome, Sender, Verdict
from .settings import ConnectorSettings
from .shards import Shards
from .transport import S

Settle = Callable[[ConnectorError | None], object]
"""Called once with the error of a publish, or with None when the broker has accepted the message; raises nothing."""


LOOKS = 10
"""How often the clock is checked while a message waits, so that a block of the loop is noticed whenever it comes."""


class Outbox(Generic[S]):
    """Takes serialised messages, sends them one frame of a topic at a time, and settles each.

    `tell` is called with the lanes whose numbers are to be announced to other nodes.
    """

    def __init__(
        self, settings: ConnectorSettings, sender: Sender, link: Link[S], tell: Callable[[list[Lane]], None]
    ) -> None:
        self._settings = settings
        self._sender = sender
        self._link = link
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._time = self._loop.time
        self._timeout = settings.publish_timeout
        self._shards = Shards(settings.shards)
        self._connection: Connection[S] | None = None
        self._calls: dict[Lane, Call | None] = {}
        self._resting: dict[Lane, asyncio.Handle] = {}
        """Lanes that send nothing now, though no frame is in flight: the last one failed, or more is to join."""
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = self._expected = inf
        """When the alarm goes off; and when it would go off if the loop were never blocked."""
        self._emptied: asyncio.Future[None] | None = None
        self._handing = threading.RLock()
        """Held by a thread that hands over, never by the event loop's: a signal handler may be waiting for the loop."""
        self._handed: deque[tuple[str, bytes, Settle]] = deque()
        """Messages that were handed over, until the loop takes them."""
        self._handed_bytes = self._taken_bytes = 0
        """The bytes ever handed over, and those of them that the event loop has taken."""
        self._is_told = False
        """Whether the event loop is about to take those."""
        self._is_shut = False
        self.published = 0

    @property
    def pending(self) -> int:
        """How many messages are not settled."""
        return self._sender.pending + len(self._handed)

    def add(self, topic: str, data: bytes, settle: Settle) -> None:
        """Take one message, after all that were handed over; raise `OutboxFullError` if there is no room for it."""
        if self._handed:
            self._add_handed()
        if self._sender.bytes + len(data) + MESSAGE_COST > self._settings.max_outbox_bytes:
            raise self._full(data)
        self._add(topic, data, settle)

    def _add(self, topic: str, data: bytes, settle: Settle) -> None:
        now, timeout = self._time(), self._timeout
        if now > self._expected:
            self._notice_block(now)
        lane = self._sender.add(topic, data, now, now + timeout, settle)
        if (look := now + timeout / LOOKS) < self._alarm_at:
            self._set_alarm(look)
        if lane not in self._calls:
            self._start(lane, now)

    def hand(self, topic: str, data: bytes, settle: Settle) -> bool:
        """Take one message on another thread, like `add`; return whether it was taken, as all are until `shut`.

        If the event loop takes one at the same moment, there is one more than there is room for.
        """
        size = len(data) + MESSAGE_COST
        handed = (topic, data, settle)
        with self._handing:
            while True:
                taken = self._taken_bytes  # first, so that what is taken meanwhile counts twice rather than not at all
                if self._handed_bytes - taken + self._sender.bytes + size <= self._settings.max_outbox_bytes:
                    break
                if taken == self._taken_bytes:
                    raise self._full(data)
            self._handed_bytes += size
            self._handed.append(handed)
            if not self._is_told:
                self._is_told = True
                with suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._take)
        if self._is_shut:
            with suppress(ValueError):  # `shut` has come later, and has taken it
                self._handed.remove(handed)
                return False
        return True

    def _take(self) -> None:
        self._is_told = False  # first, so that nothing that is handed over meanwhile is overlooked
        if not self._is_shut:
            self._add_handed()

    def shut(self) -> None:
        """Let nothing more be handed over."""
        self._is_shut = True
        self._add_handed()

    def _add_handed(self) -> None:
        for _ in range(len(self._handed)):
            topic, data, settle = self._handed.popleft()
            self._add(topic, data, settle)
            self._taken_bytes += len(data) + MESSAGE_COST

    def start(self, lane: Lane) -> None:
        """Send what a lane has to send, unless a frame of it is in flight."""
        self._start(lane, self._time())

    def _start(self, lane: Lane, now: float) -> None:
        connection, calls = self._connection, self._calls
        if not connection or lane in calls or lane in self._resting:
            return
        calls[lane] = None
        payload, outcomes = self._sender.load(lane, now)
        if payload is None:
            del calls[lane]
        else:
            publish = connection.publish(lane.topic, payload)
            calls[lane] = connection.perform(publish, self._timeout, partial(self._landed, lane), now)
        if outcomes:
            self._settle(outcomes)

    def resume(self, connection: Connection[S]) -> None:
        """Send what waits over a new connection, first what the last one left unconfirmed."""
        self._connection = connection
        lanes = self._sender.resume(connection.transport.max_frame_bytes, self._time())
        self._set_alarm(self._sender.next_due)
        for lane in lanes:
            self.start(lane)

    def release(self) -> None:
        """Send what was held."""
        self._sender.is_held = False
        for lane in list(self._sender.busy):
            self.start(lane)

    def pause(self) -> None:
        """Send nothing until the next connection, and keep nobody waiting in `drain`."""
        self._connection = None
        for call in self._calls.values():
            if call:
                call.give_up()
        for timer in self._resting.values():
            timer.cancel()
        outcomes = self._sender.pause(self._time(), self._resting)
        self._calls.clear()
        self._resting.clear()
        self._settle(outcomes)
        if self._emptied and not self._emptied.done():
            self._emptied.set_result(None)

    async def drain(self) -> None:
        """Return when every message is settled, or the connection is gone."""
        if self._sender.pending:
            self._emptied = self._loop.create_future()
            await self._emptied

    async def fail(self, error: Callable[[], ConnectorError]) -> None:
        """Settle all that is left with an error, for good."""
        if self._alarm:
            self._alarm.cancel()
        for messages in self._sender.fail():
            for message in messages:
                message.receipt(error())
            await asyncio.sleep(0)

    def _landed(self, lane: Lane, error: Exception | None) -> None:
        del self._calls[lane]
        if isinstance(error, Lost):
            return
        outcomes = self._sender.landed(lane, error, self._time())
        if error and not isinstance(error, PublishRefusedError | MessageTooLargeError):
            self._resting[lane] = self._loop.call_later(self._settings.reconnect_delay_min, self._rested, lane)
        self._settle(outcomes)
        if outcomes and len(outcomes[0].messages) > 1 and lane not in self._resting and lane not in self._calls:
            # The publishers that waited for these messages have the next ones ready in a moment: those leave together.
            self._resting[lane] = self._loop.call_soon(self._rested, lane)
        if lane in self._sender.busy or lane.has_repairs:
            self.start(lane)
        if lane.scheduled < self._alarm_at:
            self._set_alarm(lane.scheduled)

    def _rested(self, lane: Lane) -> None:
        del self._resting[lane]
        self.start(lane)

    def _settle(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            messages = outcome.messages
            if outcome.verdict is ACCEPTED:
                self.published += len(messages)
                for message in messages:
                    message.receipt(None)
            else:
                for message in messages:
                    message.receipt(self._error(outcome, len(message.data)))
        if self._emptied and not self._sender.pending and not self._emptied.done():
            self._emptied.set_result(None)

    def _set_alarm(self, when: float) -> None:
        if self._alarm:
            self._alarm.cancel()
            self._alarm = None
        self._alarm_at = self._expected = when
        if when < inf:
            self._alarm = self._loop.call_at(when, self._due)

    def _notice_block(self, now: float) -> None:
        """Give waiting messages more time if the alarm is late, since the host has blocked the loop."""
        late = now - self._expected
        if late > self._timeout / 100:
            self._expected = now
            self._sender.excuse(late)

    def _due(self) -> None:
        """Do what is due: give up messages whose time is over, and announce numbers."""
        now = self._time()
        self._notice_block(now)
        self._alarm, self._alarm_at, self._expected = None, inf, inf
        if not self._calls:
            self._calls = {}  # a dict keeps the memory that it once needed
        due = self._sender.due(now)
        for lane in due.given_up:
            if call := self._calls.pop(lane, None):
                call.give_up()
        self._settle(due.outcomes)
        for lane in due.given_up:
            self.start(lane)
        if due.told:
            self._tell(due.told)
        if self._sender.next_due < self._alarm_at or self._sender.pending:
            # The rest comes after other tasks have had their turn.
            look = now + self._timeout / LOOKS if self._sender.pending else inf
            self._set_alarm(min(max(self._sender.next_due, now), look))

    def _full(self, data: bytes) -> OutboxFullError:
        return OutboxFullError(
            f"{self.pending} messages wait to be sent to {self._link.where}; this one, of {len(data)} "
            f"bytes, would exceed max_outbox_bytes = {self._settings.max_outbox_bytes} ({MESSAGE_COST} bytes are added for "
            "each message). Publish more slowly, or raise the limit."
        )

    def _error(self, outcome: Outcome, size: int) -> ConnectorError:
        where, topic = self._link.where, self._shards.coarse(outcome.topic)
        if outcome.verdict is Verdict.REFUSED:
            kind: Any = type(outcome.why)
            text = (
                f"{where} refused a message to topic {topic!r}: {self._describe(outcome.why)}. "
                "Check the topic, the message's size, and the rights of the user at the broker."
            )
            return MessageTooLargeError(text) if issubclass(kind, MessageTooLargeError) else kind(text, topic=topic)
        if outcome.verdict is Verdict.TOO_LARGE:
            return MessageTooLargeError(
                f"A message to topic {topic!r} has {size} bytes. {where} takes at most {self._sender.largest}, "
                "or drops the connection each time this message arrives. Send smaller messages."
            )
        if failure := self._link.last_failure:
            why = f"there is no connection to it ({failure})"
        elif outcome.why:
            why = f"the last attempt failed with {self._describe(outcome.why)}"
        else:
            why = "it does not answer, or too slowly"
        return PublishUnconfirmedError(
            f"{where} did not confirm a message to topic {topic!r} within publish_timeout = {self._timeout:g} s: {why}. "
            "Each node that misses it gets a MessagesLostError.",
            topic=topic,
        )

    def _describe(self, error: BaseException | None) -> str:
        return self._link.describe(error or RuntimeError())
