"""How the small broker and its clients put what they say on the wire: a header of JSON, and a body of bytes."""

import json
import struct
from collections.abc import Iterator
from typing import Any

_LENGTHS = struct.Struct(">II")

Header = dict[str, Any]


def pack(header: Header, body: bytes = b"") -> bytes:
    """Return one frame."""
    words = json.dumps(header).encode()
    return _LENGTHS.pack(len(words), len(body)) + words + body


class Frames:
    """Takes bytes as they arrive, and gives frames; with `longest`, no body may be longer."""

    def __init__(self, longest: int | None = None) -> None:
        self._longest = longest
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Header, bytes]]:
        """Yield the frames that are complete now; raise `ValueError` for one that is too long."""
        self._rest += data
        while len(self._rest) >= _LENGTHS.size:
            words, length = _LENGTHS.unpack_from(self._rest)
            if self._longest is not None and length > self._longest:
                raise ValueError(f"a body of {length} bytes")
            end = _LENGTHS.size + words + length
            if len(self._rest) < end:
                return
            header = json.loads(self._rest[_LENGTHS.size : _LENGTHS.size + words])
            body = bytes(self._rest[_LENGTHS.size + words : end])
            del self._rest[:end]
            yield header, body
