"""The tools of the pack's tests: nodes that are watched, mailboxes, events."""

import asyncio
import gc
import json
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from importlib.metadata import entry_points
from inspect import isawaitable
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import Phase
from pydantic import SecretStr

from ..subject import BrokerTransport, Connector, Settings, contract, inbox, wire_format
from .server import free_port

PATIENCE = 20.0
"""Seconds after which an event that did not come is a failure; nothing waits that long when all is well."""
HASTE = 3.0
"""The same, once `ENOUGH` tests have waited in vain: then something is broken, and the rest must fail soon."""
ENOUGH = 3

PHASES = (Phase.explicit, Phase.generate)
"""Hypothesis's phases with a broker: no search for a smaller example, in which each step may have to wait in vain."""

WAITED = pytest.StashKey[list[str]]()
"""What the tests of a run have waited for in vain."""

_waited: ContextVar[list[str]] = ContextVar("waited")

Wanted = str | Callable[[], str]
"""For what a test waits; where that is known only when it does not come, a function that returns it."""


def pytest_configure(config: pytest.Config) -> None:
    config.stash[WAITED] = []
    _waited.set(config.stash[WAITED])


@asynccontextmanager
async def patience(wanted: Wanted = "", came: Sequence[Any] = ()) -> AsyncIterator[None]:
    """Fail the block when it has waited too long, and say what it waited for, and what came instead.

    If `wanted` is not given, it is the end of the line that was waiting.
    """
    waited = _waited.get()
    seconds = PATIENCE if len(waited) < ENOUGH else HASTE
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        text = wanted() if callable(wanted) else wanted or f"the end of `{_line_of(error)}`"
        waited.append(text)
    else:
        return
    items = ", ".join(map(repr, came))
    few = items if len(items) <= 1000 else f"{items[:500]} … {items[-500:]}"
    shown = f"; {len(came)} came: {few}" if came else ""
    pytest.fail(f"waited {seconds:g} s in vain for {text}{shown}")


def _line_of(error: TimeoutError) -> str | None:
    """Return the line that the timeout has cancelled, in the function that set it."""
    cancelled = traceback.extract_tb(error.__cause__.__traceback__ if error.__cause__ else None)
    return next((frame.line for frame in cancelled if frame.filename != __file__), "the next step")


async def eventually(condition: Callable[[], object], wanted: Wanted, every: float = 0.01) -> None:
    """Return when `condition()`, which may be a coroutine, is true; it is checked every `every` seconds.

    For what sends no event: a server, a process, a counter. Fails like `patience`.
    """
    async with patience(wanted):
        while not (await found if isawaitable(found := condition()) else found):
            await asyncio.sleep(every)


class Log:
    """Collects what it is called with, and lets a test wait for it."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._waiters: list[asyncio.Future[None]] = []

    def __call__(self, item: Any = None) -> None:
        self.items.append(item)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def until(self, condition: Callable[[list[Any]], bool], wanted: str = "what was to come") -> list[Any]:
        """Return what came, once `condition` holds for it; if it never does, fail, and say what was `wanted`."""
        async with patience(wanted, self.items):
            while not condition(self.items):
                waiter = asyncio.get_running_loop().create_future()
                self._waiters.append(waiter)
                await waiter
        return self.items

    async def count(self, count: int) -> list[Any]:
        """Return what came when there are `count` items."""
        return await self.until(lambda items: len(items) >= count, f"the first {count}")

    async def before(self, marker: Any) -> list[Any]:
        """Return what came before `marker`, once that is there."""
        items = await self.until(lambda items: marker in items, repr(marker))
        return items[: items.index(marker)]


class Node(Connector):
    """A connector whose events are kept."""

    errors: Log  # type: ignore[assignment, misc]
    """The `error` events; the connector's module of this name is `contract` in tests."""

    def __init__(self, settings: Settings | Callable[[], Settings]) -> None:
        super().__init__(settings)
        self.errors, self.readies, self.closes = Log(), Log(), Log()
        self.on("error", self.errors)
        self.on("ready", self.readies)
        self.on("close", self.closes)

    async def error(self, kind: type[Exception]) -> Any:
        """Return the first `error` event of this kind, once there is one."""
        wanted = f"an error event, {kind.__name__}"
        if kind is contract.ConnectionLostError:
            wanted += (
                " (is `inbox.lost` called when the connection ends? is there a `ping`, or a keepalive, for silence?)"
            )
        errors = await self.errors.until(lambda errors: any(isinstance(error, kind) for error in errors), wanted)
        return next(error for error in errors if isinstance(error, kind))

    async def until_ready(self, times: int) -> None:
        """Return when `ready` has been emitted so often."""
        await self.readies.until(lambda readies: len(readies) >= times, f"ready event number {times}")

    async def until_down(self) -> None:
        """Return when the loss of the connection has been reported."""
        await self.error(contract.ConnectionLostError)


