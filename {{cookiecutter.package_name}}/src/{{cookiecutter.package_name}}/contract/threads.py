"""Threads that keep no interpreter from exiting, and that can be had while it exits."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any

Call = tuple["Future[Any]", Callable[[], Any]]


class DaemonThreads(ThreadPoolExecutor):
    """Makes each call on a thread that is free, or else on a new one.

    The pool of the standard library refuses calls as soon as the interpreter begins to exit, and keeps it from exiting
    until the last one has returned. An event loop that still has to send something then needs a pool that does neither.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._free = threading.Semaphore(0)
        self.threads: list[threading.Thread] = []
        """All that have begun."""
        self.submit(int)  # since Python 3.12, no thread begins while the interpreter exits: one is there from now on

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        self._calls.put((future, partial(function, *arguments, **named)))
        if not self._free.acquire(blocking=False):
            with suppress(RuntimeError):  # the interpreter exits: a thread that is there takes the call, when it can
                thread = threading.Thread(target=self._work, daemon=True)
                thread.start()
                self.threads.append(thread)
        return future

    def join(self, within: float) -> None:
        """Return when all threads have ended after `shutdown`, or after so many seconds."""
        deadline = time.monotonic() + within
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end when they have made the calls that wait; never wait for them."""
        for _ in self.threads:
            self._calls.put(None)

    def _work(self) -> None:
        while call := self._calls.get():
            future, function = call
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except BaseException as error:
                    future.set_exception(error)
            del call, future, function
            self._free.release()
