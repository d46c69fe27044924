"""The last frames of a node, for receivers that missed them: one ring of bytes, and arrays of numbers."""

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

THINNED = 4096
"""How many overwritten frames of a topic keep their times; beyond it, every second one of them loses its."""

WIDTH = 3
"""How many values a trail holds for a frame. They are doubles, which are exact for whole numbers up to 2**53."""

_HEAD = struct.Struct(">II")


class Kept(NamedTuple):
    """The messages of a frame, from `number` to before `end`."""

    number: int
    end: int
    time: float
    """The loop time at which they were first handed to the broker, in seconds."""
    body: bytes


class Trail:
    """The frames of one topic: the first number of each, when it was sent, and its place in the history.

    They stand in one array, since an array for each of the three takes 200 bytes more for each topic.
    """

    __slots__ = ("marks",)

    def __init__(self) -> None:
        self.marks = array("d")

    @property
    def length(self) -> int:
        """The number of frames."""
        return len(self.marks) // WIDTH

    def number_of(self, index: int) -> int:
        """Return the first number of a frame."""
        return int(self.marks[index * WIDTH])

    def time_of(self, index: int) -> float:
        """Return when a frame was sent."""
        return self.marks[index * WIDTH + 1]

    def place_of(self, index: int) -> int:
        """Return the place of a frame in the history."""
        return int(self.marks[index * WIDTH + 2])

    def since(self, time: float) -> int | None:
        """Return the number of the first message that was sent at `time` or later, if there is one."""
        index = bisect_left(range(self.length), time, key=self.time_of)
        return self.number_of(index) if index < self.length else None


class History:
    """Keeps the bodies of frames up to `limit` bytes over all topics; the oldest are overwritten.

    A frame takes 24 bytes more, for its numbers. The ring is a single object to the garbage collector: a
    list of frames cost 12 % of the messages a second with one in flight. It grows until it has `limit` bytes, since to
    make 16 MiB at once takes 10 ms.
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
        marks = trail.marks
        marks.append(number)  # three calls take half the time of one `extend` with a tuple
        marks.append(time)
        marks.append(place)
        if len(marks) > THINNED * WIDTH and trail.place_of(THINNED) < self._end - room:
            gone = self._overwritten(trail)
            left = (trail.marks[index * WIDTH : (index + 1) * WIDTH] for index in range(0, gone, 2))
            trail.marks[: gone * WIDTH] = array("d", chain.from_iterable(left))

    def read(self, trail: Trail, number: int) -> Iterator[Kept]:
        """Return the frames that are still here, from the one with message `number` or the first after it."""
        first = bisect_right(range(trail.length), number, key=trail.number_of) - 1
        for index in range(max(first, self._overwritten(trail)), trail.length):
            at = trail.place_of(index) % self._limit
            count, size = _HEAD.unpack_from(self._ring, at)
            if (begin := trail.number_of(index)) + count > number:
                start = at + _HEAD.size
                yield Kept(begin, begin + count, trail.time_of(index), bytes(self._ring[start : start + size]))

    def _overwritten(self, trail: Trail) -> int:
        """Return how many of the trail's frames are no longer here; they are the first."""
        return bisect_left(range(trail.length), max(self._end - self._limit, 0), key=trail.place_of)
