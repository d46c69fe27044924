"""Figures for the report: medians of a few seconds' work. They record, and judge nothing."""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from itertools import cycle
from statistics import median
from time import perf_counter
from typing import Any

import pytest

from ..subject import Settings
from .nodes import Log, Node, Wire, patience
from .proxy import Proxy
from .public import MakeNode

Record = Callable[[str, object], None]

TURNS, SPAN = 5, 0.3
"""How often each rate is measured, and for how many seconds each time."""

MESSAGE = {"action": "P", "data": "x" * 100}
PAYLOAD = b"x" * 160
"""As long as the frame of the message is."""

TOPICS = 10
"""Messages in flight are spread over these, since some brokers limit those that wait for an answer on one."""

NODES = 10

pytestmark = pytest.mark.figure


async def test_the_round_trip_of_a_lone_message(node: MakeNode, topic: str, record_property: Record) -> None:
    one: Node = await node()
    other: Node = await node()
    there, back = f"{topic}-there", f"{topic}-back"
    answers: asyncio.Queue[object] = asyncio.Queue()
    await other.subscribe(there, lambda message: other.publish_nowait(back, message))
    await one.subscribe(back, answers.put_nowait)
    times = []
    for number in range(60):
        async with patience("the answer"):
            started = perf_counter()
            await one.publish(there, number)
            await answers.get()
        times.append(perf_counter() - started)
    record_property("round_trip_ms", round(1000 * median(times[10:]), 3))


@pytest.fixture
async def second_wire(change: Callable[..., Settings]) -> AsyncIterator[Wire]:
    """Another connected bare transport, so that there is one at each end."""
    wire = Wire(change())
    await wire.transport.connect()
    yield wire
    await wire.transport.close()


@pytest.mark.parametrize("width", [1, 100])
async def test_messages_a_second_beside_the_bare_transport(
    node: MakeNode, wire: Wire, second_wire: Wire, topic: str, record_property: Record, width: int
) -> None:
    one: Node = await node()
    other: Node = await node()
    topics = [f"{topic}-{number}" for number in range(min(width, TOPICS))]
    mailbox = Log()
    for each in topics:
        await other.subscribe(each, mailbox)
        await second_wire.transport.subscribe(f"{each}-bare")
    rates, bare_rates = [], []
    for _ in range(TURNS):  # in turns, since the machine is not always equally busy
        rates.append(await rate([partial(one.publish, each, MESSAGE) for each in topics], mailbox, width))
        publishes = [partial(wire.transport.publish, f"{each}-bare", PAYLOAD) for each in topics]
        bare_rates.append(await rate(publishes, second_wire.payloads, width))
    record_property(f"rate_{width}", round(median(rates)))
    record_property(f"rate_{width}_bare", round(median(bare_rates)))


async def rate(publishes: Sequence[Callable[[], Awaitable[Any]]], mailbox: Log, width: int) -> float:
    """Return how many messages a second arrive, with so many publishes in flight, on one topic after another."""
    before, sent, started = len(mailbox.items), 0, perf_counter()

    async def go_on(publish: Callable[[], Awaitable[Any]]) -> None:
        nonlocal sent
        while perf_counter() - started < SPAN:
            await publish()
            sent += 1

    async with patience("what was published"), asyncio.TaskGroup() as group:
        for _, publish in zip(range(width), cycle(publishes), strict=False):
            group.create_task(go_on(publish))
    await mailbox.count(before + sent)
    return sent / (perf_counter() - started)


async def test_recovery_after_a_cut(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str, record_property: Record
) -> None:
    one: Node = await node(noisy=True, **through)
    await one.subscribe(topic, Log())
    times = []
    for turn in range(TURNS):
        started = perf_counter()
        await proxy.cut()
        await one.until_ready(turn + 2)
        times.append(perf_counter() - started)
    record_property("recovery_s", round(median(times), 3))


async def test_the_memory_that_a_node_takes(node: MakeNode, topic: str, record_property: Record) -> None:
    await node()
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(NODES):
            one: Node = await node()
            await one.subscribe(f"{topic}-{number}", Log())
            await one.publish(topic, MESSAGE)
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    record_property("memory_mb", round(taken / NODES / 2**20, 3))
