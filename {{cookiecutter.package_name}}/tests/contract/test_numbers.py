"""Chapter R: numbers show what is missing, what came twice, and what was never wanted."""

import asyncio
from typing import Any

import pytest

from ..subject import BrokerTransport, contract, wire_format
from .balance import reported
from .faults import CertainNode
from .nodes import PATIENCE, Log, Node, SpiedNode, Wire
from .proxy import Proxy
from .public import MakeNode


@pytest.mark.clause("R4")
async def test_what_a_cut_receiver_missed_arrives_later(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    publisher: Node = await node()
    subscriber: Node = await node(noisy=True, **through)
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    await publisher.publish(topic, "first")
    await mailbox.count(1)
    await proxy.refuse()
    await subscriber.until_down()
    for number in range(7):
        await publisher.publish(topic, number)
    await proxy.heal()
    await subscriber.until_ready(2)
    assert await mailbox.count(8) == ["first", *range(7)]
    await publisher.publish(topic, "last")
    assert await mailbox.before("last") == ["first", *range(7)]
    assert subscriber.stats()["repaired"] == (0 if BrokerTransport.keeps_messages else 7)
    assert reported(subscriber) == 0


@pytest.mark.clause("R4")
async def test_a_frame_that_comes_back_or_comes_again_is_dropped(node: MakeNode, wire: Wire, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    own, others = Log(), Log()
    await wire.transport.subscribe(topic)
    await publisher.subscribe(topic, own)
    await subscriber.subscribe(topic, others)
    await publisher.publish(topic, "once")
    ((_, payload),) = await wire.payloads.count(1)
    filtered = publisher.stats()["filtered"]
    await wire.transport.publish(topic, payload)
    await subscriber.publish(topic, "end")
    await publisher.publish(topic, "end")
    assert await own.count(1) == ["end"]
    assert await others.count(2) == ["once", "end"]
    counted = subscriber.stats()
    assert publisher.stats()["filtered"] > filtered
    assert (counted["published"], counted["delivered"], counted["duplicates"], counted["lost"]) == (1, 2, 1, 0)


@pytest.mark.clause("R4")
async def test_a_message_that_was_given_up_is_reported_to_who_misses_it(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    publisher: Node = await node(noisy=True, **through, publish_timeout=0.3)
    subscriber: Node = await node(noisy=True)
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    await publisher.publish(topic, "first")
    await proxy.refuse()
    await publisher.until_down()
    for _ in range(3):
        with pytest.raises(contract.PublishUnconfirmedError):
            await publisher.publish(topic, "given up")
    await proxy.heal()
    await subscriber.errors.until(lambda _: reported(subscriber) == 3)
    assert mailbox.items == ["first"]


def numbers_told(payloads: list[tuple[str, bytes]], topic: str) -> list[int]:
    """Return the numbers that control frames have announced for a topic."""
    frames = [wire_format.unpack(payload) for _, payload in payloads]
    controls = [wire_format.unpack_control(frame) for frame in frames if frame.kind == wire_format.CONTROL]
    return [count.number for control in controls for count in control.counts if count.topic == topic]


@pytest.mark.clause("R4", "R5")
async def test_a_silent_node_tells_its_number_and_stays_ready(node: MakeNode, wire: Wire, topic: str) -> None:
    publisher: CertainNode = await node(CertainNode, heartbeat=0.4)
    for name in (topic, publisher.settings.control_topic):
        await wire.transport.subscribe(name)
    for text in ("one", "two"):
        await publisher.publish(topic, text)
    await wire.payloads.until(lambda payloads: len(numbers_told(payloads, topic)) >= 2, "the number, told twice")
    assert numbers_told(wire.payloads.items, topic) == [2, 2]
    assert publisher.is_ready
    assert len(publisher.readies.items) == 1


@pytest.mark.clause("R4")
async def test_the_number_that_is_told_leaves_out_what_is_still_being_sent(
    node: MakeNode, wire: Wire, topic: str
) -> None:
    publisher: CertainNode = await node(CertainNode, heartbeat=0.4, publish_timeout=2 * PATIENCE)
    subscriber: Node = await node()
    mailbox, held, gate = Log(), Log(), asyncio.Event()
    await subscriber.subscribe(topic, mailbox)
    for name in (f"{topic}-clock", publisher.settings.control_topic):
        await wire.transport.subscribe(name)
    await publisher.publish(topic, 1)

    async def hold(_: object, name: str) -> None:
        if name == topic and not held.items:
            held(name)
            await gate.wait()

    publisher.trouble["publish"] = hold
    waiting = asyncio.ensure_future(publisher.publish(topic, 2))
    await held.count(1)
    clock = f"{topic}-clock"
    await publisher.publish(clock, "tick")
    await wire.payloads.until(lambda payloads: len(numbers_told(payloads, clock)) >= 2, "the clock's number, twice")
    told = numbers_told(wire.payloads.items, topic)
    assert set(told) == (set() if BrokerTransport.keeps_messages else {1})
    gate.set()
    await waiting
    assert await mailbox.count(2) == [1, 2]
    assert (reported(subscriber), subscriber.stats()["duplicates"]) == (0, 0)


@pytest.mark.clause("R4")
async def test_who_comes_back_to_a_topic_is_not_told_of_what_it_did_not_want(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    mailbox = Log()
    for turn in range(3):
        await subscriber.subscribe(topic, mailbox)
        await publisher.publish(topic, turn)
        await mailbox.count(turn + 1)
        await subscriber.unsubscribe(topic, mailbox)
        for _ in range(5):
            await publisher.publish(topic, "unwanted")
    assert mailbox.items == [0, 1, 2]
    assert reported(subscriber) == 0


@pytest.mark.clause("R4", "M5")
async def test_a_quick_return_to_a_busy_topic_reports_no_loss(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    is_over = asyncio.Event()

    async def publish() -> None:
        while not is_over.is_set():
            await publisher.publish(topic, "busy")

    publishing = asyncio.ensure_future(publish())
    for _ in range(50):
        mailbox = Log()
        await subscriber.subscribe(topic, mailbox)
        await mailbox.count(1)
        leaving = asyncio.ensure_future(subscriber.unsubscribe(topic, mailbox))
        await asyncio.sleep(0)
        await subscriber.subscribe(topic, back := Log())
        await leaving
        await back.count(1)
        await subscriber.unsubscribe(topic, back)
    is_over.set()
    await publishing
    assert reported(subscriber) == 0


@pytest.mark.clause("R4", "M5")
async def test_who_returns_while_the_broker_is_still_told_of_its_leaving_is_told_of_no_loss(
    node: MakeNode, topic: str
) -> None:
    subscriber: SpiedNode = await node(SpiedNode, connect=False)
    publisher: Node = await node()
    gone, back, entered, arrived = Log(), Log(), Log(), Log()
    gates = {"unsubscribe": asyncio.Event(), "subscribe": asyncio.Event()}

    def hold(method: str) -> Any:
        async def hold(*_: object) -> None:
            entered(method)
            await gates[method].wait()

        return hold

    async def watch(transport: Any, _: object) -> None:
        received = transport.inbox.received

        def receive(name: str, payload: bytes) -> None:
            received(name, payload)
            arrived(name)

        transport.inbox.received = receive

    subscriber.trouble["connect"] = watch
    await subscriber.connect()
    await subscriber.subscribe(topic, gone)
    subscriber.trouble.update({method: hold(method) for method in gates})
    leaving = asyncio.ensure_future(subscriber.unsubscribe(topic, gone))
    await entered.count(1)
    returning = asyncio.ensure_future(subscriber.subscribe(topic, back))
    await asyncio.sleep(0)
    await publisher.publish(topic, 0)
    await arrived.until(lambda topics: topic in topics, "the message")
    gates["unsubscribe"].set()
    await entered.count(2)
    for number in range(1, 6):
        await publisher.publish(topic, number)
    gates["subscribe"].set()
    await asyncio.gather(leaving, returning)
    await publisher.publish(topic, "end")
    while_coming = await back.before("end")
    assert while_coming == sorted(set(while_coming))
    assert reported(subscriber) == 0
