"""The wire format, and the only place that knows it: what travels in one message of a broker.

`docs/wire.md` of the template has the diagram and test vectors.
"""

import struct
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from hmac import compare_digest
from typing import NamedTuple

import msgspec

VERSION = 2

MESSAGES = 1
"""Kind of a frame that carries messages for the first time."""
AGAIN = 2
"""Kind of a frame that carries messages again, for the receivers that missed them."""
ANSWER = 3
"""Kind of a frame that says what a sender still has of the messages that it was asked for."""
CONTROL = 4
"""Kind of a frame in which a node announces its numbers, and asks for those of others."""

ANSWERS = 1
"""Flag: the sender answers questions on the control topic."""
SIGNED = 2
"""Flag: the frame ends in a keyed digest."""

MOST_SHARDS = 32
_SHARDS = 2
"""From this bit on, five bits of the flags hold the number of shards less one."""

SENDER_BYTES = 16
DIGEST_BYTES = 16

_HEADER = struct.Struct(">BBB16sQQIB")
_SENDER = slice(3, 19)
_RUNS = struct.Struct(">H")
_RUN = struct.Struct(">II")

LARGEST_NUMBER = 2**63
"""No sender can have sent so many messages."""


class Frame(msgspec.Struct, eq=False, frozen=True):
    """What a payload says of itself; `body` is an array of serialised messages, or else what its kind has.

    Creating one takes 0.1 µs, and a named tuple 0.3.
    """

    serialization: int
    kind: int
    sender: bytes
    number: int
    """The number of the first message; in an `ANSWER`, the next number that the sender will give."""
    base: int
    """The number at which this sender began to count on this topic."""
    count: int
    flags: int
    body: bytes

    @property
    def shards(self) -> int:
        """Over how many topics of the broker the sender spreads a topic."""
        return (self.flags >> _SHARDS) % MOST_SHARDS + 1


class Reply(msgspec.Struct, array_like=True, frozen=True):
    """The answer to one question: the asker must get messages from `start` on, and the sender still has those from `kept` on."""

    question: int
    start: int
    kept: int


class Answer(msgspec.Struct, array_like=True, frozen=True):
    """The replies to some questions, and how far all messages are accepted or given up."""

    replies: list[Reply]
    reached: int
    goes_on: bool
    """Whether repeated messages follow; otherwise the sender waits for the next question."""


class Count(msgspec.Struct, array_like=True, frozen=True):
    """How far a node has come on a topic: all messages below `number` are accepted or given up.

    `given` is the next number that it will give, unless the broker refuses messages in flight. The last new message was
    handed to the broker `quiet` milliseconds ago.
    """

    topic: str
    base: int
    number: int
    given: int
    quiet: int


class Question(msgspec.Struct, array_like=True, frozen=True):
    """Asks `target` for its messages on `topic` from number `first` on.

    `age` is given by an asker that has not heard the target before: for how many microseconds it
    has been subscribed. Then it must get only the messages of that time.
    """

    target: bytes
    topic: str
    first: int
    age: int | None
    id: int


class Control(msgspec.Struct, array_like=True, frozen=True):
    """The body of a control frame."""

    counts: list[Count] = []
    topics: list[str] = []
    """The topics on which the others are asked for their numbers."""
    questions: list[Question] = []
    is_back: bool = False
    """Whether the node has come back after a loss, so that each of the others answers, if only to be heard."""
    is_leaving: bool = False
    clock: int | None = None
    """When the frame was made, in microseconds of a clock of the sender's own."""


_to_body = msgspec.msgpack.Encoder().encode
_to_control = msgspec.msgpack.Decoder(Control).decode
_to_answer = msgspec.msgpack.Decoder(Answer).decode


class Run(NamedTuple):
    """`count` messages of an `AGAIN` frame, first sent `age` milliseconds before it."""

    count: int  # type: ignore[assignment]
    age: int


class Signer:
    """Adds a keyed digest over topic and content to frames, and checks it; without keys it does neither.

    The first key signs, all of them verify, so that a key can be changed while the cluster runs.
    """

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        self._keys = [blake2b(key, digest_size=32).digest() for key in keys]
        self.flag = SIGNED if self._keys else 0

    def sign(self, topic: str, payload: bytes) -> bytes:
        """Return the payload as it is to travel on `topic`."""
        return payload + _digest(self._keys[0], topic, payload) if self._keys else payload

    def verify(self, topic: str, payload: bytes) -> bytes:
        """Return the payload without its digest; raise `ValueError` if a valid one is needed and missing."""
        if len(payload) < _HEADER.size:
            return payload
        if not payload[_HEADER.size - 1] & SIGNED:
            if self._keys:
                raise ValueError("it has no keyed digest")
            return payload
        content, digest = payload[:-DIGEST_BYTES], payload[-DIGEST_BYTES:]
        if self._keys and not any(compare_digest(_digest(key, topic, content), digest) for key in self._keys):
            raise ValueError("its keyed digest is wrong")
        return content


