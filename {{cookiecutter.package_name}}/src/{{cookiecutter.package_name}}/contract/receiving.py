"""The numbers of a receiver: which messages are due, missing, held, known already, and to be asked for.

Plain code without asyncio: methods take the time and what has arrived, and return what is to be done.
"""

import random
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import NamedTuple

from .wire import AGAIN, ANSWERS, LARGEST_NUMBER, Answer, Count, Frame, Question

KNOWN_SENDERS = 131_072
"""How many senders are remembered, counted for each topic; beyond that, a newcomer takes the place of another newcomer,
or of a sender not heard for `SILENCE`. If there is none, its messages are delivered, but it is not remembered."""
LOOKED_AT = 16
"""How many of them are searched for one that may be forgotten."""
SILENCE = 600.0
"""Seconds."""

HELD_BYTES = 1024 * 1024
"""How many bytes that came after gaps are held until these are filled; the rest is dropped, and asked for later."""

BEGINNINGS = 1024
"""How many gaps may be open when a newcomer is still asked for what it published before it was heard."""

JITTER = 0.005
"""The longest wait, in seconds, before a question, in the hope of overhearing another node's."""

TRIES = 8
"""How many questions, a quarter of a heartbeat apart, a sender that still sends may leave unanswered."""

VAIN = 16
"""How many answers in a row, up to a heartbeat apart, may bring nothing, though the sender has what is missing."""

OVERHEARD = 64
"""How many questions are remembered for a gap; an answer to any of them will do."""


class Loss(NamedTuple):
    """`count` messages of a sender on a topic are lost."""

    topic: str
    sender: bytes
    count: int  # type: ignore[assignment]


class Delivery(NamedTuple):
    """A frame whose turn has come; its first `skip` messages are known already."""

    topic: str
    frame: Frame
    skip: int
    received: float


class Bogus(NamedTuple):
    """A frame that claimed numbers that its sender has not reached."""

    topic: str


Effect = Delivery | Loss | Bogus


class Stream:
    """The messages of one sender on one topic."""

    __slots__ = (
        "answers",
        "checked",
        "due",
        "first_heard",
        "floor",
        "gap",
        "heard",
        "is_deaf",
        "last",
        "sender",
    )

    def __init__(self, sender: bytes, due: int | None, answers: bool, now: float) -> None:
        self.sender = sender
        self.due = due
        """The number of the next message; None until it is known where the sender's messages begin for us."""
        self.floor: int | None = None
        """A number announced before anything was heard; while it is due, our messages may begin above it."""
        self.last: int | None = None
        """The number of the last frame that came in order."""
        self.answers = answers
        self.is_deaf = False
        """Whether it left our last questions without an answer."""
        self.first_heard = self.heard = now
        self.checked = -inf
        """When the sender was last asked because its numbers contradicted what we knew."""
        self.gap: Gap | None = None

    @property
    def is_new(self) -> bool:
        """Whether it is not known yet where the sender's messages begin for us."""
        return self.due is None or self.due == self.floor


class Topic:
    """A topic that somebody here listens to, and the senders that were heard on it."""

    __slots__ = ("name", "since", "streams")

    def __init__(self, name: str, since: float) -> None:
        self.name = name
        self.since = since
        """From this time on, we must get the messages of senders that we do not know."""
        self.streams: dict[bytes, Stream] = {}


class Asked(NamedTuple):
    """A question: when we asked it, and which number was due then; for another node's, neither is known."""

    time: float
    due: int


class Gap:
    """Messages that are missing, and frames that came after them."""

    __slots__ = (
        "ask_at",
        "asked",
        "held",
        "is_check",
        "is_heard",
        "left_at",
        "scheduled",
        "since",
        "stream",
        "topic",
        "tries",
        "until",
        "vain",
        "was_overheard",
    )

    def __init__(self, topic: Topic, stream: Stream, until: int, now: float) -> None:
        self.topic = topic
        self.stream = stream
        self.until = until
        """All that is missing has lower numbers, as far as we know."""
        self.held: deque[Delivery] = deque()
        """In the order of their numbers."""
        self.is_check = False
        """Whether the sender's numbers contradict what we knew."""
        self.since = now
        """When it was opened, or when something last came of it."""
        self.asked: dict[int, Asked] = {}
        """The questions whose answer will do, by their ids."""
        self.was_overheard = False
        self.tries = 0
        """How many questions in a row had no answer, though the sender was heard."""
        self.vain = 0
        """How many answers in a row brought nothing."""
        self.is_heard = True
        self.left_at = inf
        self.ask_at = self.scheduled = inf

    @property
    def first_held(self) -> int:
        """The number of the first frame that is held; if there is none, one that no frame has."""
        return self.held[0].frame.number if self.held else LARGEST_NUMBER + 1

    @property
    def misses_something(self) -> bool:
        """Whether it is about more than a contradiction."""
        return not self.is_check or self.stream.due is None or self.until > self.stream.due


