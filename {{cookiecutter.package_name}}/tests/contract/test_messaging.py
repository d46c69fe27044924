"""Chapter M: who gets which message, in which order."""

import asyncio
import threading
from typing import Any

import pytest

from ..subject import BrokerTransport, contract, private_topic
from .nodes import PATIENCE, Log, Node, SpiedNode, Wire, largest
from .proxy import Proxy
from .public import MakeNode


@pytest.mark.basic(3)
@pytest.mark.clause("M1")
async def test_every_other_subscribed_node_gets_each_message_once(node: MakeNode, topic: str) -> None:
    nodes: list[Node] = [await node() for _ in range(3)]
    bystander: Node = await node()
    mailboxes = [Log() for _ in nodes]
    for each, mailbox in zip(nodes, mailboxes, strict=True):
        await each.subscribe(topic, mailbox)
    for number in range(20):
        for index, each in enumerate(nodes):
            await each.publish(topic, [index, number])
    for each in nodes:
        await each.publish(topic, "end")
    for index, mailbox in enumerate(mailboxes):
        wanted = "the end from both others (does what is published reach `inbox.received`, with the same topic?)"
        got = await mailbox.until(lambda items: items.count("end") == 2, wanted)
        sent = [[other, number] for number in range(20) for other in range(3) if other != index]
        assert sorted(message for message in got if message != "end") == sorted(sent)
    assert bystander.stats()["delivered"] == 0


