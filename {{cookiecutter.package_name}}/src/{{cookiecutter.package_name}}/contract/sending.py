"""The numbers of a sender: what is due, what may be sent again, what has expired, what to announce and to forget.

Plain code without asyncio: methods take the time and events, and return what is to be done.
"""

from collections.abc import Iterable, Iterator
from enum import Enum, auto
from heapq import heappop, heappush
from itertools import islice, takewhile
from math import inf
from typing import Any, NamedTuple

import msgspec

from . import wire
from .errors import MessageTooLargeError, PublishRefusedError
from .history import History, Kept, Trail
from .serialization import Serialization
from .wire import Answer, Control, Count, Question, Reply, Run, Signer

JOINED_BYTES = 256 * 1024
"""How much is joined into one frame; a larger message travels alone."""
JOINED_MESSAGES = 4096
LEAST_JOINED = 16 * 1024
"""How many bytes may be joined in any case, however much is in flight on other topics."""

MESSAGE_COST = 256
"""The memory that a waiting message takes besides its bytes."""

CHUNK = 4
"""How many frames are sent again in answer to one question, before the sender waits for the next."""

REPLIES = 64
"""How many replies may wait on a topic; beyond that, the oldest are dropped, and asked for again."""

TELLINGS = (1, 2, 4, 8)
"""After how many heartbeats of quiet on a topic its number is announced."""

FEW_TOPICS = 1024
"""This many topics are never forgotten, since they cost little: their messages can be repaired after any outage."""

KNOWN_TOPICS = 131_072
"""How many topics a node knows in full; beyond that, those that it has known longest are forgotten."""
FORGOTTEN_AT_A_TIME = 16

REMEMBERED = 8192
"""For how many forgotten topics a node still knows how far it had come."""

STRIKES = 3
"""How often a large frame may be in flight when the connection is lost, before we blame the frame."""

AT_A_TIME = 1000
"""How many messages expire, or numbers are announced, before other tasks have a turn."""


class Verdict(Enum):
    """How a publish ended."""

    ACCEPTED = auto()
    REFUSED = auto()
    UNCONFIRMED = auto()
    TOO_LARGE = auto()


class Flight(Enum):
    """What a frame in flight carries."""

    MESSAGES = auto()
    REPAIR = auto()


ACCEPTED = Verdict.ACCEPTED
_MESSAGES = Flight.MESSAGES
"""Members of both enums, since Python 3.11 takes 0.1 µs to find one."""


class Message(msgspec.Struct, eq=False):
    """One serialised message on its way, until it is `settled`; `receipt` belongs to the caller.

    The `deadline` is in the loop's time without the time in which the host has blocked the loop. Where the loop is late,
    a message may have a later deadline than the next one.
    """

    data: bytes
    deadline: float
    receipt: Any
    settled: bool = False
    was_sent: bool = False


class Shipment(msgspec.Struct, eq=False):
    """Messages that travel in one frame, with the number of the first."""

    messages: list[Message]
    number: int
    body: bytes
    payload: bytes
    sent: float
    tries: int = 0
    losses: int = 0
    trouble: BaseException | None = None


class Lane(Trail, gc=False, eq=False, kw_only=True):
    """One topic: what waits, the one frame in flight, the number of the next message, and its trail."""

    topic: str
    base: int
    number: int
    given: int
    """The number after the highest of a frame that may have arrived before it was taken apart and renumbered."""
    handed: float
    """When a new message was last handed to the broker."""
    spoke: float
    """When a message was last accepted or given up."""
    stage: int = len(TELLINGS)
    """How many of `TELLINGS` are over."""
    scheduled: float = inf
    waiting: list[Message] | None = None
    shipment: Shipment | None = None
    flight: Flight | None = None
    alone: int = 0
    """How many of the waiting messages travel one by one, since the broker refused them together."""
    replies: list[Reply] | None = None
    """Replies that no frame has carried yet; an empty list is an answer of its own: that a chunk has ended."""
    repair_at: int | None = None
    """The number from which messages are being sent again."""
    repair_left: int = 0
    """How many frames of the chunk are left."""
    is_repair_next: bool = False
    owes_count: bool = False
    """Whether the number is to be announced on the topic itself."""

    @property
    def next_given(self) -> int:
        """The number after the highest that a message has had."""
        return max(self.given, self.number)

    def owed_since(self, time: float) -> int:
        """Return the number of the first message that was handed to the broker at `time` or later."""
        number = self.since(time)
        if number is not None:
            return number
        return self.shipment.number if self.shipment and self.shipment.sent >= time else self.number

    @property
    def reached(self) -> int:
        """The number up to which all messages are accepted or given up."""
        return self.shipment.number if self.shipment else self.number

    @property
    def has_messages(self) -> bool:
        """Whether a message waits or is in flight."""
        return bool(self.shipment or self.waiting)

    @property
    def has_repairs(self) -> bool:
        """Whether something is to be announced, answered or sent again."""
        return self.owes_count or self.replies is not None or self.repair_at is not None


