"""One bounded, ordered queue for each listener, so that none delays another."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from inspect import isawaitable
from typing import Any

from .errors import ListenerError, SlowListenerError

Listener = Callable[[Any], Any]
"""Called with each message; what it returns is awaited if it can be."""

SLICE = 0.01
"""Seconds that a listener's queue is worked on before other tasks have their turn."""

_call: ContextVar[object] = ContextVar("call", default=None)
"""The call of a listener in which we are, also in the tasks that it has started."""


class Subscription:
    """Hands the messages of `topic` to `listener`, one after another.

    Until `live` is set it takes none. Beyond `limit` waiting messages the oldest are dropped, and
    reported as a `SlowListenerError`; what the listener raises is reported as a `ListenerError`.
    """

    def __init__(self, topic: str, listener: Listener, limit: int, report: Callable[[Exception], None]) -> None:
        self.topic = topic
        self.listener = listener
        self.live = False
        self._limit = limit
        self._report = report
        self._queue: deque[Any] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._running: object = None

    def put(self, messages: list[Any]) -> None:
        """Queue messages for the listener."""
        if not self.live:
            return
        self._queue.extend(messages)
        loop = asyncio.get_running_loop()
        if self._worker is None:
            self._worker = loop.create_task(self._work())
        if len(self._queue) > self._limit:
            loop.call_soon(self._trim)  # after the worker's turn: only what a slow listener leaves is too much

    def is_calling_us(self) -> bool:
        """Tell whether this runs in a call of the listener that has not returned yet."""
        return self._running is not None and self._running is _call.get()

    def stop(self) -> None:
        """Give the listener nothing more; a call to it that is running ends by itself."""
        self.live = False
        self._queue.clear()

    async def finish(self, within: float) -> None:
        """Stop taking messages, and give the listener `within` seconds for those that wait.

        A listener that is not through by then is cancelled, unless it is the one that asked.
        """
        self.live = False
        if self.is_calling_us():
            self._queue.clear()
        elif worker := self._worker:
            await asyncio.wait((worker,), timeout=within)
            if not worker.done():
                self._queue.clear()
                worker.cancel()
                await asyncio.wait((worker,), timeout=within)

    async def _work(self) -> None:
        time = asyncio.get_running_loop().time
        queue, listener = self._queue, self.listener
        pause = time() + SLICE
        try:
            while queue:
                _call.set(running := object())
                self._running = running
                try:
                    result = listener(queue.popleft())
                    if result is not None and isawaitable(result):
                        await result
                except Exception as error:
                    self._complain(error)
                except asyncio.CancelledError as error:
                    if (task := asyncio.current_task()) and task.cancelling():
                        raise
                    self._complain(error)
                self._running = None
                if time() > pause:
                    await asyncio.sleep(0)
                    pause = time() + SLICE
        finally:
            self._worker = None

    def _trim(self) -> None:
        """Drop the oldest messages beyond the limit, and report how many."""
        excess = len(self._queue) - self._limit
        if excess <= 0:
            return
        for _ in range(excess):
            self._queue.popleft()
        self._report(
            SlowListenerError(
                f"The listener {_name(self.listener)} on topic {self.topic!r} is too slow: its {excess} oldest "
                f"messages were dropped. Make it faster, or raise max_pending_messages ({self._limit}).",
                count=excess,
            )
        )

    def _complain(self, error: BaseException) -> None:
        complaint = ListenerError(
            f"The listener {_name(self.listener)} on topic {self.topic!r} raised {error!r}. "
            "The message is done for this listener; mend the listener."
        )
        complaint.__cause__ = error
        self._report(complaint)


def _name(listener: Listener) -> str:
    return getattr(listener, "__qualname__", None) or repr(listener)
