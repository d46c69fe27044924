"""Chapter R: missed messages arrive later, in order, and lost ones are reported."""

import asyncio
from typing import Any

import pytest

from ..broker import Broker
from ..subject import BrokerTransport, contract, wire_format
from .balance import reported
from .faults import CertainNode, hold_until, pings
from .nodes import PATIENCE, Log, Node, SpiedNode, eventually, patience
from .proxy import Proxy
from .public import MakeNode

KEEPS = BrokerTransport.keeps_messages


async def cut_off(proxy: Proxy, node: Node, fault: str) -> None:
    """Take a node's connection away, in one of three ways; return when the node has reported it."""
    if fault == "mute":
        proxy.mute()
    else:
        await proxy.refuse()
    await node.until_down()


@pytest.mark.clause("R4")
@pytest.mark.parametrize("fault", ["refuse", "mute"])
async def test_all_that_was_published_meanwhile_arrives_in_order(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str, fault: str
) -> None:
    publishers = [await node(heartbeat=10 * PATIENCE) for _ in range(2)]  # they announce no numbers
    subscriber: Node = await node(noisy=True, **through, heartbeat=0.5)
    mailboxes = {name: Log() for name in (topic, f"{topic}-too")}
    for name, mailbox in mailboxes.items():
        await subscriber.subscribe(name, mailbox)
        for index, publisher in enumerate(publishers):
            await publisher.publish(name, [index, 0])
        await mailbox.count(2)
    await cut_off(proxy, subscriber, fault)
    for number in range(1, 50):
        for name in mailboxes:
            for index, publisher in enumerate(publishers):
                await publisher.publish(name, [index, number])
    await proxy.heal()
    await subscriber.until_ready(2)
    for mailbox in mailboxes.values():
        await mailbox.count(100)
        for index in range(2):
            assert [number for sender, number in mailbox.items if sender == index] == list(range(50))
    stats = subscriber.stats()
    assert (reported(subscriber), stats["delivered"]) == (0, 200)
    assert KEEPS or stats["repaired"] >= 196