@pytest.mark.basic(4)
@pytest.mark.clause("M2")
async def test_a_node_never_gets_its_own_messages(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    one: Node = await node(**through, noisy=True)
    other: Node = await node()
    own = private_topic(one.node_name)
    mailboxes = {name: [Log(), Log()] for name in (topic, own)}
    for name, pair in mailboxes.items():
        for mailbox in pair:
            await one.subscribe(name, mailbox)
    for turn in ("before", "after"):
        for name, pair in mailboxes.items():
            await one.publish(name, "own")
            one.publish_nowait(name, "own")
            await one.publish(name, "own")
            await other.publish(name, turn)
            for mailbox in pair:
                assert "own" not in await mailbox.before(turn)
        if turn == "before":
            await proxy.cut()
            await one.until_ready(2)


@pytest.mark.clause("M2")
async def test_two_connectors_with_the_same_settings_are_two_nodes(node: MakeNode, topic: str) -> None:
    one: Node = await node(node_name="twin")
    two: Node = await node(node_name="twin")
    mailboxes = [Log(), Log()]
    await one.subscribe(topic, mailboxes[0])
    await two.subscribe(topic, mailboxes[1])
    await one.publish(topic, "from one")
    await two.publish(topic, "from two")
    assert await mailboxes[0].count(1) == ["from two"]
    assert await mailboxes[1].count(1) == ["from one"]


@pytest.mark.clause("M3")
async def test_a_subscription_is_live_when_subscribe_returns(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    for number in range(25):
        mailbox = Log()
        name = f"{topic}-{number % 5}"
        await publisher.publish(name, "too early")
        await subscriber.subscribe(name, mailbox)
        await publisher.publish(name, number)
        assert await mailbox.before(number) == []
        await subscriber.unsubscribe(name, mailbox)


@pytest.mark.parametrize(
    "method",
    [
        pytest.param("publish", marks=pytest.mark.clause("R3")),
        pytest.param("subscribe", marks=pytest.mark.clause("M3")),
    ],
)
async def test_it_returns_when_the_broker_has_answered_and_not_before(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str, method: str
) -> None:
    connector: Node = await node(**through, heartbeat=10 * PATIENCE)
    one, other, ticks = await node(), await node(), Log()
    await one.subscribe(f"{topic}-clock", ticks)
    proxy.mute()
    argument: Any = Log() if method == "subscribe" else "something"
    waiting = asyncio.ensure_future(getattr(connector, method)(topic, argument))
    for tick in range(10):
        await other.publish(f"{topic}-clock", tick)
    await ticks.count(10)
    assert not waiting.done(), f"`{method}` returned though the broker could not answer"
    await proxy.heal()
    await waiting


@pytest.mark.clause("M3")
async def test_a_second_listener_gets_nothing_from_before_it_subscribed(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    first, late = Log(), Log()
    await subscriber.subscribe(topic, first)
    for number in range(10):
        await publisher.publish(topic, number)
        await subscriber.subscribe(topic, late)
        await publisher.publish(topic, f"end {number}")
        assert await late.before(f"end {number}") == []
        await subscriber.unsubscribe(topic, late)
        late.items.clear()
    assert len(await first.count(20)) == 20


@pytest.mark.clause("M3")
async def test_what_is_on_its_way_when_a_second_listener_comes_passes_it_by(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    if BrokerTransport.ping is contract.Transport.ping:
        pytest.skip("not applicable: without `ping` in the transport nobody can know what is in flight")
    subscriber: SpiedNode = await node(SpiedNode, **through, heartbeat=10 * PATIENCE)
    publisher: Node = await node()
    first, late, entered = Log(), Log(), Log()
    await subscriber.subscribe(topic, first)

    async def enter(*_: object) -> None:
        entered()

    subscriber.trouble["ping"] = enter
    proxy.mute()
    await publisher.publish(topic, "on its way")
    coming = asyncio.ensure_future(subscriber.subscribe(topic, late))
    for _turn in range(10):
        await asyncio.sleep(0)
    await proxy.heal()
    await coming
    await publisher.publish(topic, "end")
    assert await late.before("end") == []
    assert await first.before("end") == ["on its way"]


@pytest.mark.clause("M7")
async def test_messages_stay_in_order(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    waiting = []
    for number in range(3000):
        if number % 3:
            waiting.append(asyncio.ensure_future(publisher.publish(topic, number)))
            await asyncio.sleep(0)
        else:
            publisher.publish_nowait(topic, number)
    await asyncio.gather(*waiting)
    assert await mailbox.count(3000) == list(range(3000))


@pytest.mark.clause("M7", "R4")
async def test_large_and_small_messages_stay_in_order(node: MakeNode, wire: Wire, topic: str) -> None:
    publisher: Node = await node()
    subscriber: Node = await node()
    mailbox, large = Log(), min(300_000, largest(publisher, wire))
    await subscriber.subscribe(topic, lambda message: mailbox(message if type(message) is int else len(message)))
    for number in range(30):
        publisher.publish_nowait(topic, number if number % 3 else "x" * (large - number))
        if number % 10 == 0:
            await publisher.publish(f"{topic}-other", "meanwhile")
    await mailbox.count(30)
    assert mailbox.items == [number if number % 3 else large - number for number in range(30)]
    stats = subscriber.stats()
    assert (stats["lost"], stats["repaired"], stats["duplicates"]) == (0, 0, 0), "nothing was cut"


@pytest.mark.clause("M1")
async def test_what_arrives_is_handed_over_on_the_thread_of_the_loop(node: MakeNode, wire: Wire, topic: str) -> None:
    publisher: Node = await node()
    await wire.transport.subscribe(topic)
    await publisher.publish(topic, "something")
    await wire.payloads.count(1)
    assert wire.threads == {threading.get_ident()}, "hand over with `Bridge` what a client's thread receives"


@pytest.mark.clause("M8")
async def test_a_private_topic_is_its_owners(node: MakeNode) -> None:
    owner, other, publisher = await node(), await node(), await node()
    mine, theirs = Log(), Log()
    await owner.subscribe(private_topic(owner.node_name), mine)
    await other.subscribe(private_topic(other.node_name), theirs)
    await publisher.publish(private_topic(owner.node_name), "for the owner")
    await publisher.publish(private_topic(other.node_name), "for the other")
    assert await mine.count(1) == ["for the owner"]
    assert await theirs.count(1) == ["for the other"]