class Receiver:
    """All senders on all topics to which a node listens."""

    def __init__(self, heartbeat: float, patience: float) -> None:
        self._heartbeat = heartbeat
        self._patience = patience
        """Seconds for which a sender that is not heard may be on its way back."""
        self._topics: dict[str, Topic] = {}
        self._order: dict[Stream, Topic] = {}
        """All streams; the search for one to forget starts at the beginning."""
        self._gaps: dict[Gap, None] = {}
        self._agenda: list[tuple[float, int, Gap]] = []
        self._entries = count()
        self._held_bytes = 0
        self.has_changed = False
        """Whether a gap has opened or closed, or is to be asked for at another time, since that was last checked."""
        self.can_ask = False
        """Whether there is a control topic on which to ask."""
        self.duplicates = 0

    # Topics.

    def listen(self, topic: str, since: float) -> None:
        """Begin to take messages on a topic; `since` is the loop time of the call that asked for it."""
        if topic not in self._topics:
            self._topics[topic] = Topic(topic, since)

    def forget(self, topic: str) -> None:
        """Take no more messages on a topic, and forget its senders."""
        if known := self._topics.pop(topic, None):
            for stream in list(known.streams.values()):
                self._remove(stream)

    @property
    def topics(self) -> list[str]:
        """The topics that are listened to."""
        return list(self._topics)

    def has_gaps(self, topic: str) -> bool:
        """Whether messages are missing on a topic that may still come."""
        return any(gap.topic.name == topic for gap in self._gaps)

    # What arrives.

    def wants(self, topic: str, frame: Frame) -> bool:
        """Tell whether a frame that is sent again has something that we miss."""
        known = self._topics.get(topic)
        stream = known.streams.get(frame.sender) if known else None
        if stream is None or stream.is_new or stream.due is None:
            return False
        return frame.number + frame.count > stream.due and (stream.gap is not None or frame.number <= stream.due)

    def is_next(self, topic: str, frame: Frame, now: float) -> bool:
        """Take a frame with messages if it is the next of its sender, as it nearly always is; return whether it is."""
        known = self._topics.get(topic)
        stream = known.streams.get(frame.sender) if known else None
        if stream is None or stream.due != frame.number or stream.gap is not None:
            return False
        stream.heard = now
        stream.due += frame.count
        stream.last = frame.number
        return True

    def take(self, topic: str, frame: Frame, now: float) -> list[Effect]:
        """Take a frame with messages; return what is to be delivered or reported, in this order."""
        if self.is_next(topic, frame, now):
            return [Delivery(topic, frame, 0, now)]
        known = self._topics.get(topic)
        if known is None:
            return []
        stream = known.streams.get(frame.sender)
        if stream is None:
            return self._first(known, frame, now)
        stream.heard = now
        return self._unexpected(known, stream, frame, now)

    def told(self, sender: bytes, counts: Iterable[Count], answers: bool, now: float) -> list[Effect]:
        """Take the numbers that a sender announces."""
        effects: list[Effect] = []
        for told in counts:
            if known := self._topics.get(told.topic):
                stream = known.streams.get(sender)
                if stream is None:
                    self._first_told(known, sender, told, answers, now)
                else:
                    effects += self._told(known, stream, told, answers, now)
        return effects

    def answered(self, topic: str, frame: Frame, answer: Answer, now: float) -> list[Effect]:
        """Take a sender's answer to questions, if one of them will do for us."""
        known = self._topics.get(topic)
        stream = known.streams.get(frame.sender) if known else None
        gap = stream.gap if stream else None
        if stream is None or gap is None:
            return []
        stream.heard, gap.is_heard = now, True
        effects: list[Effect] = []
        due, is_ours = stream.due, False
        for reply in answer.replies:
            asked = gap.asked.get(reply.question)
            if asked is None:
                continue
            is_ours = stream.answers = True
            stream.is_deaf = gap.was_overheard = False
            effects += self._drop_bogus(gap, frame.number, answer.reached, asked.time)
            is_owed = self._place(gap, frame, reply.start, asked)
            is_about_due = stream.due is not None and reply.start <= stream.due
            effects += self._advance(gap, reply.kept if is_owed and is_about_due else 0)
            if stream.gap is None:
                return effects
        if is_ours:
            gap.tries, gap.since = 0, now
            gap.vain = gap.vain + 1 if stream.due == due else 0
        if not gap.stream.is_new and not gap.is_check:
            is_in_vain = answer.goes_on or gap.vain > 1
            self._ask_at(gap, now + (self._quarter * min(max(gap.vain, 1), 4) if is_in_vain else self._jitter()))
        return effects

    def overheard(self, question: Question, now: float) -> None:
        """Take another node's question as our own, if its answer will do for us."""
        known = self._topics.get(question.topic)
        stream = known.streams.get(question.target) if known else None
        gap = stream.gap if stream else None
        if gap is None or stream is None or stream.is_new or gap.is_check:
            return
        if stream.due is None or question.first > stream.due or question.age is not None:
            return
        self._remember(gap, question.id, Asked(-inf, 0))
        if not gap.was_overheard:
            gap.was_overheard = True
            gap.ask_at = max(gap.ask_at, now + self._quarter)

    def returned(self, sender: bytes, now: float) -> None:
        """Ask a sender again, since it was away and has not heard our questions."""
        for gap in self._gaps:
            if gap.stream.sender == sender:
                gap.tries, gap.since = 0, now
                self._ask_at(gap, now + self._jitter())

    def left(self, sender: bytes, now: float) -> None:
        """Note that a sender is closing, and will answer no more questions."""
        for gap in self._gaps:
            if gap.stream.sender == sender:
                gap.left_at = now + self._heartbeat / 2
                self._ask_at(gap, gap.left_at)

    # What the passing of time brings.

    @property
    def next_due(self) -> float:
        """The loop time at which `due` has something to do; `inf` if that is never."""
        return self._agenda[0][0] if self._agenda else inf

    def due(self, now: float) -> tuple[list[Gap], list[Effect]]:
        """Return the gaps to ask about now, and what becomes of those whose time is over."""
        asks: list[Gap] = []
        effects: list[Effect] = []
        while self._agenda and self._agenda[0][0] <= now:
            time, _, gap = heappop(self._agenda)
            if time != gap.scheduled:
                continue
            gap.scheduled = inf
            if gap.ask_at > now:
                self._ask_at(gap, gap.ask_at)
            elif self._is_hopeless(gap, now):
                effects += self._give_up(gap)
            else:
                asks.append(gap)
        return asks, effects

    def postpone(self, gap: Gap, now: float, delay: float) -> None:
        """Ask later, since the listeners have enough to do."""
        gap.since = now
        self._ask_at(gap, now + delay)

    def ask(self, gap: Gap, question: int, now: float) -> Question:
        """Return the question for what is missing."""
        gap.tries += gap.is_heard
        gap.is_heard = gap.was_overheard = False
        self._remember(gap, question, Asked(now, gap.stream.due or 0))
        self._ask_at(gap, now + self._quarter)
        age = int((now - gap.topic.since) * 1_000_000) if gap.stream.is_new else None
        return Question(gap.stream.sender, gap.topic.name, gap.stream.due or 0, age, question)

    def resume(self, now: float) -> None:
        """Ask again on a new connection."""
        for gap in self._gaps:
            gap.tries, gap.vain, gap.since = 0, 0, now
            self._ask_at(gap, now + self._jitter())

    # Streams.

    def _stream(self, known: Topic, sender: bytes, due: int | None, answers: bool, now: float) -> Stream | None:
        """Remember a sender, unless there is no room for it."""
        if len(self._order) >= KNOWN_SENDERS and not self._make_room(now):
            return None
        stream = known.streams[sender] = Stream(sender, due, answers, now)
        self._order[stream] = known
        return stream

    def _make_room(self, now: float) -> bool:
        """Forget a newcomer, or a sender that has been silent; return whether there was one."""
        for _ in range(LOOKED_AT):
            stream, known = next(iter(self._order.items()))
            is_regular = stream.heard - stream.first_heard >= self._heartbeat
            if is_regular and now - stream.heard < SILENCE:
                self._order[stream] = self._order.pop(stream)
                continue
            self._remove(stream)
            known.since = now  # if it comes back, it must not send again what was delivered
            return True
        return False

    def _remove(self, stream: Stream) -> None:
        """Forget a sender on a topic."""
        del self._order.pop(stream).streams[stream.sender]
        if stream.gap:
            self._close(stream.gap)

    def _first(self, known: Topic, frame: Frame, now: float) -> list[Effect]:
        """Take the first frame of a sender."""
        if frame.kind == AGAIN:
            return []
        answers = bool(frame.flags & ANSWERS)
        must_ask = answers and self.can_ask and frame.number > frame.base and len(self._gaps) < BEGINNINGS
        stream = self._stream(known, frame.sender, None if must_ask else frame.number, answers, now)
        if must_ask and stream:
            gap = self._open(known, stream, frame.number, now)
            return self._hold(gap, frame, now)
        if stream:
            stream.due, stream.last = frame.number + frame.count, frame.number
        return [Delivery(known.name, frame, 0, now)]

    def _first_told(self, known: Topic, sender: bytes, told: Count, answers: bool, now: float) -> None:
        """Take the number of a sender from which no frame was heard."""
        if told.given == told.base:
            return
        is_old = told.number == told.given and now - told.quiet / 1000 < known.since
        must_ask = answers and self.can_ask and not is_old and len(self._gaps) < BEGINNINGS
        if told.number < told.given and not must_ask:
            return  # some are in flight, and the first of them that arrives is the first of ours
        stream = self._stream(known, sender, None if must_ask else told.given, answers, now)
        if must_ask and stream:
            self._open(known, stream, told.number, now)
        elif stream:
            stream.floor = told.given

    def _told(self, known: Topic, stream: Stream, told: Count, answers: bool, now: float) -> list[Effect]:
        stream.heard = now
        stream.answers, stream.is_deaf = stream.answers or answers, False
        if stream.gap:
            stream.gap.is_heard = True
        if stream.due is None or told.number > stream.due:
            if stream.gap:
                stream.gap.until = max(stream.gap.until, told.number)
            elif self._may_ask(stream):
                self._open(known, stream, told.number, now)
            else:
                assert stream.due is not None
                return self._jump(known, stream, told.base, told.number)
        elif told.number < stream.due and stream.gap is None:
            self._check(known, stream, now)
        return []

    def _may_ask(self, stream: Stream) -> bool:
        return stream.answers and self.can_ask and not stream.is_deaf

    # Frames that are not the next.

    def _unexpected(self, known: Topic, stream: Stream, frame: Frame, now: float) -> list[Effect]:
        stream.answers = stream.answers or bool(frame.flags & ANSWERS)
        gap, due, end = stream.gap, stream.due, frame.number + frame.count
        is_again = frame.kind == AGAIN
        if gap:
            gap.is_heard = True
        if due is None:
            assert gap
            return self._hold(gap, frame, now)
        if frame.number <= due < end:
            if gap is None or not gap.misses_something:
                stream.due, stream.last = end, frame.number
                self.duplicates += due - frame.number
                return [Delivery(known.name, frame, due - frame.number, now)]
            gap.tries, gap.vain, gap.since = 0, 0, now
            if is_again:
                gap.ask_at = max(gap.ask_at, now + self._quarter)
            return [*self._hold(gap, frame, now, always=True), *self._advance(gap, due)]
        if end <= due:
            if is_again:
                return []
            if gap and gap.is_check:
                return self._hold(gap, frame, now)
            if frame.number != stream.last and gap is None and self._check(known, stream, now):
                assert stream.gap
                return self._hold(stream.gap, frame, now)
            self.duplicates += frame.count
            return []
        if is_again:
            return self._hold(gap, frame, now) if gap else []
        if self._may_ask(stream):
            return self._hold(gap or self._open(known, stream, frame.number, now), frame, now)
        if gap:
            return [*self._hold(gap, frame, now, always=True), *self._give_up(gap)]
        effects = self._jump(known, stream, frame.base, frame.number)
        stream.due, stream.last = end, frame.number
        return [*effects, Delivery(known.name, frame, 0, now)]

    def _jump(self, known: Topic, stream: Stream, base: int, number: int) -> list[Effect]:
        """Count what a sender skipped that cannot be asked; numbers below its base never existed."""
        due = max(stream.due or 0, base)
        stream.due = max(due, number)
        return [Loss(known.name, stream.sender, number - due)] if number > due else []

    def _check(self, known: Topic, stream: Stream, now: float) -> bool:
        """Now and then, ask a sender that seems to be behind its own numbers: those may have been another's."""
        if not self._may_ask(stream) or now - stream.checked < self._heartbeat or stream.due is None:
            return False
        stream.checked = now
        self._open(known, stream, stream.due, now).is_check = True
        return True

    # Gaps.

    def _open(self, known: Topic, stream: Stream, until: int, now: float) -> Gap:
        gap = stream.gap = Gap(known, stream, until, now)
        self._gaps[gap] = None
        self._ask_at(gap, now + self._jitter())
        return gap

    def _close(self, gap: Gap) -> None:
        self._held_bytes -= sum(len(held.frame.body) for held in gap.held)
        gap.stream.gap = None
        gap.scheduled = inf
        self.has_changed = True
        del self._gaps[gap]

    def _hold(self, gap: Gap, frame: Frame, now: float, always: bool = False) -> list[Effect]:
        """Keep a frame until its turn comes, if there is room for it."""
        gap.until = max(gap.until, frame.number + frame.count)
        if not always and self._held_bytes + len(frame.body) > HELD_BYTES:
            return []
        held = Delivery(gap.topic.name, frame, 0, now)
        if not gap.held or gap.held[-1].frame.number < frame.number:
            gap.held.append(held)
        elif frame.number < gap.held[0].frame.number:
            gap.held.appendleft(held)
        else:
            index = bisect_left(gap.held, frame.number, key=lambda held: held.frame.number)
            if gap.held[index].frame.number == frame.number and gap.held[index].frame.count >= frame.count:
                return []
            gap.held.insert(index, held)
        self._held_bytes += len(frame.body)
        return []

    def _drop_bogus(self, gap: Gap, given: int, reached: int, asked: float) -> Iterator[Effect]:
        """Drop the frames that came before the question, with numbers that their sender had not given yet."""
        while gap.held and gap.held[-1].frame.number >= given and gap.held[-1].received < asked:
            self._held_bytes -= len(gap.held.pop().frame.body)
            yield Bogus(gap.topic.name)
        gap.until = max([reached, *(held.frame.number + held.frame.count for held in gap.held)])

    def _place(self, gap: Gap, frame: Frame, start: int, asked: Asked) -> bool:
        """Set the due number where we had none, or a wrong one; return whether the reply was about it."""
        stream = gap.stream
        first = gap.first_held
        is_wrong = gap.is_check and frame.number < asked.due
        if is_wrong:
            stream.due = min(frame.number, first)
        elif stream.is_new:
            stream.due = max(min(start, first), stream.due or 0)
        gap.is_check, stream.floor = False, None
        stream.due = max(stream.due or 0, frame.base)
        return not is_wrong

    def _advance(self, gap: Gap, kept: int) -> list[Effect]:
        """Deliver what is due, and count as lost what is missing before number `kept`."""
        effects: list[Effect] = []
        stream = gap.stream
        assert stream.due is not None
        while True:
            first = gap.first_held
            if first <= stream.due:
                held = gap.held.popleft()
                self._held_bytes -= len(held.frame.body)
                if (end := first + held.frame.count) > stream.due:
                    effects.append(held._replace(skip=stream.due - first))
                    stream.due, stream.last = end, first
            elif stream.due < kept:
                end = min(kept, first)
                effects.append(Loss(gap.topic.name, stream.sender, end - stream.due))
                stream.due = end
            else:
                break
        if stream.due >= gap.until and not gap.held:
            self._close(gap)
        return effects

    def _is_hopeless(self, gap: Gap, now: float) -> bool:
        """Return whether to stop waiting for an answer."""
        if gap.left_at <= now or gap.tries >= TRIES or gap.vain >= VAIN:
            return True
        patience = self._patience if gap.misses_something else 2 * self._heartbeat
        return now - gap.since > patience

    def _give_up(self, gap: Gap) -> list[Effect]:
        """Count as lost what is missing, and go on with what is held; forget a sender known only by its number."""
        stream = gap.stream
        if stream.due is None or stream.is_new:
            if not gap.held:
                self._remove(stream)
                return []
            stream.due = gap.first_held
        else:
            stream.is_deaf = gap.misses_something
        return self._advance(gap, gap.until)

    def _remember(self, gap: Gap, question: int, asked: Asked) -> None:
        gap.asked[question] = asked
        if len(gap.asked) > OVERHEARD:
            del gap.asked[next(iter(gap.asked))]

    def _ask_at(self, gap: Gap, time: float) -> None:
        gap.ask_at = time
        if time < gap.scheduled:
            self.has_changed = True
            gap.scheduled = time
            heappush(self._agenda, (time, next(self._entries), gap))

    @property
    def _quarter(self) -> float:
        return self._heartbeat / 4

    def _jitter(self) -> float:
        return random.uniform(0, JITTER)