def shards_flag(shards: int) -> int:
    """Return the flags that say over how many topics of the broker, 1 to 32, a node spreads a topic."""
    return (shards - 1) << _SHARDS


def _digest(key: bytes, topic: str, content: bytes) -> bytes:
    name = topic.encode()
    return blake2b(
        b"%b%b%b" % (len(name).to_bytes(4, "big"), name, content), key=key, digest_size=DIGEST_BYTES
    ).digest()


def pack(
    serialization: int, kind: int, sender: bytes, number: int, base: int, count: int, flags: int, body: bytes
) -> bytes:
    """Make a frame; a `SIGNED` one still needs its digest."""
    return _HEADER.pack(VERSION, serialization, kind, sender, number, base, count, flags) + body


def overhead(messages: int) -> int:
    """Return the most bytes that a frame adds to this many serialised messages, even when it is sent again."""
    return _HEADER.size + _RUNS.size + _RUN.size + 5 + messages + DIGEST_BYTES


RUN_BYTES = _RUN.size
"""The bytes that a further run adds to an `AGAIN` frame."""


def is_from(sender: bytes, payload: bytes) -> bool:
    """Tell from its 16 bytes whether a payload was sent by `sender`, before anything is decoded."""
    return payload[_SENDER] == sender and payload[0] == VERSION


def body_of(payload: bytes) -> bytes:
    """Return the body of a frame that was made here and not signed yet."""
    return payload[_HEADER.size :]


def unpack(payload: bytes) -> Frame:
    """Split a payload; raise `ValueError`, saying what is wrong, for one that is no frame."""
    if len(payload) < _HEADER.size:
        raise ValueError(f"{len(payload)} bytes are too few for a frame")
    version, serialization, kind, sender, number, base, count, flags = _HEADER.unpack_from(payload)
    if version != VERSION:
        raise ValueError(f"format version {version} is unknown, only {VERSION} is known")
    if not MESSAGES <= kind <= CONTROL:
        raise ValueError(f"kind {kind} is unknown")
    if base > number or number + count > LARGEST_NUMBER:
        raise ValueError(f"number {number} (of {count} messages, counted from {base}) is impossible")
    if kind == MESSAGES and not count:
        raise ValueError("it carries no message")
    return Frame(serialization, kind, sender, number, base, count, flags, payload[_HEADER.size :])


def pack_again(runs: Iterable[Run], messages: bytes) -> bytes:
    """Make the body of an `AGAIN` frame from an array of messages and their ages."""
    packed = [_RUN.pack(run.count, min(run.age, 2**32 - 1)) for run in runs]
    return b"%b%b%b" % (_RUNS.pack(len(packed)), b"".join(packed), messages)


def unpack_again(frame: Frame) -> tuple[list[Run], bytes]:
    """Return the runs and the array of messages of an `AGAIN` frame; raise `ValueError` if they do not fit."""
    try:
        (length,) = _RUNS.unpack_from(frame.body)
        end = _RUNS.size + length * _RUN.size
        runs = [Run(*run) for run in _RUN.iter_unpack(frame.body[_RUNS.size : end])]
    except struct.error as error:
        raise ValueError(f"the ages of its messages cannot be read: {error}") from error
    if len(runs) != length or sum(run.count for run in runs) != frame.count or not frame.count:
        raise ValueError("the ages of its messages do not fit them")
    return runs, frame.body[end:]


def pack_body(body: Control | Answer) -> bytes:
    """Make the body of a `CONTROL` or an `ANSWER` frame."""
    return _to_body(body)


def unpack_control(frame: Frame) -> Control:
    """Return the body of a `CONTROL` frame; raise `ValueError` if it is none."""
    control: Control = _to_control(frame.body)
    for count in control.counts:
        in_order = 0 <= count.base <= count.number <= count.given <= LARGEST_NUMBER
        if not (count.topic and in_order and count.quiet >= 0):
            raise ValueError("it announces an impossible number")
    for question in control.questions:
        is_possible = len(question.target) == SENDER_BYTES and question.first >= 0 and (question.age or 0) >= 0
        if not (question.topic and is_possible):
            raise ValueError("it asks an impossible question")
    return control


def unpack_answer(frame: Frame) -> Answer:
    """Return the body of an `ANSWER` frame; raise `ValueError` if it is none."""
    answer: Answer = _to_answer(frame.body)
    for reply in answer.replies:
        if not 0 <= reply.start <= reply.kept <= frame.number:
            raise ValueError("it replies with impossible numbers")
    return answer