class Spy(BrokerTransport):
    """The transport of the package, which reports its calls and can be made to misbehave.

    A method that is called for the control topic has another name, such as "control publish", so that a test about
    `publish` is about topics of its own.
    """

    calls: list[tuple[str, Any]]
    """(method, topic), shared by the transports of one node."""
    trouble: dict[str, Any]
    """By method: awaited before the real one is called; its exception is raised."""
    payload = b""
    """What is being published."""
    _is_closing = False

    async def connect(self) -> None:
        await self._do("connect", None)
        await super().connect()
        await self._do("connected", None)

    def publish(self, topic: str, payload: bytes) -> Any:  # a coroutine here; the package's own may return a future
        return self._publish(topic, payload, super().publish)

    async def _publish(self, topic: str, payload: bytes, publish: Callable[[str, bytes], Awaitable[None]]) -> None:
        self.payload = payload
        await self._do("publish", topic)
        await publish(topic, payload)

    async def subscribe(self, topic: str) -> None:
        await self._do("subscribe", topic)
        await super().subscribe(topic)

    async def unsubscribe(self, topic: str) -> None:
        await self._do("unsubscribe", topic)
        await super().unsubscribe(topic)

    async def close(self) -> None:
        await self._do("close", None)
        self._is_closing = True
        await super().close()

    async def ping(self) -> None:
        await self._do("ping", None)
        await super().ping()

    async def leave(self) -> None:
        await self._do("leave", None)
        await super().leave()

    async def _do(self, method: str, topic: str | None) -> None:
        if self._is_closing:
            return  # called by the transport itself, as a part of closing
        if topic == self.settings.control_topic:
            method = f"control {method}"
        self.calls.append((method, topic))
        if method in self.trouble:
            await self.trouble[method](self, topic)


