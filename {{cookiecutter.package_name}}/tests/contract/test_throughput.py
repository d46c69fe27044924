"""Chapter T: load makes frames larger, the event loop stays free, memory is bounded."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast
from uuid import uuid4

import pytest

from ..subject import contract, receiving, sending, serialization, wire_format
from .nodes import PATIENCE, Log, Node, SpiedNode, Wire, eventually, largest, longest_pause, longest_work, patience
from .proxy import Proxy
from .public import MakeNode


@pytest.mark.clause("T1")
async def test_what_waits_leaves_together(node: MakeNode, topic: str) -> None:
    publisher: SpiedNode = await node(SpiedNode)
    subscriber: Node = await node()
    mailbox, held, gate = Log(), Log(), asyncio.Event()
    await subscriber.subscribe(topic, mailbox)

    async def hold(_: object, name: str) -> None:
        held(name)
        await gate.wait()

    publisher.trouble["publish"] = hold
    waiting = [asyncio.ensure_future(publisher.publish(topic, 0))]
    await held.count(1)
    waiting += [asyncio.ensure_future(publisher.publish(topic, number)) for number in range(1, 101)]
    await asyncio.sleep(0)
    assert len(held.items) == 1
    gate.set()
    await asyncio.gather(*waiting)
    assert publisher.called("publish", topic) == 2
    assert await mailbox.count(101) == list(range(101))


@pytest.mark.clause("T1")
async def test_a_lone_message_leaves_at_once(node: MakeNode, topic: str) -> None:
    publisher: SpiedNode = await node(SpiedNode, heartbeat=10 * PATIENCE)
    for number in range(10):
        publisher.publish_nowait(topic, number)
        for _ in range(3):
            await asyncio.sleep(0)
        assert publisher.called("publish", topic) == number + 1
        await publisher.publish(f"{topic}-{number}", "another topic is not held up")
        await settled(publisher)


async def settled(node: Node) -> None:
    """Return when no message of a node waits to be sent."""
    await eventually(lambda: not node.stats()["pending"], "the end of the sending", 0)


@pytest.mark.clause("T1")
async def test_a_topic_that_is_held_up_holds_up_no_other(node: MakeNode, topic: str) -> None:
    publisher: SpiedNode = await node(SpiedNode)
    gate = asyncio.Event()

    async def hold(_: object, name: str) -> None:
        if name == topic:
            await gate.wait()

    publisher.trouble["publish"] = hold
    waiting = asyncio.ensure_future(publisher.publish(topic, "held"))
    async with patience():
        await publisher.publish(f"{topic}-other", "free")
    assert not waiting.done()
    gate.set()
    await waiting


@pytest.mark.clause("T2")
async def test_the_event_loop_is_never_blocked_for_long(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)

    async def flood() -> None:
        for _ in range(100):
            for _ in range(200):
                publisher.publish_nowait(topic, {"text": "x" * 100, "numbers": list(range(10))})
            await asyncio.sleep(0)
        await mailbox.count(100 * 200)

    assert await longest_work(flood()) < 0.05


async def must_not_block(method: str, call: Callable[[], Awaitable[Awaitable[object]]]) -> None:
    """Fail if the awaitable from `call` keeps other tasks waiting each time; a busy machine may do so many times."""
    gaps: list[float] = []
    while not gaps or (min(gaps) >= 0.05 and len(gaps) < 20):
        calling = await call()
        gaps.append(await longest_pause(calling))
    assert min(gaps) < 0.05, f"`{method}` blocks: does it wait without `await`?"


@pytest.mark.clause("T2")
@pytest.mark.parametrize("method", ["connect", "publish", "subscribe", "unsubscribe", "close"])
async def test_no_call_keeps_the_event_loop_waiting(node: MakeNode, topic: str, method: str) -> None:
    async def call() -> Awaitable[object]:
        connector: Node = await node(connect=method != "connect")
        listener = Log()
        if method == "unsubscribe":
            await connector.subscribe(topic, listener)
        arguments = {"publish": (topic, 1), "subscribe": (topic, listener), "unsubscribe": (topic, listener)}
        return cast(Awaitable[object], getattr(connector, method)(*arguments.get(method, ())))

    await must_not_block(method, call)


@pytest.mark.clause("T2")
@pytest.mark.parametrize("method", ["ping", "publish"])
async def test_neither_a_ping_nor_a_large_payload_keeps_the_event_loop_waiting(
    node: MakeNode, wire: Wire, topic: str, method: str
) -> None:
    payload = b"x" * (largest(await node(), wire) // 2)

    async def call() -> Awaitable[object]:
        return wire.transport.ping() if method == "ping" else wire.transport.publish(topic, payload)

    await must_not_block(method, call)


@pytest.mark.clause("T2")
async def test_a_busy_listener_leaves_the_event_loop_its_turns(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    turns, is_over = 0, asyncio.Event()
    seen: list[int] = []

    async def turn() -> None:
        nonlocal turns
        while not is_over.is_set():
            turns += 1
            await asyncio.sleep(0)

    def busy(_: object) -> None:
        started = time.thread_time()
        while time.thread_time() - started < 0.002:
            pass
        seen.append(turns)
        if len(seen) == 100:
            is_over.set()

    await subscriber.subscribe(topic, busy)
    for number in range(100):
        publisher.publish_nowait(topic, number)
    await turn()
    assert max(seen.count(each) for each in set(seen)) <= 25


@pytest.mark.clause("T2", "M7")
async def test_what_threads_hand_over_stays_in_order_and_leaves_the_event_loop_its_turns() -> None:
    bridge, mailbox, turns, raised = contract.Bridge(), Log(), Log(), Log()

    def take(number: int) -> None:
        mailbox((number, bool(turns.items)))
        if number == 1:
            raise ZeroDivisionError
        asyncio.get_running_loop().call_soon(turns, number)
        started = time.thread_time()
        while time.thread_time() - started < 0.001:
            pass

    def hand_over() -> None:
        for number in range(100):
            bridge.call(take, number)

    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised(context["exception"]))
    await asyncio.to_thread(hand_over)
    taken = await mailbox.count(100)
    assert [number for number, _ in taken] == list(range(100))
    assert taken[-1] == (99, True)
    assert [type(error) for error in raised.items] == [ZeroDivisionError]


@pytest.mark.clause("T3")
async def test_the_outbox_has_a_limit(node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str) -> None:
    limit = 10 * (100 + sending.MESSAGE_COST)
    publisher: Node = await node(noisy=True, **through, publish_timeout=60, max_outbox_bytes=limit)
    await proxy.refuse()
    await publisher.until_down()
    outcomes = Log()
    for _ in range(10):
        publisher.publish_nowait(topic, "x" * 98, outcomes)
    with pytest.raises(contract.OutboxFullError, match="max_outbox_bytes"):
        publisher.publish_nowait(topic, "x" * 98, outcomes)
    with pytest.raises(contract.OutboxFullError):
        await publisher.publish(topic, "x" * 98)
    await proxy.heal()
    assert await outcomes.count(10) == [None] * 10
    await publisher.publish(topic, "x" * 98)


@pytest.mark.clause("T3")
async def test_the_table_of_known_senders_has_a_limit(
    node: MakeNode, wire: Wire, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "KNOWN_SENDERS", 5)
    subscriber: Node = await node(noisy=True)
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    senders = [uuid4().bytes for _ in range(6)]

    async def send(sender: bytes, number: int) -> None:
        payload = wire_format.pack(
            serialization.Json.code,
            wire_format.MESSAGES,
            sender,
            number,
            base=0,
            count=1,
            flags=0,
            body=b"[%d]" % number,
        )
        await wire.transport.publish(topic, payload)

    for sender in senders:
        await send(sender, 0)
    await mailbox.count(6)
    await send(senders[0], 10)
    await send(senders[5], 10)
    await mailbox.count(8)
    error = await subscriber.error(contract.MessagesLostError)
    assert [each.count for each in subscriber.errors.items] == [9]
    assert error.node == senders[5].hex()
