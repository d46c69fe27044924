"""The wire format, and the only place that knows it: what travels in one message of a broker."""

import struct
from collections.abc import Sequence
from typing import NamedTuple

VERSION = 1
MESSAGES = 1
"""Kind of a frame that carries messages."""
NUMBER = 2
"""Kind of a frame without messages: it tells its sender's current number."""

SERIALIZATIONS = {"json": 1, "msgpack": 2}
_NAMES = {code: name for name, code in SERIALIZATIONS.items()}

_HEADER = struct.Struct(">BBB16sQ")
_SENDER = slice(3, 19)


class Frame(NamedTuple):
    """What a payload says of itself; `body` is the array of messages, as serialised."""

    serialization: str
    kind: int
    sender: bytes
    number: int
    body: bytes


def pack(serialization: str, sender: bytes, number: int, messages: Sequence[bytes]) -> bytes:
    """Join serialised messages, of which the first has `number`, into one payload."""
    kind = MESSAGES if messages else NUMBER
    header = _HEADER.pack(VERSION, SERIALIZATIONS[serialization], kind, sender, number)
    if serialization == "json":
        return b"%b[%b]" % (header, b",".join(messages))
    return b"%b\xdd%b%b" % (header, len(messages).to_bytes(4, "big"), b"".join(messages))


def overhead(messages: int) -> int:
    """Return the most bytes that a frame adds to this many serialised messages."""
    return _HEADER.size + 5 + messages


def is_from(sender: bytes, payload: bytes) -> bool:
    """Tell by its 16 bytes whether a payload was sent by `sender`, before anything is decoded."""
    return payload[_SENDER] == sender and payload[0] == VERSION


def unpack(payload: bytes) -> Frame:
    """Split a payload; raise `ValueError`, saying what is wrong, for one that is no frame."""
    if len(payload) < _HEADER.size:
        raise ValueError(f"{len(payload)} bytes are too few for a frame")
    version, serialization, kind, sender, number = _HEADER.unpack_from(payload)
    if version != VERSION:
        raise ValueError(f"format version {version} is unknown, only {VERSION} is known")
    if serialization not in _NAMES:
        raise ValueError(f"serialisation {serialization} is unknown")
    if kind not in (MESSAGES, NUMBER):
        raise ValueError(f"kind {kind} is unknown")
    return Frame(_NAMES[serialization], kind, sender, number, payload[_HEADER.size :])