@pytest.mark.clause("R4")
async def test_the_first_message_in_an_outage_arrives_and_nothing_older(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    unheard: Node = await node()
    silent: CertainNode = await node(CertainNode, heartbeat=0.4)
    mailbox = Log()
    await unheard.publish(topic, "from before")
    subscriber: Node = await node(noisy=True, **through)
    await subscriber.subscribe(topic, mailbox)
    await proxy.refuse()
    await subscriber.until_down()
    await pings(silent, 2)  # the age of a subscription is no more exact than the travel time of a frame
    for number in range(3):
        await unheard.publish(topic, ["unheard", number])
        await silent.publish(topic, ["silent", number])
    await proxy.heal()
    await subscriber.until_ready(2)
    await mailbox.count(6)
    await unheard.publish(topic, "end")
    arrived = await mailbox.before("end")
    for name in ("unheard", "silent"):
        assert [message[1] for message in arrived if message[0] == name] == [0, 1, 2]
    assert (len(arrived), reported(subscriber)) == (6, 0)


@pytest.mark.clause("R4")
async def test_a_question_that_is_held_up_on_its_way_asks_for_no_less(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    unheard: Node = await node()
    subscriber: SpiedNode = await node(SpiedNode, noisy=True, **through)
    mailbox, marks, delay = Log(), Log(), 0.3

    async def hold_up(*_: object) -> None:
        await asyncio.sleep(delay)

    await unheard.subscribe(f"{topic}-mark", marks)
    await subscriber.subscribe(topic, mailbox)
    await eventually(lambda: KEEPS or subscriber.called("control publish"), "the question for numbers", 0)
    await subscriber.publish(f"{topic}-mark", "the question for numbers has arrived")
    await marks.count(1)
    await proxy.refuse()
    await subscriber.until_down()
    for number in range(3):
        await unheard.publish(topic, number)
    subscriber.trouble["control publish"] = hold_up
    await proxy.heal()
    assert await mailbox.count(3) == [0, 1, 2]


@pytest.mark.clause("R4")
async def test_a_newcomer_gets_nothing_from_before_it_subscribed(node: MakeNode, topic: str) -> None:
    publisher, first, later = await node(), await node(), await node()
    mailboxes = [Log(), Log()]
    await first.subscribe(topic, mailboxes[0])
    for number in range(3):
        await publisher.publish(topic, number)
    await later.subscribe(topic, mailboxes[1])
    await publisher.publish(topic, "end")
    assert await mailboxes[1].before("end") == []
    assert await mailboxes[0].before("end") == [0, 1, 2]
    assert reported(later) == later.stats()["repaired"] == 0


@pytest.mark.clause("R4")
async def test_without_a_history_the_exact_number_is_reported(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    publisher, unheard = await node(max_history_bytes=0), await node(max_history_bytes=0)
    subscriber: Node = await node(noisy=True, **through)
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    await publisher.publish(topic, "first")
    await mailbox.count(1)
    await proxy.refuse()
    await subscriber.until_down()
    for number in range(7):
        await publisher.publish(topic, number)
    for number in range(3):
        await unheard.publish(topic, number)
    await proxy.heal()
    await subscriber.until_ready(2)
    if KEEPS:
        await mailbox.count(11)
    else:
        ready = asyncio.get_running_loop().time()
        await subscriber.errors.until(lambda _: subscriber.stats()["lost"] >= 10, "ten losses")
        assert asyncio.get_running_loop().time() - ready < subscriber.settings.heartbeat
        lost = [error for error in subscriber.errors.items if isinstance(error, contract.MessagesLostError)]
        assert sorted(error.count for error in lost) == [3, 7]
        assert {error.topic for error in lost} == {topic}
        assert len({error.node for error in lost}) == 2
    await publisher.publish(topic, "last")
    arrived = await mailbox.before("last")
    assert len(arrived) + reported(subscriber) == 11


@pytest.mark.clause("R4", "T3")
async def test_what_a_small_history_has_no_more_is_reported_and_the_rest_arrives(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    publisher: Node = await node(max_history_bytes=20_000)
    subscriber: Node = await node(noisy=True, **through)
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    await publisher.publish(topic, [-1, ""])
    await mailbox.count(1)
    await proxy.refuse()
    await subscriber.until_down()
    for number in range(100):
        await publisher.publish(topic, [number, "x" * 1000])
    await proxy.heal()
    await subscriber.until_ready(2)
    await mailbox.until(lambda items: items[-1][0] == 99, "the last message")
    numbers = [number for number, _ in mailbox.items[1:]]
    assert numbers == list(range(100 - len(numbers), 100))
    assert len(numbers) + reported(subscriber) == 100
    assert KEEPS or 10 <= len(numbers) <= 20


@pytest.mark.clause("R4")
async def test_a_second_listener_gets_nothing_of_a_gap_that_is_being_repaired(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    publisher: SpiedNode = await node(SpiedNode)
    subscriber: Node = await node(noisy=True, **through, publish_timeout=0.4)
    first, late, entered, gate = Log(), Log(), Log(), asyncio.Event()
    await subscriber.subscribe(topic, first)
    await publisher.publish(topic, "before")
    await first.count(1)
    await proxy.refuse()
    await subscriber.until_down()
    for number in range(3):
        await publisher.publish(topic, number)
    publisher.trouble["publish"] = hold_until(
        gate, entered, lambda transport, _: wire_format.unpack(transport.payload).kind == wire_format.AGAIN
    )
    await proxy.heal()
    if not KEEPS:
        await entered.count(1)
    await subscriber.until_ready(2)
    async with patience("the second listener"):
        await subscriber.subscribe(topic, late)
    gate.set()
    assert await first.count(4) == ["before", 0, 1, 2]
    await publisher.publish(topic, "end")
    assert await late.before("end") == []
    assert await first.before("end") == ["before", 0, 1, 2]
    assert reported(subscriber) == 0


@pytest.mark.clause("R4", "M3")
async def test_a_second_listener_waits_for_a_repair_and_then_misses_nothing(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    publisher: Node = await node()
    subscriber: Node = await node(noisy=True, **through)
    first, late = Log(), Log()
    await subscriber.subscribe(topic, first)
    await publisher.subscribe(f"{topic}-other", Log())  # it announces that, so others wait for it
    await publisher.publish(topic, "before")
    await first.count(1)
    await proxy.refuse()
    await subscriber.until_down()
    for number in range(200):
        await publisher.publish(topic, number)
    coming = asyncio.ensure_future(subscriber.subscribe(topic, late))
    await proxy.heal()
    await coming
    numbers = list(range(200, 220))
    for number in numbers:
        await publisher.publish(topic, number)
    assert await late.count(20) == numbers
    assert await first.count(221) == ["before", *range(220)]


@pytest.mark.clause("R4")
async def test_a_burst_that_is_cut_off_arrives_whole(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    publisher: CertainNode = await node(CertainNode, publish_timeout=60)
    subscriber: Node = await node(noisy=True, **through)
    mailbox, total = Log(), 3000
    await subscriber.subscribe(topic, mailbox)
    await publisher.publish(topic, [-1, ""])
    await mailbox.count(1)
    proxy.mute()
    for number in range(total):
        publisher.publish_nowait(topic, [number, "x" * 1000])
        if number == total // 2:
            await proxy.cut()
        if number % 100 == 0:
            await asyncio.sleep(0)
    await proxy.heal()
    await mailbox.count(total + 1)
    assert [number for number, _ in mailbox.items] == list(range(-1, total))
    assert (reported(subscriber), KEEPS or subscriber.stats()["repaired"] > 0) == (0, True)


@pytest.mark.clause("R7", "R4")
async def test_a_restart_under_load_loses_nothing(node: MakeNode, broker: Broker, topic: str) -> None:
    if not broker.is_running:
        pytest.skip("the broker is not ours to restart")
    if KEEPS and not Broker.is_durable:
        pytest.skip("not applicable: this broker forgets in a restart what it keeps")
    nodes: list[Node] = [await node(noisy=True, publish_timeout=60) for _ in range(3)]
    mailboxes, sent, is_over = [Log() for _ in nodes], [0, 0, 0], asyncio.Event()
    for each, mailbox in zip(nodes, mailboxes, strict=True):
        await each.subscribe(topic, mailbox)

    async def publish(index: int) -> None:
        while not is_over.is_set():
            sent[index] += 1
            await nodes[index].publish(topic, [index, sent[index]])
            await asyncio.sleep(0.002)

    publishing = [asyncio.ensure_future(publish(index)) for index in range(3)]
    for mailbox in mailboxes:
        await mailbox.until(lambda items: len({sender for sender, _ in items}) == 2, "messages of both others")
    await broker.restart()
    for each in nodes:
        await each.until_ready(2)
    goals = [number + 20 for number in sent]
    await eventually(
        lambda: all(number >= goal for number, goal in zip(sent, goals, strict=True)), "20 more messages of each node"
    )
    is_over.set()
    await asyncio.gather(*publishing)
    for index, (each, mailbox) in enumerate(zip(nodes, mailboxes, strict=True)):
        await mailbox.count(sum(sent) - sent[index])
        for sender in {0, 1, 2} - {index}:
            assert [number for other, number in mailbox.items if other == sender] == list(range(1, sent[sender] + 1))
        assert reported(each) == 0
