"""The last frames of a node, for receivers that missed them: one ring of bytes, and an index for each topic."""

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

THINNED = 4096
"""How many overwritten frames of a topic keep their times; beyond that, every second time is dropped."""

_MARK = struct.Struct("QdQ")
_HEAD = struct.Struct(">II")


class Kept(NamedTuple):
    """The messages of a frame, from `number` to before `end`."""

    number: int
    end: int
    time: float
    """The loop time at which they were first handed to the broker, in seconds."""
    body: bytes


class Trail(msgspec.Struct, gc=False, eq=False):
    """The frames of one topic: the first number of each, when it was sent, and its place in the history.

    The garbage collector skips it: with 100,000 topics, a collection stopped the event loop for 140 ms.
    """

    marks: bytearray = msgspec.field(default_factory=bytearray)

    @property
    def length(self) -> int:
        """The number of frames."""
        return len(self.marks) // _MARK.size

    def mark(self, index: int) -> tuple[int, float, int]:
        """Return the first number of a frame, when it was sent, and its place in the history."""
        return _MARK.unpack_from(self.marks, index * _MARK.size)

    def number_of(self, index: int) -> int:
        """Return the first number of a frame."""
        return self.mark(index)[0]

    def time_of(self, index: int) -> float:
        """Return when a frame was sent."""
        return self.mark(index)[1]

    def place_of(self, index: int) -> int:
        """Return the place of a frame in the history."""
        return self.mark(index)[2]

    def since(self, time: float) -> int | None:
        """Return the number of the first message that was sent at `time` or later, if there is one."""
        index = bisect_left(range(self.length), time, key=self.time_of)
        return self.number_of(index) if index < self.length else None


class History:
    """Keeps the bodies of frames up to `limit` bytes over all topics; the oldest are overwritten.

    A frame takes 24 bytes more, for its numbers. The ring is a single object to the garbage collector: a
    list of frames cost 12 % of the messages a second with one in flight. It grows until it has `limit` bytes, since
    allocating 16 MiB at once takes 10 ms.
    """

    def __init__(self, limit: int) -> None:
        self._limit = max(limit, 1)  # no frame fits into 1 byte either, and all places differ
        self._ring = bytearray()
        self._end = 0
        """Where the next frame goes; places are counted without end."""

    def add(self, trail: Trail, number: int, count: int, time: float, body: bytes) -> None:
        """Keep a frame of `count` messages from `number` on."""
        place, room = self._end, self._limit
        size = _HEAD.size + len(body)
        if size > room:
            self._end += 2 * room  # it would push out everything, itself included
        else:
            at = place % room
            if at + size > room:
                place += room - at
                at = 0
            self._ring[at : at + size] = _HEAD.pack(count, len(body)) + body
            self._end = place + size
        trail.marks += _MARK.pack(number, time, place)
        if len(trail.marks) > THINNED * _MARK.size and trail.place_of(THINNED) < self._end - room:
            gone = self._overwritten(trail)
            left = [trail.mark(index) for index in range(0, gone, 2)]
            trail.marks[: gone * _MARK.size] = b"".join(_MARK.pack(*mark) for mark in left)

    def read(self, trail: Trail, number: int) -> Iterator[Kept]:
        """Return the frames that are still here, from the one with message `number` or the first after it."""
        first = bisect_right(range(trail.length), number, key=trail.number_of) - 1
        for index in range(max(first, self._overwritten(trail)), trail.length):
            begin, time, place = trail.mark(index)
            at = place % self._limit
            count, size = _HEAD.unpack_from(self._ring, at)
            if begin + count > number:
                start = at + _HEAD.size
                yield Kept(begin, begin + count, time, bytes(self._ring[start : start + size]))

    def _overwritten(self, trail: Trail) -> int:
        """Return how many of the trail's first frames have been overwritten."""
        return bisect_left(range(trail.length), max(self._end - self._limit, 0), key=trail.place_of)
