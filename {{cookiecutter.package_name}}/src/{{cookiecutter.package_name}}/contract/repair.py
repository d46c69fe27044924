"""The control topic: tasks and timers to announce numbers, ask for missing messages, and recover after a loss."""

import asyncio
import logging
import os
import random
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from math import inf
from typing import Generic

from msgspec.structs import replace

from . import tasks
from .connection import Again, Call, Connection, Lost
from .errors import PublishRefusedError, SubscribeRefusedError
from .outbox import Outbox
from .receiving import Effect, Receiver
from .sending import AT_A_TIME, Lane, Sender
from .settings import ConnectorSettings
from .shards import Shards
from .transport import S
from .wire import ANSWERS, Control, Count, Frame, Question, overhead

logger = logging.getLogger(__name__.partition(".")[0])

ANSWER_DELAY = 0.02
"""The longest delay, in seconds, before a node answers a request for its numbers, so that one answer serves many."""

HOLD = 1.0
"""Seconds for which messages are held at most after a loss, until the other nodes are back."""

AHEAD = 1024
"""How many messages may wait for a listener when more are asked for."""
POLL = 0.01
"""Seconds between looks at a listener that is behind."""

PEERS = 4096
"""For how many nodes this one waits after a loss, and remembers the quickest frame."""

RECENT = 60.0
"""Seconds for which the quickest frame of a node is the measure for its others. Later, clocks have drifted apart."""

ENTRY_BYTES = 24 * 1024
"""The most bytes of entries of each of three kinds in a control frame."""
ENTRY_COST = 60
"""The bytes of an entry besides the name of its topic."""

LOSSES = 3
"""How many times in a row the broker may drop the connection when we subscribe to the control topic, before that counts
as a refusal."""


