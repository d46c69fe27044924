"""How the small broker and its clients put what they say on the wire: a header of JSON, and a body of bytes."""

import json
import struct
from collections.abc import Iterator
from typing import Any

_LENGTHS = struct.Struct(">II")

LONGEST = 2**24
"""Bytes of a frame."""

Header = dict[str, Any]


def pack(header: Header, body: bytes = b"") -> bytes:
    """Return one frame."""
    words = json.dumps(header).encode()
    return _LENGTHS.pack(len(words), len(body)) + words + body


class Frames:
    """Takes bytes as they arrive, and gives frames, none of which may be longer than `longest`."""

    def __init__(self, longest: int | None = None) -> None:
        self._longest = LONGEST if longest is None else longest
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Header, bytes]]:
        """Yield the frames that are complete now; raise `ValueError` for what is none, or too long."""
        self._rest += data
        while len(self._rest) >= _LENGTHS.size:
            words, length = _LENGTHS.unpack_from(self._rest)
            end = _LENGTHS.size + words + length
            if end > self._longest:
                raise ValueError(f"a frame of {end} bytes")
            if len(self._rest) < end:
                return
            header = json.loads(self._rest[_LENGTHS.size : _LENGTHS.size + words])
            body = bytes(self._rest[_LENGTHS.size + words : end])
            del self._rest[:end]
            yield header, body
