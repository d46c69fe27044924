"""An event loop whose time jumps from one timer to the next, and randomness that a seed decides."""

import asyncio
import gc
import os
import random
import secrets
import selectors
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

TURN = 20e-6
"""Virtual seconds that one turn of the loop takes, so that work takes time."""

MOST_TURNS = 200_000
"""How many turns the loop may make in a row without waiting for a timer."""


class Deadlock(Exception):
    """Nothing is ready and no timer is set: the run can never go on."""


class Livelock(Exception):
    """The loop turns and turns, and time does not pass."""


class Hung(KeyboardInterrupt):
    """A run takes far too much real time."""


@contextmanager
def watched(seconds: float) -> Iterator[None]:
    """Raise `Hung` wherever the code is after so many real seconds, on systems that can do that."""

    def hung(*_: object) -> None:
        raise Hung(f"still running after {seconds:g} real seconds")

    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, hung)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Clock(selectors.SelectSelector):
    """Stands in for the wait for sockets: it advances the virtual time instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.busy_turns = 0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Deadlock("nothing is ready and no timer is set")
        if timeout > 0:
            self.now += timeout
            self.busy_turns = 0
        else:
            self.now += TURN
            self.busy_turns += 1
            if self.busy_turns > MOST_TURNS:
                self.busy_turns = 0
                raise Livelock(f"{MOST_TURNS} turns of the loop without a wait")
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop without sockets, threads and real time."""

    def __init__(self) -> None:
        self.clock = Clock()
        super().__init__(self.clock)
        self.blocked = 0.0
        """Seconds for which `block` has kept the loop from its work, in sum."""
        self.timers: list[tuple[asyncio.TimerHandle, Callable[..., object]]] = []

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        handle = super().call_at(when, callback, *args, context=context)
        self.timers.append((handle, callback))
        return handle

    def pending_timers(self) -> list[str]:
        """Name what is still going to be called, except by the simulation itself."""
        own = __name__.rpartition(".")[0]
        now = self.time()
        return [
            f"{callback.__module__}.{callback.__qualname__}"
            for handle, callback in self.timers
            if not handle.cancelled() and handle.when() > now and not callback.__module__.startswith(own)
        ]

    def time(self) -> float:
        return self.clock.now

    def block(self, seconds: float) -> None:
        """Let time pass as a host does that computes and does not return to the loop."""
        self.clock.now += seconds
        self.blocked += seconds

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Call the function here and now; there are no threads."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> list[Any]:
        """Every name is its own address."""
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))]


@contextmanager
def seeded(seed: str) -> Iterator[None]:
    """Have `random` and the sources of ids draw from `seed`; garbage is collected only afterwards."""
    source = random.Random(f"{seed}/ids")
    state = random.getstate()
    random.seed(f"{seed}/random")
    collects = gc.isenabled()
    gc.disable()

    def token_bytes(size: int | None = None) -> bytes:
        return source.randbytes(32 if size is None else size)

    def token_hex(size: int | None = None) -> str:
        return token_bytes(size).hex()

    try:
        with (
            mock.patch.object(os, "urandom", source.randbytes),
            mock.patch.object(secrets, "token_bytes", token_bytes),
            mock.patch.object(secrets, "token_hex", token_hex),
            mock.patch.object(secrets, "randbits", source.getrandbits),
        ):
            yield
    finally:
        random.setstate(state)
        if collects:
            gc.enable()