class Outcome(msgspec.Struct, eq=False):
    """What became of some messages; `why` is the broker's refusal, or the last failure."""

    topic: str
    messages: list[Message]
    verdict: Verdict
    why: BaseException | None = None


class Due(NamedTuple):
    """What the passing of time has brought."""

    outcomes: list[Outcome]
    given_up: list[Lane]
    """Lanes that no longer wait for their frame in flight."""
    told: list[Lane]
    """Lanes whose number is to be announced to all now."""


class Sender:
    """All topics on which a node publishes.

    Messages of a topic are numbered and sent in order. A frame that was in flight when the
    connection broke is sent again on the next, with the same number. A message that was given up
    keeps its number, so that its absence is noticed; a refused one does not, since nobody misses it.
    """

    def __init__(
        self,
        sender: bytes,
        serialization: Serialization,
        history: int,
        heartbeat: float,
        forget_after: float,
        max_message_bytes: int,
        shards: int = 1,
        keeps_messages: bool = False,
    ) -> None:
        self.id = sender
        self.signer = Signer()
        self.answers = False
        """Whether the node answers questions on the control topic."""
        self._shards_flag = wire.shards_flag(shards)
        self._serialization = serialization
        self._history = History(0 if keeps_messages else history)
        self._heartbeat = heartbeat
        self._forget_after = forget_after
        self._max_message_bytes = self.largest = max_message_bytes
        self._max_frame_bytes: int | None = None
        self._room = JOINED_BYTES - wire.overhead(0)
        """How many bytes of messages are joined in a frame."""
        self.lanes: dict[str, Lane] = {}
        self.busy: dict[Lane, None] = {}
        """The lanes with messages that wait or are in flight."""
        self._flying: dict[Lane, int] = {}
        """The lanes with a frame in flight, and its bytes."""
        self._flying_bytes = 0
        self._most_flying = inf if keeps_messages else JOINED_BYTES
        """Beyond this many bytes, frames are small: other brokers cut off nodes that read more slowly than we send."""
        self._forgotten: dict[int, tuple[int, int]] = {}
        self._removed = 0
        """How many topics were forgotten since the table of topics was made."""
        self._floor = 0
        """No topic that is forgotten for good had come further."""
        self._agenda: list[tuple[float, int, str]] = []
        self._entries = 0
        self._untold: list[Lane] = []
        self._blocked = 0.0
        """For about how many seconds the host has blocked the event loop, in all."""
        self.is_up = False
        self.is_held = False
        """Whether messages wait until the other nodes are back."""
        self.pending = 0
        self.bytes = 0

    # What is to be sent.

    def add(self, topic: str, data: bytes, now: float, deadline: float, receipt: Any) -> Lane:
        """Take one message."""
        lane = self.lanes.get(topic) or self._lane(topic, now)
        message = Message(data, deadline - self._blocked, receipt)
        if lane.waiting is None:
            lane.waiting = [message]
            self.busy[lane] = None
        else:
            lane.waiting.append(message)
        self.pending += 1
        self.bytes += len(data) + MESSAGE_COST
        if deadline < lane.scheduled:
            self._schedule(lane, deadline)
        return lane

    def load(self, lane: Lane, now: float) -> tuple[bytes | None, list[Outcome]]:
        """Return the next frame, if any, of a lane with none in flight, and the messages that do not fit."""
        outcomes: list[Outcome] = []
        shipment = None
        is_repair_due = lane.owes_count or lane.replies is not None
        is_repair_due |= lane.is_repair_next and lane.repair_at is not None
        if not self.is_held and not is_repair_due:
            shipment = lane.shipment or self._ship(lane, now, outcomes)
        if shipment:
            if not shipment.tries:
                lane.handed = now
            shipment.tries += 1
            lane.flight = _MESSAGES
            lane.is_repair_next = lane.repair_at is not None
            payload = shipment.payload
        elif lane.has_repairs:
            lane.flight = Flight.REPAIR
            lane.is_repair_next = False
            payload = self._repair(lane, now)
        else:
            return None, outcomes
        self._flying[lane] = len(payload)
        self._flying_bytes += len(payload)
        return payload, outcomes

    def landed(self, lane: Lane, error: BaseException | None, now: float) -> list[Outcome]:
        """Note that the frame in flight was accepted, or that it was not, and why."""
        flight, lane.flight = lane.flight, None
        self._flying_bytes -= self._flying.pop(lane, 0)
        shipment = lane.shipment
        if flight is not _MESSAGES or shipment is None:
            if flight is Flight.REPAIR and error is not None:
                lane.replies = lane.repair_at = None
            return []
        if error is None:
            messages = shipment.messages
            self._history.add(lane, shipment.number, len(messages), shipment.sent, shipment.body)
            lane.shipment = None
            self._spoke(lane, now)
            return [self._settled(lane, messages, ACCEPTED)]
        if isinstance(error, PublishRefusedError | MessageTooLargeError):
            return self._refused(lane, shipment, error, now)
        shipment.trouble = error
        return []

    def resume(self, max_frame_bytes: int | None, now: float) -> list[Lane]:
        """Note that there is a new connection, and its limit; return the lanes that have something to send."""
        self.is_up = True
        self._max_frame_bytes = max_frame_bytes
        self.largest = self._max_message_bytes
        self._room = JOINED_BYTES - wire.overhead(0)
        if max_frame_bytes is not None:
            self.largest = min(self.largest, max_frame_bytes - wire.overhead(1))
            self._room = min(self._room, max_frame_bytes - wire.overhead(0))
            for lane in self.busy:
                if lane.shipment and len(lane.shipment.payload) > max_frame_bytes:
                    self._unload(lane, lane.shipment, lane.shipment.tries > 0)
        for lane in self._untold:
            if self.lanes.get(lane.topic) is lane:
                self._spoke(lane, now)
        self._untold = []
        return list(self.busy)

    def pause(self, now: float, resting: Iterable[Lane] = ()) -> list[Outcome]:
        """Note that the connection is gone; return the messages that we blame for it.

        `resting` are the lanes that would have sent something a moment later.
        """
        self.is_up = False
        outcomes = []
        for lane in self._flying:
            shipment = lane.shipment
            if lane.flight is Flight.MESSAGES and shipment and len(shipment.payload) > JOINED_BYTES:
                shipment.losses += 1
                if shipment.losses >= STRIKES:
                    outcomes.append(self._settled(lane, shipment.messages, Verdict.TOO_LARGE))
                    lane.shipment = None
                    self._spoke(lane, now)
            lane.flight = lane.replies = lane.repair_at = None
        for lane in resting:
            lane.replies = lane.repair_at = None
        self._flying.clear()
        self._flying_bytes = 0
        return outcomes

    def fail(self) -> Iterator[list[Message]]:
        """Return all messages that are left, some at a time, and forget all topics."""
        for lane in list(self.busy):
            left = [*(lane.shipment.messages if lane.shipment else ()), *(lane.waiting or ())]
            lane.shipment = lane.waiting = None
            for start in range(0, len(left), AT_A_TIME):
                yield self._settled(lane, left[start : start + AT_A_TIME], Verdict.UNCONFIRMED).messages
        for table in (self.busy, self._flying, self.lanes, self._forgotten, self._agenda):
            table.clear()

    # What the passing of time brings.

    @property
    def next_due(self) -> float:
        """The loop time at which `due` has something to do; `inf` if that is never."""
        return self._agenda[0][0] if self._agenda else inf

    def excuse(self, seconds: float) -> None:
        """Give the messages that wait so much more time, in which the host has blocked the event loop."""
        self._blocked += seconds

    def due(self, now: float) -> Due:
        """Give up what has waited for too long, find the topics to announce, and forget old ones."""
        due = Due([], [], [])
        left = AT_A_TIME
        if not (self.busy or self._flying):
            self.busy, self._flying = {}, {}  # a dict keeps the memory that it once needed
        while self._agenda and self._agenda[0][0] <= now and left > 0:
            time, _, topic = heappop(self._agenda)
            lane = self.lanes.get(topic)
            if lane is None or time != lane.scheduled:
                continue
            lane.scheduled = inf
            left -= 1 + self._expire(lane, now, due, left)
            if lane.stage < len(TELLINGS) and self._telling(lane) <= now:
                (due.told if self.is_up else self._untold).append(lane)
                while lane.stage < len(TELLINGS) and self._telling(lane) <= now:
                    lane.stage += 1
            is_old = lane.stage == len(TELLINGS) and lane.spoke + self._forget_after <= now and self._is_idle(lane)
            if not is_old:
                self._reschedule(lane, now)
            elif len(self.lanes) > FEW_TOPICS:
                self._forget(lane)
        return due

    # What the others are told, and what they ask for.

    def count(self, lane: Lane, now: float) -> Count:
        """Return how far the node has come on a topic."""
        return Count(lane.topic, lane.base, lane.reached, lane.number, int((now - lane.handed) * 1000))

    def counts(self, topics: Iterable[str], now: float) -> Iterator[Count]:
        """Return how far the node has come on those of the topics on which it has published."""
        for topic in topics:
            if lane := self.lanes.get(topic):
                if lane.reached > lane.base:
                    yield self.count(lane, now)
            elif known := self._forgotten.get(hash(topic)):
                base, number = known
                yield Count(topic, base, number, number, int(self._forget_after * 1000))

    def all_counts(self, now: float) -> Iterator[Count]:
        """Return how far the node has come on all topics that it has not announced for the last time."""
        for lane in self.lanes.values():
            if lane.stage < len(TELLINGS) and lane.reached > lane.base:
                yield self.count(lane, now)

    def lane(self, topic: str, now: float) -> Lane:
        """Return the lane of a topic on which the node has something to say besides messages."""
        lane = self.lanes.get(topic) or self._lane(topic, now)
        self._reschedule(lane, now)
        return lane

    def asked(self, question: Question, now: float) -> Lane:
        """Plan the answer to a question; return the lane that will carry it."""
        lane = self.lane(question.topic, now)
        start = min(max(question.first, lane.base), lane.reached)
        if question.age is not None:
            start = max(start, lane.owed_since(now - question.age / 1_000_000))
        kept = next((kept.number for kept in self._kept(lane, start)), lane.reached)
        lane.replies = [*(lane.replies or ())[-REPLIES:], Reply(question.id, start, max(start, kept))]
        if start < lane.reached and (lane.repair_at is None or start < lane.repair_at):
            lane.repair_at = start
            lane.repair_left = CHUNK
        return lane

    def _kept(self, lane: Lane, number: int) -> Iterator[Kept]:
        """Return the frames in the history that the broker takes, from the one with message `number`."""
        most = self._max_frame_bytes
        for kept in self._history.read(lane, number):
            if most is None or len(kept.body) + wire.overhead(0) <= most:
                yield kept

    def _repair(self, lane: Lane, now: float) -> bytes:
        """Return the next frame besides those with messages."""
        if lane.owes_count:
            lane.owes_count = False
            return self.pack_control(lane.topic, Control(counts=[self.count(lane, now)]))
        if lane.replies is not None:
            answer = Answer(lane.replies, lane.reached, lane.repair_at is not None)
            lane.replies = None
            return self._pack(wire.ANSWER, lane, lane.next_given, 0, wire.pack_body(answer))
        assert lane.repair_at is not None
        runs, bodies, first, end, size = list[Run](), list[bytes](), 0, 0, 0
        for kept in self._kept(lane, lane.repair_at):
            size += len(kept.body) + wire.RUN_BYTES
            fits = size <= self._room and kept.end - first <= JOINED_MESSAGES and kept.number == end
            if bodies and not fits:
                break
            first = first if bodies else kept.number
            end = kept.end
            bodies.append(kept.body)
            runs.append(Run(kept.end - kept.number, int((now - kept.time) * 1000)))
        lane.repair_at, lane.repair_left = end, lane.repair_left - 1
        if not bodies or not lane.repair_left or end >= lane.reached:
            lane.repair_at = None
            lane.replies = []
        if not bodies:
            return self._repair(lane, now)
        body = wire.pack_again(runs, self._serialization.join_bodies(bodies, end - first))
        return self._pack(wire.AGAIN, lane, first, end - first, body)

    def pack_control(self, topic: str, control: Control) -> bytes:
        """Return a control frame that is to travel on `topic`."""
        flags = self._shards_flag | self.signer.flag | (wire.ANSWERS if self.answers else 0)
        body = wire.pack_body(control)
        return self.signer.sign(topic, wire.pack(0, wire.CONTROL, self.id, 0, 0, 0, flags, body))

    def _pack(self, kind: int, lane: Lane, number: int, count: int, body: bytes) -> bytes:
        signer = self.signer
        flags = self._shards_flag | signer.flag | (wire.ANSWERS if self.answers else 0)
        payload = wire.pack(self._serialization.code, kind, self.id, number, lane.base, count, flags, body)
        return signer.sign(lane.topic, payload) if signer.flag else payload

    def _ship(self, lane: Lane, now: float, outcomes: list[Outcome]) -> Shipment | None:
        """Join messages that wait into a shipment, as far as they fit."""
        waiting, largest = lane.waiting, self.largest
        if not waiting:
            return None
        while waiting and len(waiting[0].data) > largest:
            lane.number += waiting[0].was_sent  # it may have arrived: its number is taken
            outcomes.append(self._settled(lane, [waiting.pop(0)], Verdict.TOO_LARGE))
        parts: list[bytes] = []
        size = 0
        room = min(self._room, max(self._most_flying - self._flying_bytes, LEAST_JOINED))
        for message in islice(waiting, 1 if lane.alone else JOINED_MESSAGES):
            data = message.data
            size += len(data) + 1
            if len(data) > largest or (size > room and parts):
                break
            parts.append(data)
        count = len(parts)
        if not count:
            self._rest(lane)
            return None
        if count == len(waiting):
            messages, lane.waiting = waiting, []
        else:
            messages = waiting[:count]
            del waiting[:count]
        if lane.alone:
            lane.alone -= 1
        body = self._serialization.join(parts)
        payload = self._pack(wire.MESSAGES, lane, lane.number, count, body)
        shipment = lane.shipment = Shipment(messages, lane.number, body, payload, now)
        lane.number += count
        return shipment

    def _unload(self, lane: Lane, shipment: Shipment, was_sent: bool) -> None:
        """Take apart a shipment that the broker does not take as a whole."""
        for message in shipment.messages:
            message.was_sent = message.was_sent or was_sent
        if was_sent:
            lane.given = lane.next_given
        lane.waiting = [*shipment.messages, *(lane.waiting or ())]
        lane.number = shipment.number
        lane.shipment = None

    def _refused(self, lane: Lane, shipment: Shipment, why: BaseException, now: float) -> list[Outcome]:
        if len(shipment.messages) > 1:
            self._unload(lane, shipment, shipment.tries > 1)
            lane.alone = len(shipment.messages)
            return []
        lane.shipment = None
        if shipment.tries > 1 or shipment.messages[0].was_sent:  # it may have arrived: its number is taken
            self._spoke(lane, now)
            return [self._settled(lane, shipment.messages, Verdict.UNCONFIRMED, why)]
        lane.number = shipment.number
        self._rest(lane)
        return [self._settled(lane, shipment.messages, Verdict.REFUSED, why)]

    def _spoke(self, lane: Lane, now: float) -> None:
        """Note that more numbers of a lane are accepted or given up; the others will be told."""
        lane.spoke = now
        lane.stage = 0
        if (telling := now + self._heartbeat * TELLINGS[0]) < lane.scheduled:
            self._schedule(lane, telling)
        self._rest(lane)

    def _rest(self, lane: Lane) -> None:
        """Keep nothing for a lane on which nothing waits."""
        if not (lane.shipment or lane.waiting):
            lane.waiting = None
            self.busy.pop(lane, None)

    def _settled(
        self, lane: Lane, messages: list[Message], verdict: Verdict, why: BaseException | None = None
    ) -> Outcome:
        unsettled: list[Message] = []
        size = 0
        for message in messages:
            if not message.settled:
                message.settled = True
                size += len(message.data)
                unsettled.append(message)
        self.pending -= len(unsettled)
        self.bytes -= size + MESSAGE_COST * len(unsettled)
        return Outcome(lane.topic, unsettled, verdict, why)

    def _expire(self, lane: Lane, now: float, due: Due, most: int) -> int:
        """Give up messages whose time is over; return how many."""
        overdue: list[Message] = []
        trouble = None
        if shipment := lane.shipment:
            trouble = shipment.trouble
            overdue += [
                message for message in shipment.messages if self._end_of(message) <= now and not message.settled
            ]
            if all(self._end_of(message) <= now for message in shipment.messages):
                lane.shipment = None
                if lane.flight is Flight.MESSAGES:
                    lane.flight = None
                    self._flying_bytes -= self._flying.pop(lane, 0)
                    due.given_up.append(lane)
        if lane.waiting and not lane.shipment:
            late = takewhile(lambda message: self._end_of(message) <= now, islice(lane.waiting, most))
            waited = list(late)
            del lane.waiting[: len(waited)]
            lane.number += len(waited)
            overdue += waited
        if overdue:
            due.outcomes.append(self._settled(lane, overdue, Verdict.UNCONFIRMED, trouble))
            self._spoke(lane, now)
        return len(overdue)

    def _end_of(self, message: Message) -> float:
        """Return the time at which a message is given up."""
        return message.deadline + self._blocked

    def _telling(self, lane: Lane) -> float:
        return lane.spoke + self._heartbeat * TELLINGS[lane.stage]

    def _is_idle(self, lane: Lane) -> bool:
        return not (lane.has_messages or lane.has_repairs or lane.flight)

    def _schedule(self, lane: Lane, time: float) -> None:
        lane.scheduled = time
        self._entries += 1
        heappush(self._agenda, (time, self._entries, lane.topic))

    def _reschedule(self, lane: Lane, now: float) -> None:
        """Note when the lane has something to do next."""
        if lane.stage < len(TELLINGS):
            times = [self._telling(lane)]
        else:
            times = [max(lane.spoke + self._forget_after, now + self._heartbeat)]
        if lane.shipment:
            unsettled = (message for message in lane.shipment.messages if not message.settled)
            times.append(self._end_of(next(unsettled, lane.shipment.messages[-1])))
        elif lane.waiting:
            times.append(self._end_of(lane.waiting[0]))
        if (time := min(times)) < lane.scheduled:
            self._schedule(lane, time)

    def _lane(self, topic: str, now: float) -> Lane:
        if len(self.lanes) >= KNOWN_TOPICS:
            for lane in list(islice(self.lanes.values(), FORGOTTEN_AT_A_TIME)):
                if self._is_idle(lane):
                    self._forget(lane)
                else:
                    self.lanes[lane.topic] = self.lanes.pop(lane.topic)
        base, number = self._forgotten.pop(hash(topic), (self._floor, self._floor))
        spoke = now - self._forget_after
        lane = Lane(topic=topic, base=base, number=number, given=number, handed=spoke, spoke=spoke)
        self.lanes[topic] = lane
        return lane

    def _forget(self, lane: Lane) -> None:
        """Keep only how far the node has come on a quiet topic, and not even that for the oldest topics."""
        del self.lanes[lane.topic]
        self._removed += 1
        if self._removed > len(self.lanes):
            self._removed = 0
            self.lanes = dict(self.lanes)
        if lane.number > lane.base:
            self._forgotten[hash(lane.topic)] = lane.base, lane.number
        if len(self._forgotten) > REMEMBERED:
            _, number = self._forgotten.pop(next(iter(self._forgotten)))
            self._floor = max(self._floor, number)
