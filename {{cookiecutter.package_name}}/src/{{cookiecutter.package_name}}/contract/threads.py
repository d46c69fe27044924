"""Threads that do not keep the interpreter from exiting, and work while it exits."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

Call = tuple["Future[Any]", Callable[[], Any]]


class Gate:
    """A one-time event. Any thread may wait for it, as may a signal handler that interrupts a waiting thread."""

    def __init__(self) -> None:
        self._is_open = False
        self._waiting: list[SimpleQueue[None]] = []

    def open(self) -> None:
        """Let all go on."""
        self._is_open = True
        for each in self._waiting:
            each.put(None)

    def wait(self) -> None:
        """Return when it has happened."""
        told: SimpleQueue[None] = SimpleQueue()
        self._waiting.append(told)
        while not self._is_open:
            with suppress(Empty):
                told.get(timeout=1)  # Python may overlook a signal that comes just as a wait begins, until it ends


class DaemonThreads(ThreadPoolExecutor):
    """Makes each call on a free thread, or else on a new one, unless there are `most` of them.

    The pool of the standard library refuses calls as soon as the interpreter begins to exit, and keeps it from exiting
    until the last one has returned. An event loop that still has to send something then needs a pool that does neither.
    """

    def __init__(self, most: int | None = None) -> None:
        super().__init__(most)
        self.threads: list[threading.Thread] = []
        """All that have begun."""
        self._most = most
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._free = threading.Semaphore(0)

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        call = future, partial(function, *arguments, **named)
        if self._free.acquire(blocking=False) or len(self.threads) == self._most:
            self._calls.put(call)
            return future
        thread = threading.Thread(target=self._work, args=(call,), daemon=True)
        try:
            thread.start()
        except RuntimeError:  # since Python 3.12, no thread begins while the interpreter exits
            make(call)
        else:
            self.threads.append(thread)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end when they have made the calls that wait; return at once, or when they have ended."""
        for _ in self.threads:
            self._calls.put(None)
        if wait:
            self.join()

    def join(self, within: float = threading.TIMEOUT_MAX) -> None:
        """Return when all threads have ended after `shutdown`, or after so many seconds."""
        deadline = time.monotonic() + within
        for thread in self.threads:
            thread.join(min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX))

    def _work(self, call: Call | None) -> None:
        while call:
            make(call)
            if self._calls.empty():
                self._free.release()
            call = self._calls.get()


def make(call: Call) -> None:
    """Make a call, and settle its future."""
    future, function = call
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(function())
        except StopIteration as error:  # no future of asyncio takes it
            raised = RuntimeError("it raised StopIteration")
            raised.__cause__ = error
            future.set_exception(raised)
        except BaseException as error:
            future.set_exception(error)
