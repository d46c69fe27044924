"""What goes wrong in the tests: odd exceptions, transports that misbehave, forged frames."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from ..subject import BrokerTransport, contract, serialization, wire_format
from .nodes import Log, Node, SpiedNode, Spy, eventually

Trouble = Callable[[Any, Any], Awaitable[None]]
"""What a test puts into `SpiedNode.trouble`."""


class Unshowable(Exception):
    """An exception whose text cannot be had."""

    def __repr__(self) -> str:
        raise ValueError("no words")

    __str__ = __repr__


class Foreign(BaseException):
    """An exception that `except Exception` does not catch."""


def raise_unshowable() -> None:
    raise Unshowable


def raise_foreign() -> None:
    raise Foreign


def raise_exit() -> None:
    raise SystemExit(1)


def cancel_itself() -> None:
    """Cancel the task in which this runs."""
    task = asyncio.current_task()
    assert task
    task.cancel()


RAISING = [raise_unshowable, raise_foreign, raise_exit]
ODD_DEEDS = [*RAISING, cancel_itself]


async def hang(*_: object) -> None:
    """Never return."""
    await asyncio.Event().wait()


def listen_to(log: Log) -> Trouble:
    """Return a trouble for `connect` that logs the topic of whatever arrives at the transport."""

    async def listen(transport: Any, _: object) -> None:
        received = transport.inbox.received

        def hear(topic: str, payload: bytes) -> None:
            received(topic, payload)
            log(topic)

        transport.inbox.received = hear

    return listen


def hold_until(gate: asyncio.Event, entered: Callable[[Any], None], when: Callable[[Any, Any], bool]) -> Trouble:
    """Return a trouble that calls `entered(topic)` and waits for `gate` whenever `when(transport, topic)` holds."""

    async def hold(transport: Any, topic: Any) -> None:
        if when(transport, topic):
            entered(topic)
            await gate.wait()

    return hold


async def until_down(node: Node, times: int) -> None:
    """Return when a node has reported so many lost connections."""
    await node.errors.until(
        lambda errors: sum(isinstance(error, contract.ConnectionLostError) for error in errors) >= times,
        f"lost connection number {times}",
    )


async def pings(node: SpiedNode, count: int) -> None:
    """Return when a node has begun so many further pings: a clock that ticks three times a heartbeat or so."""
    for goal in range(node.called("ping") + 1, node.called("ping") + count + 1):
        await eventually(lambda goal=goal: node.called("ping") >= goal, "a ping")  # type: ignore[misc]


class CertainNode(SpiedNode):
    """A node that never doubts its connection: it answers its own pings, so that a busy machine does not cost it one."""

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.transport_class = cast(type[BrokerTransport], type("OfNode", (Certain, self.transport_class), {}))  # type: ignore[misc]


class InstantNode(CertainNode):
    """A node whose transport accepts at once, without suspending, what it publishes, and sends only control frames."""

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.transport_class = cast(type[BrokerTransport], type("OfNode", (Instant, self.transport_class), {}))  # type: ignore[misc]


class Certain(Spy):
    """The transport of a `CertainNode`."""

    async def ping(self) -> None:
        await self._do("ping", None)


class Instant(Spy):
    """The transport of an `InstantNode`."""

    async def publish(self, topic: str, payload: bytes) -> None:  # type: ignore[override, unused-ignore]
        if topic == self.settings.control_topic:
            await super().publish(topic, payload)
        else:
            self.calls.append(("publish", topic))


def forged(
    sender: bytes,
    number: int,
    body: bytes = b'["forged"]',
    *,
    count: int = 1,
    base: int = 0,
    kind: int = wire_format.MESSAGES,
    flags: int = wire_format.ANSWERS,
    code: int = serialization.Json.code,
) -> bytes:
    """Return an unsigned frame such as anybody can make."""
    return wire_format.pack(code, kind, sender, number, base, count, flags, body)


@asynccontextmanager
async def pauses(step: float = 0) -> AsyncIterator[Log]:
    """Measure how long other tasks keep the event loop without a break, in seconds of the thread's own time.

    It is measured in every turn of the loop, or every `step` seconds; then two or three turns count as one.

    The garbage collector rests meanwhile: its time depends on what the whole test run has piled up.
    """
    log, is_over = Log(), asyncio.Event()

    async def tick() -> None:
        last = time.thread_time()
        while not is_over.is_set():
            await asyncio.sleep(step)
            now = time.thread_time()
            if now - last > 0.01:
                log(now - last)
            last = now

    gc.disable()
    ticking = asyncio.ensure_future(tick())
    try:
        await asyncio.sleep(0)
        yield log
    finally:
        is_over.set()
        await ticking
        gc.enable()
