"""From the threads of a client library to the event loop: in order, and many calls at a time."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

SLICE = 0.01
"""Seconds for which calls are made before other tasks have their turn."""


class Bridge:
    """Makes the calls that other threads hand over, on the event loop on which the bridge was made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._is_due = False

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call `function(*arguments)` soon, after all that was handed over before.

        Any thread may do so. It returns at once, and raises nothing: a closed loop drops the call.
        """
        self._calls.append((function, arguments))
        if not self._is_due:
            self._wake()

    def _wake(self) -> None:
        self._is_due = True
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._make_calls)

    def _make_calls(self) -> None:
        self._is_due = False
        pause = self._loop.time() + SLICE
        try:
            while self._calls and self._loop.time() < pause:
                function, arguments = self._calls.popleft()
                function(*arguments)
        finally:
            if self._calls:
                self._wake()
