"""Chapter R: what was missed arrives later, in order, and what cannot be had any more is told."""

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from ..broker import Broker
from ..subject import BrokerTransport, Settings, contract, wire_format
from .faults import hang, hold_until, pings, reported, until_down
from .nodes import Log, Node, SpiedNode, Wire, patience
from .plugin import MakeNode
from .proxy import Proxy

KEEPS = BrokerTransport.keeps_messages

Change = Callable[..., Settings]


async def cut_off(proxy: Proxy, node: Node, fault: str) -> None:
    """Take a node's connection away, in one of three ways; return when the node has told of it."""
    if fault == "mute":
        proxy.mute()
    else:
        await proxy.refuse()
    await node.until_down()


@pytest.mark.clause("R4")
@pytest.mark.parametrize("fault", ["refuse", "mute"])
async def test_all_that_was_published_meanwhile_arrives_in_order(
    node: MakeNode, proxy: Proxy, through: str, topic: str, fault: str
) -> None:
    publishers = [await node(), await node()]
    subscriber: Node = await node(noisy=True, url=through, heartbeat=0.5)
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
    node: MakeNode, proxy: Proxy, through: str, topic: str
) -> None:
    unheard: Node = await node()
    silent: SpiedNode = await node(SpiedNode, heartbeat=0.4)
    mailbox = Log()
    await unheard.publish(topic, "from before")
    subscriber: Node = await node(noisy=True, url=through)
    await subscriber.subscribe(topic, mailbox)
    await proxy.refuse()
    await subscriber.until_down()
    await pings(silent, 2)  # the age of a subscription is told no more exactly than a frame takes to travel
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
    node: MakeNode, proxy: Proxy, through: str, topic: str
) -> None:
    publisher, unheard = await node(max_history_bytes=0), await node(max_history_bytes=0)
    subscriber: Node = await node(noisy=True, url=through)
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
        await subscriber.errors.until(lambda _: subscriber.stats()["lost"] >= 10, "ten losses")
        lost = [error for error in subscriber.errors.items if isinstance(error, contract.MessagesLostError)]
        assert sorted(error.count for error in lost) == [3, 7]
        assert {error.topic for error in lost} == {topic}
        assert len({error.node for error in lost}) == 2
    await publisher.publish(topic, "last")
    arrived = await mailbox.before("last")
    assert len(arrived) + reported(subscriber) == 11


@pytest.mark.clause("R4", "T3")
async def test_what_a_small_history_has_no_more_is_reported_and_the_rest_arrives(
    node: MakeNode, proxy: Proxy, through: str, topic: str
) -> None:
    publisher: Node = await node(max_history_bytes=20_000)
    subscriber: Node = await node(noisy=True, url=through)
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
    node: MakeNode, proxy: Proxy, through: str, topic: str
) -> None:
    publisher: SpiedNode = await node(SpiedNode)
    subscriber: Node = await node(noisy=True, url=through, publish_timeout=0.4)
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
    node: MakeNode, proxy: Proxy, through: str, topic: str
) -> None:
    publisher: Node = await node()
    subscriber: Node = await node(noisy=True, url=through)
    first, late = Log(), Log()
    await subscriber.subscribe(topic, first)
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
async def test_a_burst_that_is_cut_off_arrives_whole(node: MakeNode, proxy: Proxy, through: str, topic: str) -> None:
    publisher: Node = await node(publish_timeout=60)
    subscriber: Node = await node(noisy=True, url=through)
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
    async with patience("more messages"):
        while not all(number >= goal for number, goal in zip(sent, goals, strict=True)):
            await asyncio.sleep(0.01)
        is_over.set()
        await asyncio.gather(*publishing)
    for index, (each, mailbox) in enumerate(zip(nodes, mailboxes, strict=True)):
        await mailbox.count(sum(sent) - sent[index])
        for sender in {0, 1, 2} - {index}:
            assert [number for other, number in mailbox.items if other == sender] == list(range(1, sent[sender] + 1))
        assert reported(each) == 0


@pytest.mark.clause("R7", "R4")
@pytest.mark.skipif(KEEPS, reason="not applicable: the broker keeps messages for nodes that are away")
async def test_what_waits_is_held_until_the_others_are_back(
    node: MakeNode, proxy: Proxy, through: str, topic: str
) -> None:
    publisher: SpiedNode = await node(SpiedNode, noisy=True, url=through)
    subscriber: SpiedNode = await node(SpiedNode, noisy=True, url=through)
    one, other = await node(), await node()
    mailbox, ticks, steps, gate = Log(), Log(), Log(), asyncio.Event()
    await subscriber.subscribe(topic, mailbox)
    await one.subscribe(f"{topic}-clock", ticks)
    await publisher.publish(topic, 0)
    await mailbox.count(1)
    await heard(subscriber, publisher, topic)
    publisher.trouble["publish"] = note(steps, "sent")
    subscriber.trouble["connected"] = hold_until(gate, steps, lambda *_: True)
    await proxy.cut()
    await publisher.until_ready(2)
    publisher.publish_nowait(topic, 1)
    for tick in range(5):
        await other.publish(f"{topic}-clock", tick)
        await ticks.count(tick + 1)
    steps("subscriber is let in")
    gate.set()
    assert await mailbox.count(2) == [0, 1]
    await publisher.publish(topic, "end")
    assert await mailbox.before("end") == [0, 1]
    assert [step for step in steps.items if step][:2] == ["subscriber is let in", "sent"]
    assert subscriber.stats()["repaired"] == reported(subscriber) == 0


