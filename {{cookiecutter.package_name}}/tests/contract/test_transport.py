"""The transport by itself, without the numbers and the repair that would hide its faults."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from statistics import median
from typing import Any

import pytest

from ..subject import sending
from .nodes import PATIENCE, Log, Wire, longest_pause, patience
from .proxy import Proxy
from .public import Change, MakeNode

MakeWire = Callable[..., Awaitable[Wire]]


@pytest.fixture
async def make_wire(change: Change, proxy: Proxy) -> AsyncIterator[MakeWire]:
    """Creates a connected bare transport."""
    wires: list[Wire] = []

    async def make(**changes: Any) -> Wire:
        wires.append(wire := Wire(change(**changes)))
        await wire.transport.connect()
        return wire

    yield make
    for wire in wires:
        await wire.transport.close()


@pytest.mark.clause("M1", "M7")
async def test_every_payload_reaches_every_subscriber_once_and_in_order(make_wire: MakeWire, topic: str) -> None:
    sender, *receivers = [await make_wire() for _ in range(4)]
    for receiver in receivers:
        await receiver.transport.subscribe(topic)
    most = min(200_000, sender.transport.max_frame_bytes or 200_000)
    payloads = [b"%06d" % number + b"x" * (most - 6 if number % 20 == 0 else 0) for number in range(200)]
    for payload in payloads:
        await sender.transport.publish(topic, payload)
    await sender.transport.publish(topic, b"end")
    for receiver in receivers:
        arrived = await receiver.payloads.until(lambda items: (topic, b"end") in items, "the last payload")
        numbers = [payload[:6] for _, payload in arrived]
        assert numbers == [*(payload[:6] for payload in payloads), b"end"]
        assert [len(payload) for _, payload in arrived[:-1]] == [len(payload) for payload in payloads]


@pytest.mark.clause("M7")
async def test_what_comes_all_at_once_comes_in_order(
    make_wire: MakeWire, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    sender, receiver = await make_wire(), await make_wire(**through, heartbeat=10 * PATIENCE)
    await receiver.transport.subscribe(topic)
    payloads = [(topic, b"%d" % number) for number in range(50)]
    proxy.mute()
    for _, payload in payloads:
        await sender.transport.publish(topic, payload)
    await proxy.heal()
    assert await receiver.payloads.count(50) == payloads


@pytest.mark.clause("S5")
async def test_no_smaller_limit_is_told_than_the_brokers(make_wire: MakeWire, topic: str) -> None:
    sender, receiver = await make_wire(), await make_wire()
    most = sender.transport.max_frame_bytes
    if most is None or most > sending.JOINED_BYTES:
        return
    await receiver.transport.subscribe(topic)

    async def publish() -> None:
        for payload in (b"x" * (2 * most), b"end"):  # twice, since a limit may be told with a margin
            with suppress(Exception):
                await sender.transport.publish(topic, payload)
        await receiver.payloads.count(1)

    ways = [asyncio.ensure_future(publish()), asyncio.ensure_future(sender.until_lost())]
    await asyncio.wait(ways, return_when="FIRST_COMPLETED")
    for way in ways:
        way.cancel()
    await asyncio.gather(*ways, return_exceptions=True)
    assert [payload for _, payload in receiver.payloads.items if payload != b"end"] == []


@pytest.mark.clause("L4")
@pytest.mark.parametrize("state", ["connected", "never connected", "cut"])
async def test_a_transport_closes_without_an_error(
    change: Change, proxy: Proxy, through: dict[str, Any], topic: str, state: str
) -> None:
    wire = Wire(change(**through))
    if state != "never connected":
        await wire.transport.connect()
        await wire.transport.subscribe(topic)
    if state == "cut":
        await proxy.cut()
        await wire.until_lost()
    async with patience("the end of `close`"):
        await wire.transport.close()


@pytest.mark.basic(7)
@pytest.mark.clause("M3")
async def test_what_is_sent_right_after_a_subscription_arrives(make_wire: MakeWire, topic: str) -> None:
    sender, receiver = await make_wire(), await make_wire()
    for number in range(10):
        name = f"{topic}-{number}"
        await receiver.transport.subscribe(name)
        await sender.transport.publish(name, b"first")
        await sender.transport.publish(name, b"second")
        arrived = await receiver.payloads.until(lambda items, name=name: (name, b"second") in items, "a payload")  # type: ignore[misc]
        assert [payload for topic, payload in arrived if topic == name] == [b"first", b"second"]


@pytest.mark.clause("T1")
async def test_a_lone_payload_is_not_kept_waiting(make_wire: MakeWire, topic: str) -> None:
    sender, receiver = [await make_wire(heartbeat=10 * PATIENCE) for _ in range(2)]
    await receiver.transport.subscribe(topic)
    times = []
    for number in range(11):
        started = time.perf_counter()
        await sender.transport.publish(topic, b"alone")
        await receiver.payloads.count(number + 1)
        times.append(time.perf_counter() - started)
    assert median(times) < 0.1, "does the client wait for more before it sends, or between two looks?"


@pytest.mark.clause("M5")
async def test_two_nodes_in_one_process_are_strangers(node: MakeNode, topic: str) -> None:
    publisher, leaver, stayer = await node(), await node(), await node()
    mailboxes = {leaver: Log(), stayer: Log()}
    for each, mailbox in mailboxes.items():
        await each.subscribe(topic, mailbox)
    await publisher.publish(topic, 1)
    for mailbox in mailboxes.values():
        await mailbox.count(1)
    await leaver.unsubscribe(topic, mailboxes[leaver])
    await publisher.publish(topic, 2)
    assert await mailboxes[stayer].count(2) == [1, 2]
    await leaver.close()
    await publisher.publish(topic, 3)
    assert await mailboxes[stayer].count(3) == [1, 2, 3]


@pytest.mark.clause("R1")
@pytest.mark.parametrize("reset", [False, True], ids=["end", "reset"])
async def test_the_end_of_a_connection_is_told_at_once(
    make_wire: MakeWire, proxy: Proxy, through: dict[str, Any], topic: str, reset: bool
) -> None:
    times = []
    for _ in range(3):
        wire = await make_wire(**through, heartbeat=10 * PATIENCE)
        await wire.transport.subscribe(topic)
        started = time.perf_counter()
        await proxy.cut(reset=reset)
        await wire.until_lost()
        times.append(time.perf_counter() - started)
    assert median(times) < 0.3


@pytest.mark.timeout(15)
@pytest.mark.clause("T2")
@pytest.mark.parametrize("method", ["publish", "subscribe", "unsubscribe", "ping"])
async def test_a_broker_that_does_not_answer_keeps_the_loop_from_nothing(
    make_wire: MakeWire, proxy: Proxy, through: dict[str, Any], topic: str, method: str
) -> None:
    gaps: list[float] = []
    while not gaps or (gaps[-1] >= 0.25 and len(gaps) < 3):
        transport = (await make_wire(**through, heartbeat=10 * PATIENCE)).transport
        await transport.subscribe(topic)
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "publish": partial(transport.publish, topic, b"unanswered"),
            "subscribe": partial(transport.subscribe, f"{topic}-too"),
            "unsubscribe": partial(transport.unsubscribe, topic),
            "ping": transport.ping,
        }
        proxy.mute()
        call = asyncio.ensure_future(longest_pause(calls[method]()))
        await asyncio.wait((call,), timeout=0.3)
        await proxy.heal()
        gaps.append(await call)
    assert min(gaps) < 0.25, f"`{method}` blocks: does it wait without `await`?"
