"""Events that come in floods are reported once, with a count."""

import asyncio
from collections.abc import Callable
from math import inf

Report = Callable[[Exception], None]
"""Emits an `error` event; raises nothing."""

PAUSE = 1.0
"""Seconds between two events of one flood, at least."""


def counted(count: int, which: str = "") -> str:
    """Say how many messages, and which."""
    return f"{count} {which}message{'' if count == 1 else 's'}"


class Flood:
    """Reports the first event of a kind at once, and later ones at most once in `PAUSE` seconds.

    `word(count)` creates the error to report. The counts of all errors add up to what was added. No timer runs while
    nothing is left to report.
    """

    __slots__ = ("_last", "_owed", "_report", "_timer", "_word")

    def __init__(self, report: Report, word: Callable[[int], Exception]) -> None:
        self._report = report
        self._word = word
        self._owed = 0
        self._last = -inf
        self._timer: asyncio.TimerHandle | None = None

    def add(self, count: int) -> None:
        """Count `count` more events, at least one."""
        self._owed += count
        if self._timer is None:
            loop = asyncio.get_running_loop()
            due = self._last + PAUSE
            if due > loop.time():
                self._timer = loop.call_at(due, self.flush)
            else:
                self._last = loop.time()
                self.flush()

    def flush(self) -> None:
        """Report now what was not reported yet, if anything; no timer is left."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
            self._last = asyncio.get_running_loop().time()
        count, self._owed = self._owed, 0
        if count:
            self._report(self._word(count))