def note(steps: Log, word: str) -> Any:
    """Return a trouble that only notes that its method was called."""

    async def note(*_: object) -> None:
        steps(word)

    return note


async def heard(one: SpiedNode, other: Node, topic: str) -> None:
    """Return when each of two nodes has heard the other on the control topic."""
    names = [f"{topic}-heard-{number}" for number in range(2)]
    ears = [Log(), Log()]
    for name, each, ear in zip(names, (one, other), ears, strict=True):
        await each.subscribe(name, ear)
    await one.publish(names[1], "from one")
    await other.publish(names[0], "from the other")
    for ear in ears:
        await ear.count(1)


@pytest.mark.clause("R4", "E3")
@pytest.mark.parametrize("method", ["control subscribe", "control publish"])
async def test_a_refused_control_topic_is_logged_once_and_all_else_works(
    node: MakeNode, proxy: Proxy, through: str, topic: str, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    publisher: Node = await node()
    subscriber: SpiedNode = await node(SpiedNode, connect=False, noisy=True, url=through)
    answers, mailbox = Log(), Log()
    kind = contract.SubscribeRefusedError if "subscribe" in method else contract.PublishRefusedError

    async def refuse(*_: object) -> None:
        raise kind("no rights to this one")

    subscriber.trouble[method] = refuse
    await subscriber.connect()
    await subscriber.subscribe(topic, mailbox)
    await publisher.subscribe(f"{topic}-answers", answers)
    for number in range(3):
        await publisher.publish(topic, number)
        await subscriber.publish(f"{topic}-answers", number)
    assert (await mailbox.count(3), await answers.count(3)) == ([0, 1, 2], [0, 1, 2])
    for outage in range(1, 3):
        await proxy.refuse()
        await until_down(subscriber, outage)
        await publisher.publish(topic, "missed")
        await proxy.heal()
        await subscriber.until_ready(outage + 1)
        await publisher.publish(topic, f"after outage {outage}")
        await mailbox.before(f"after outage {outage}")
    complaints = [record for record in caplog.records if "no rights to this one" in record.getMessage()]
    assert len(complaints) == (0 if KEEPS else 1)
    assert mailbox.items.count("missed") + reported(subscriber) == 2


@pytest.mark.clause("R4")
async def test_losses_are_told_on_the_topic_itself_where_there_is_no_control_topic(node: MakeNode, topic: str) -> None:
    publisher: SpiedNode = await node(SpiedNode, connect=False, heartbeat=0.4, publish_timeout=0.5)
    subscriber: Node = await node(noisy=True)
    mailbox, stuck, refusals = Log(), Log(), count()

    async def refuse_control(*_: object) -> None:
        raise contract.SubscribeRefusedError("no rights")

    async def hang_and_then_refuse(transport: Any, name: str) -> None:
        if not stuck.items:
            stuck(name)
            await hang()
        if next(refusals) == 0:
            raise contract.PublishRefusedError("not this one")

    publisher.trouble["control subscribe"] = refuse_control
    await publisher.connect()
    await subscriber.subscribe(topic, mailbox)
    await publisher.publish(topic, "first")
    publisher.trouble["publish"] = hang_and_then_refuse
    if not KEEPS:
        await stuck.count(1)  # the number of the first message
    outcomes = await asyncio.gather(*(publisher.publish(topic, number) for number in range(3)), return_exceptions=True)
    publisher.trouble.pop("publish")
    given_up = sum(isinstance(outcome, contract.PublishUnconfirmedError) for outcome in outcomes)
    await publisher.publish(topic, "last")
    await mailbox.before("last")
    assert reported(subscriber) == given_up == (1 if KEEPS else 3)


@pytest.mark.clause("R4")
async def test_the_control_topic_is_no_topic_for_hosts(node: MakeNode, wire: Wire, change: Change, topic: str) -> None:
    connector: Node = await node(control_topic=topic)
    with pytest.raises(contract.PublishRefusedError, match="control_topic"):
        await connector.publish(topic, 1)
    with pytest.raises(contract.PublishRefusedError, match="control_topic"):
        connector.publish_nowait(topic, 1)
    with pytest.raises(contract.SubscribeRefusedError, match="control_topic"):
        await connector.subscribe(topic, Log())
    with pytest.raises(contract.SubscribeRefusedError, match="control_topic"):
        async with connector.messages(topic):
            pass