class Repair(Generic[S]):
    """One node's part on the control topic.

    Whatever waits to be said leaves together: one control frame is in flight at a time. `handle` is called with the
    effects of others' answers and numbers; `behind` returns how many messages wait for the slowest listener.
    """

    def __init__(
        self,
        settings: ConnectorSettings,
        sender: Sender,
        receiver: Receiver,
        handle: Callable[[list[Effect]], None],
        behind: Callable[[str], int],
    ) -> None:
        self._settings = settings
        self._shards = Shards(settings.shards)
        self._sender = sender
        self._receiver = receiver
        self._handle = handle
        self._behind = behind
        self._loop = asyncio.get_running_loop()
        self.outbox: Outbox[S]
        self.topic = settings.control_topic
        self._connection: Connection[S] | None = None
        self._has_topic = False
        """Whether the broker lets us use the control topic on this connection."""
        self._losses = 0
        self._has_complained = False
        self._peers: dict[bytes, None] = {}
        self._quickest: dict[bytes, tuple[float, float]] = {}
        """By node: our time less its clock in the quickest of its recent frames, and when that frame came."""
        self._awaited: dict[bytes, None] = {}
        """The nodes for which messages are held."""
        self._late: dict[bytes, None] = {}
        """The nodes that were not back in time, and so have not heard what we asked."""
        self._hold: asyncio.TimerHandle | None = None
        self._call: Call | None = None
        self._counts: dict[str, Count] = {}
        self._wanted: dict[str, None] = {}
        """Topics on which we ask the others for their numbers."""
        self._questions: list[tuple[Question, float]] = []
        """With the times at which they were made."""
        self._is_back = False
        self._asked: dict[str, None] = {}
        """Topics on which others have asked for our numbers."""
        self._must_answer = False
        self._answer: asyncio.Handle | None = None
        self._asking: asyncio.TimerHandle | None = None
        self._asking_at = inf
        self._settling: list[asyncio.Future[None]] = []
        self._said: asyncio.Future[None] | None = None

    # Connections.

    async def restore(self, connection: Connection[S]) -> None:
        """Subscribe to the control topic; where the broker refuses that, say so once, and work without repair.

        Raises `Again` if that cost the connection.
        """
        self._has_topic = False
        if connection.transport.keeps_messages:
            return
        if self._losses == LOSSES:
            self._losses = 0  # the next connection asks for it again
            self._do_without("each request for it ended the connection")
            return
        try:
            await connection.call(connection.transport.subscribe(self.topic), self._settings.publish_timeout)
        except Lost as loss:
            self._losses += 1
            raise Again from loss.__cause__
        except SubscribeRefusedError as refusal:
            self._do_without(connection.transport.settings.describe(refusal))
            return
        self._losses = 0
        self._has_topic = True

    def resume(self, connection: Connection[S], is_first: bool) -> None:
        """Begin on a new connection; after a loss, hold messages until the nodes that were heard before are back."""
        self._connection = connection
        self._sender.answers = self._receiver.can_ask = self._has_topic
        if connection.transport.keeps_messages:
            return
        if self._has_topic:
            self._wanted.update(dict.fromkeys(self._receiver.topics))
            self._is_back = not is_first
            self._say()
        if is_first:
            return
        self._receiver.resume(self._loop.time())
        self.arm()
        if self._has_topic:
            self._awaited = dict(self._peers)
        if self._awaited or not self._has_topic:
            self._sender.is_held = True
            self._hold = self._loop.call_later(HOLD, self._release)

    def pause(self) -> None:
        """Say nothing until the next connection."""
        self._connection = None
        for timer in (self._hold, self._answer, self._asking):
            if timer:
                timer.cancel()
        self._hold = self._answer = self._asking = None
        self._asking_at = inf
        if self._call:
            self._call.give_up()
            self._call = None
        for waiting in (self._counts, self._wanted, self._questions, self._asked, self._awaited, self._late):
            waiting.clear()
        self._is_back = self._must_answer = False
        self._sender.is_held = False
        if self._said:
            tasks.settle(self._said, None)

    async def leave(self) -> None:
        """Tell the others, within a heartbeat, the last numbers, and that this node answers no more questions."""
        if self._connection is None or not self._sender.answers:
            return
        self._counts.update({count.topic: count for count in self._sender.all_counts(self._loop.time())})
        heartbeat = self._settings.heartbeat
        try:
            async with asyncio.timeout(heartbeat):
                while self._connection and (self._call or self._has_something):
                    self._said = self._loop.create_future()
                    self._say()
                    await self._said
                if connection := self._connection:
                    payload = self._sender.pack_control(self.topic, Control(is_leaving=True))
                    await connection.call(connection.publish(self.topic, payload), heartbeat)
        except Exception as error:
            logger.debug("The other nodes were not told that this one is leaving: %s.", type(error).__name__)

    # What this node says.

    def tell(self, lanes: Iterable[Lane]) -> None:
        """Tell the others how far this node has come on some topics."""
        if self._sender.answers:
            now = self._loop.time()
            self._counts.update({lane.topic: self._sender.count(lane, now) for lane in lanes})
            self._say()
            return
        # Nodes with fewer shards hear only the first ones, and must learn there that theirs are fewer.
        for topic in dict.fromkeys(name for lane in lanes for name in (lane.topic, self._shards.coarse(lane.topic))):
            lane = self._sender.lane(topic, self._loop.time())
            lane.owes_count = True
            self.outbox.start(lane)

    def ask_numbers(self, topic: str) -> None:
        """Ask the others how far they have come on a topic."""
        if self._connection and self._receiver.can_ask:
            self._wanted[topic] = None
            if len(self._wanted) == 1:
                self._loop.call_soon(self._say)

    def arm(self) -> None:
        """See that questions are asked in time."""
        due = self._receiver.next_due
        if due < self._asking_at and self._connection:
            if self._asking:
                self._asking.cancel()
            self._asking_at = due
            self._asking = self._loop.call_at(due, self._ask)

    async def settled(self, topic: str) -> None:
        """Return when no repair is in flight on a topic, and the others have announced their numbers after a loss."""
        while self._hold or self._receiver.has_gaps(topic):
            waiter = self._loop.create_future()
            self._settling.append(waiter)
            await waiter

    def changed(self) -> None:
        """Called when a missing message has arrived, or a new gap has been noticed."""
        self._receiver.has_changed = False
        waiters, self._settling = self._settling, []
        for waiter in waiters:
            tasks.settle(waiter, None)
        self.arm()

    # What the others say.

    def take(self, frame: Frame, control: Control) -> list[Effect]:
        """Take a control frame of another node; return what it has brought."""
        now = self._loop.time()
        delay = self._delay(frame.sender, control.clock, now)
        self._heard(frame.sender)
        answers = bool(frame.flags & ANSWERS)
        effects = self._receiver.told(frame.sender, control.counts, answers, now)
        for question in control.questions:
            if question.target == self._sender.id:
                self.outbox.start(self._sender.asked(_older(question, delay), now))
            else:
                self._receiver.overheard(question, now)
        if control.is_leaving:
            self._peers.pop(frame.sender, None)
            self._quickest.pop(frame.sender, None)
            self._receiver.left(frame.sender, now)
        if control.is_back:
            self._receiver.returned(frame.sender, now)
        if control.topics or control.is_back:
            self._asked.update(dict.fromkeys(control.topics))
            self._must_answer |= control.is_back
            if self._answer is None:
                self._answer = self._loop.call_later(random.uniform(0, ANSWER_DELAY), self._answer_numbers)
        return effects

    def _delay(self, sender: bytes, clock: int | None, now: float) -> float:
        """Return how many seconds longer a frame took than the quickest recent frame of its node.

        It is 0 for a frame without a clock, and at most a heartbeat.
        """
        if clock is None:
            return 0.0
        offset = now - clock / 1_000_000
        quickest, came = self._quickest.get(sender, (offset, now))
        if offset <= quickest or now - came > RECENT:
            quickest = offset
            self._quickest[sender] = offset, now
            if len(self._quickest) > PEERS:
                del self._quickest[next(iter(self._quickest))]
        return min(offset - quickest, self._settings.heartbeat)

    def _heard(self, sender: bytes) -> None:
        if len(self._peers) < PEERS:
            self._peers[sender] = None
        if sender in self._awaited:
            del self._awaited[sender]
            if not self._awaited:
                self._release()
        if sender in self._late:
            del self._late[sender]
            self._wanted.update(dict.fromkeys(self._receiver.topics))
            self._say()

    def _release(self) -> None:
        """Send what was held; a node that did not come back in time is not waited for again."""
        for peer in self._awaited:
            self._peers.pop(peer, None)
            self._late[peer] = None
        self._awaited.clear()
        if self._hold:
            self._hold.cancel()
            self._hold = None
        self.outbox.release()
        self.changed()

    def _answer_numbers(self) -> None:
        self._answer = None
        topics = list(islice(self._asked, AT_A_TIME))
        for topic in topics:
            del self._asked[topic]
        self._counts.update({count.topic: count for count in self._sender.counts(topics, self._loop.time())})
        if self._asked:
            self._answer = self._loop.call_soon(self._answer_numbers)
        self._say()

    def _ask(self) -> None:
        self._asking = None
        self._asking_at = inf
        now = self._loop.time()
        gaps, effects = self._receiver.due(now)
        for gap in gaps:
            if self._behind(gap.topic.name) > AHEAD:
                self._receiver.postpone(gap, now, POLL)
            else:
                self._questions.append((self._receiver.ask(gap, int.from_bytes(os.urandom(8), "big"), now), now))
        self._say()
        self._handle(effects)
        self.arm()

    # The control frames.

    @property
    def _has_something(self) -> bool:
        waits = self._counts or self._wanted or self._questions or self._is_back or self._must_answer
        return self._has_topic and bool(waits)

    def _say(self) -> None:
        """Send what waits to be said, unless a control frame is in flight."""
        connection = self._connection
        if connection is None or self._call or not self._has_something:
            if self._said and not self._call:
                tasks.settle(self._said, None)
            return
        most = connection.transport.max_frame_bytes
        room = ENTRY_BYTES if most is None else min(ENTRY_BYTES, (most - overhead(0)) // 3)
        control = Control(
            counts=[self._counts.pop(topic) for topic in _portion(self._counts, room)],
            topics=_portion(self._wanted, room),
            questions=self._due_questions(room),
            is_back=self._is_back,
            clock=int(self._loop.time() * 1_000_000),
        )
        for topic in control.topics:
            del self._wanted[topic]
        del self._questions[: len(control.questions)]
        self._is_back = self._must_answer = False
        publish = connection.publish(self.topic, self._sender.pack_control(self.topic, control))
        self._call = connection.perform(publish, self._settings.heartbeat, partial(self._was_said, connection))

    def _due_questions(self, room: int) -> list[Question]:
        """Return some questions, with the ages that they have now."""
        portion = self._questions[: len(_portion((question.topic for question, _ in self._questions), room))]
        now = self._loop.time()
        return [_older(question, now - made) for question, made in portion]

    def _was_said(self, connection: Connection[S], error: Exception | None) -> None:
        self._call = None
        if isinstance(error, PublishRefusedError) and connection is self._connection:
            self._do_without(connection.transport.settings.describe(error))
            return
        self._say()

    def _do_without(self, why: str) -> None:
        if not self._has_complained:
            self._has_complained = True
            logger.warning(
                "The broker does not let this node use the topic %r (control_topic): %s. Lost messages are not "
                "repaired; give the user the right to publish and subscribe there.",
                self.topic,
                why,
            )
        self._has_topic = self._sender.answers = self._receiver.can_ask = False
        for waiting in (self._counts, self._wanted, self._questions):
            waiting.clear()
        self._say()


def _older(question: Question, seconds: float) -> Question:
    """Return a question as it would be asked some seconds later."""
    return question if question.age is None else replace(question, age=question.age + int(seconds * 1_000_000))


def _portion(topics: Iterable[str], room: int) -> list[str]:
    """Return the first topics, as many as fit into a control frame, and at least one."""
    portion, size = list[str](), 0
    for topic in topics:
        size += 4 * len(topic) + ENTRY_COST
        if portion and size > room:
            break
        portion.append(topic)
    return portion