class SpiedNode(Node):
    """A node whose transport is a `Spy`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.calls: list[tuple[str, Any]] = []
        self.trouble: dict[str, Any] = {}
        spy = type("SpyOfNode", (Spy,), {"calls": self.calls, "trouble": self.trouble})
        self.transport_class = cast(type[BrokerTransport], spy)  # type: ignore[misc]

    def called(self, method: str, topic: str | None = None) -> int:
        """Return how often a method was called, for a topic if one is given."""
        return sum(1 for each in self.calls if each[0] == method and topic in (None, each[1]))


def in_environment(settings: Settings) -> dict[str, str]:
    """Return the variables from which a process reads what was given of these settings."""
    prefix = settings.model_config.get("env_prefix", "")
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    return {
        f"{prefix}{name.upper()}": str(value.get_secret_value() if isinstance(value, SecretStr) else value)
        for name, value in given.items()
    }


class Host:
    """The program `host.py` in a process of its own; `events` has its reports, and `["end"]` when it ends."""

    _process: asyncio.subprocess.Process | None = None

    async def start(self, settings: Settings) -> None:
        """Start it, with these settings; return when its connector is ready."""
        points = entry_points(group="deepstream.msg")
        (name,) = {point.name for point in points if point.module == Connector.__module__.partition(".")[0]}
        environment = {**in_environment(settings), "PYTHONASYNCIODEBUG": ""}  # which logs what takes long
        self.events = Log()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, Path(__file__).with_name("host.py"), name),
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._listening = asyncio.ensure_future(self._listen())
        first = (await self.events.count(1))[0]
        assert first[0] == "ready", f"the host did not start: {(await self._end())[1][-300:]}"
        self.node_name = first[1]

    async def tell(self, *command: Any) -> None:
        """Give a command, and return when it has been carried out."""
        done = self.events.items.count(["done", command[0]])
        await self._say(*command)
        await self.events.until(lambda events: events.count(["done", command[0]]) > done)

    async def close(self) -> tuple[int | None, str]:
        """Have it close its connector; return how the process ended, and what it wrote to its standard error."""
        await self._say("close")
        return await self._end()

    async def kill(self) -> None:
        """Kill it, if it has not ended, without a chance to say goodbye."""
        if self._process and self._process.returncode is None:
            self._process.kill()
            await self._end()

    async def _say(self, *command: Any) -> None:
        assert self._process
        assert self._process.stdin
        self._process.stdin.write(f"{json.dumps(command)}\n".encode())
        await self._process.stdin.drain()

    async def _listen(self) -> None:
        assert self._process
        assert self._process.stdout
        while line := await self._process.stdout.readline():
            self.events(json.loads(line))
        self.events(["end"])

    async def _end(self) -> tuple[int | None, str]:
        assert self._process
        assert self._process.stderr
        async with patience():
            complaints = await self._process.stderr.read()
            await self._listening
            return await self._process.wait(), complaints.decode()


class Wire:
    """A bare transport and its inbox: what travels, as it travels."""

    def __init__(self, settings: Settings) -> None:
        self.memory: dict[str, Any] = {}
        self.topic_memory: dict[str, Any] = {}
        self.payloads = Log()
        self.losses = Log()
        self.threads: set[int] = set()
        """Those that have called."""
        self.transport = BrokerTransport(settings, self)

    def received(self, topic: str, payload: bytes) -> None:
        inbox.check(topic, payload)
        self.threads.add(threading.get_ident())
        self.payloads((topic, bytes(payload)))

    def lost(self, error: Exception) -> None:
        self.threads.add(threading.get_ident())
        self.losses(error)

    async def until_lost(self) -> None:
        """Return when the loss of the connection has been told."""
        await self.losses.until(bool, "a loss (is `inbox.lost` called when the connection ends?)")


def largest(node: Node, wire: Wire) -> int:
    """Return how many letters a text may have that one message carries."""
    most = wire.transport.max_frame_bytes
    room = node.settings.max_message_bytes if most is None else most - wire_format.overhead(1)
    return min(node.settings.max_message_bytes, room) - len('""')


def other_tasks() -> set[asyncio.Task[Any]]:
    """Return all tasks but the test's."""
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


def somewhere(**changes: Any) -> Settings:
    """Return settings of a place where nobody listens."""
    return Settings(
        **{"url": SecretStr(f"{(Settings.schemes or ('broker',))[0]}://127.0.0.1:{free_port()}"), **changes}
    )


@contextmanager
def bad_host(fault: str) -> Iterator[contract.Target]:
    """Lend a host that `refuses` connections, is `silent` once they are there, or `drops` the first packet of each."""
    with socket.socket() as listener, ExitStack() as held:
        listener.bind(("127.0.0.1", 0))
        if fault != "refuses":
            listener.listen(0 if fault == "drops" else 100)
        place = listener.getsockname()
        for _ in range(3 if fault == "drops" else 0):  # to fill the queue of those that nobody accepts
            filler = held.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(place)
        yield contract.Target(*place)


def at_hosts(settings: Settings, *hosts: contract.Target) -> str:
    """Return the url of settings with these hosts in place of its own."""
    return replace(settings.address, hosts=hosts).url


async def longest_pause(call: Awaitable[object], clock: Callable[[], float] = time.monotonic) -> float:
    """Return for how many seconds at most a call has kept other tasks from running."""
    calling = asyncio.ensure_future(call)
    longest, last = 0.0, clock()
    while not calling.done():
        await asyncio.sleep(0)
        longest, last = max(longest, clock() - last), clock()
    await calling
    return longest


async def longest_work(call: Awaitable[object]) -> float:
    """Return the same in the thread's own time: other processes lengthen a pause, but no work."""
    gc.collect()
    gc.freeze()  # what the whole test run has piled up is nobody's to collect here
    try:
        return await longest_pause(call, time.thread_time)
    finally:
        gc.unfreeze()
