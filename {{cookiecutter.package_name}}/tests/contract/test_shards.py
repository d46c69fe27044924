"""Chapter M: topics that are spread over several topics of the broker, by the keys of their messages."""

import asyncio
from itertools import count
from typing import Any
from zlib import crc32

import pytest

from ..subject import contract, private_topic
from .balance import reported
from .faults import hold_until, until_down
from .nodes import Log, Node, SpiedNode, Wire, eventually
from .proxy import Proxy
from .public import MakeNode

SHARDS = 4


def shard_of(key: str | None) -> int:
    return 0 if key is None else crc32(key.encode()) % SHARDS


def keys_of(shard: int) -> tuple[str, str]:
    """Return two keys that belong to a shard."""
    found = (f"key {number}" for number in count() if shard_of(f"key {number}") == shard)
    return next(found), next(found)


KEYS = [None, *(key for shard in range(SHARDS) for key in keys_of(shard))]
"""None, and two keys of each shard."""


def has_all_markers(items: list[Any]) -> bool:
    return all(["marker", shard] in items for shard in range(SHARDS))


async def until_heard(publisher: Node, topic: str, *mailboxes: Log) -> None:
    """Publish a marker on each shard; return when each of the mailboxes has all of them."""
    for shard in range(SHARDS):
        await publisher.publish(topic, ["marker", shard], key=keys_of(shard)[0])
    for mailbox in mailboxes:
        await mailbox.until(has_all_markers, "a marker on each shard")


def without_markers(mailbox: Log) -> list[Any]:
    return [item for item in mailbox.items if item[0] != "marker"]


@pytest.mark.clause("M1", "M7")
async def test_messages_with_one_key_arrive_in_order(node: MakeNode, topic: str) -> None:
    publisher: Node = await node(shards=SHARDS)
    everything: Node = await node(shards=SHARDS)
    one_shard: Node = await node(shards=SHARDS)
    key = keys_of(2)[0]
    mailbox, pulled, part = Log(), Log(), Log()
    await everything.subscribe(topic, mailbox)
    await one_shard.subscribe(topic, part, key=key)
    sent: list[list[Any]] = [[KEYS[number % len(KEYS)], number] for number in range(40 * len(KEYS))]
    async with everything.messages(topic) as messages:
        await asyncio.gather(*(publisher.publish(topic, message, key=message[0]) for message in sent[::2]))
        for message in sent[1::2]:
            publisher.publish_nowait(topic, message, key=message[0])
        async for message in messages:
            pulled(message)
            if len(pulled.items) == len(sent):
                break
    await mailbox.count(len(sent))
    await until_heard(publisher, topic, mailbox)
    order = [*sent[::2], *sent[1::2]]
    for got in (without_markers(mailbox), pulled.items):
        assert len(got) == len(sent)
        for each in KEYS:
            assert [item for item in got if item[0] == each] == [item for item in order if item[0] == each]
    await part.until(lambda items: ["marker", 2] in items)
    assert without_markers(part) == [item for item in order if shard_of(item[0]) == 2]


@pytest.mark.clause("M4")
async def test_a_key_subscribes_to_its_shard_alone(node: MakeNode, topic: str) -> None:
    subscriber: SpiedNode = await node(SpiedNode, shards=SHARDS)
    everything, part, other_part = Log(), Log(), Log()
    await subscriber.subscribe(topic, part, key=keys_of(3)[0])
    assert [call for call in subscriber.calls if call[0] == "subscribe"] == [("subscribe", f"{topic}--3")]
    await subscriber.subscribe(topic, other_part, key=keys_of(3)[1])
    await subscriber.subscribe(topic, everything)
    assert subscriber.called("subscribe") == SHARDS
    await subscriber.unsubscribe(topic, everything)
    assert subscriber.called("unsubscribe") == SHARDS - 1
    await subscriber.unsubscribe(topic, other_part, key=keys_of(3)[1])
    await subscriber.unsubscribe(topic, part, key=keys_of(3)[0])
    assert subscriber.called("unsubscribe", f"{topic}--3") == 1


@pytest.mark.clause("M5")
async def test_unsubscribe_ends_it_on_all_shards(node: MakeNode, topic: str) -> None:
    publisher: Node = await node(shards=SHARDS)
    subscriber: SpiedNode = await node(SpiedNode, shards=SHARDS)
    leaver, stayer = Log(), Log()
    await subscriber.subscribe(topic, leaver)
    await subscriber.subscribe(topic, stayer)
    await until_heard(publisher, topic, leaver, stayer)
    await subscriber.unsubscribe(topic, leaver)
    for key in KEYS:
        await publisher.publish(topic, [key, "after"], key=key)
    await stayer.count(SHARDS + len(KEYS))
    assert without_markers(leaver) == []
    with pytest.raises(contract.UnsubscribeError):
        await subscriber.unsubscribe(topic, leaver)
    await subscriber.unsubscribe(topic, stayer)
    assert (subscriber.called("subscribe"), subscriber.called("unsubscribe")) == (SHARDS, SHARDS)


@pytest.mark.clause("M5")
async def test_a_listener_with_two_keys_of_a_shard_leaves_with_the_last(node: MakeNode, topic: str) -> None:
    publisher: Node = await node(shards=SHARDS)
    subscriber: SpiedNode = await node(SpiedNode, shards=SHARDS)
    mailbox, all_along = Log(), Log()
    one, other = keys_of(1)
    await asyncio.gather(*(subscriber.subscribe(topic, mailbox, key=key) for key in (one, other)))
    await subscriber.subscribe(topic, all_along, key=one)
    await publisher.publish(topic, 1, key=one)
    await publisher.publish(topic, 2, key=other)
    await subscriber.unsubscribe(topic, mailbox, key=one)
    with pytest.raises(contract.UnsubscribeError, match=one):
        await subscriber.unsubscribe(topic, mailbox, key=one)
    await publisher.publish(topic, 3, key=one)
    assert await mailbox.count(3) == [1, 2, 3]
    await subscriber.unsubscribe(topic, mailbox, key=other)
    await publisher.publish(topic, 4, key=other)
    assert await all_along.count(4) == [1, 2, 3, 4]
    assert mailbox.items == [1, 2, 3]
    assert subscriber.called("subscribe") == 1


@pytest.mark.clause("M4", "E3")
async def test_a_refused_shard_leaves_no_subscription(node: MakeNode, topic: str) -> None:
    publisher: Node = await node(shards=SHARDS)
    subscriber: SpiedNode = await node(SpiedNode, shards=SHARDS)
    mailbox = Log()

    async def refuse(_: object, name: str) -> None:
        if name == f"{topic}--2":
            raise contract.SubscribeRefusedError("not this one")

    subscriber.trouble["subscribe"] = refuse
    with pytest.raises(contract.SubscribeRefusedError, match="not this one") as refusal:
        await subscriber.subscribe(topic, mailbox)
    assert refusal.value.topic == topic
    assert f"{topic}--" not in str(refusal.value)
    await eventually(lambda: subscriber.called("unsubscribe") == SHARDS - 1, "the end of the other subscriptions")
    subscriber.trouble.clear()
    await subscriber.subscribe(topic, mailbox)
    await until_heard(publisher, topic, mailbox)


@pytest.mark.clause("M4", "L7")
async def test_a_cancelled_subscribe_leaves_no_shard_subscribed(node: MakeNode, topic: str) -> None:
    publisher: Node = await node(shards=SHARDS)
    subscriber: SpiedNode = await node(SpiedNode, shards=SHARDS)
    mailbox, entered, gate = Log(), Log(), asyncio.Event()
    subscriber.trouble["subscribe"] = hold_until(gate, entered, lambda _, name: name == f"{topic}--2")
    subscribing = asyncio.ensure_future(subscriber.subscribe(topic, mailbox))
    await entered.count(1)
    subscribing.cancel()
    await asyncio.wait((subscribing,))
    assert subscribing.cancelled()
    gate.set()
    await eventually(lambda: subscriber.called("unsubscribe") == SHARDS, "the end of all subscriptions")
    await subscriber.subscribe(topic, mailbox)
    await until_heard(publisher, topic, mailbox)
    assert subscriber.called("subscribe") == 2 * SHARDS


@pytest.mark.clause("E2")
async def test_a_node_with_other_shards_is_told_once(node: MakeNode, topic: str) -> None:
    many: Node = await node(shards=SHARDS, noisy=True)
    few: Node = await node(shards=2, noisy=True)
    mailbox, answers = Log(), Log()
    await few.subscribe(topic, mailbox)
    await many.subscribe(topic, answers)
    await many.publish(topic, "for few it is nowhere", key=keys_of(3)[0])
    told = await few.error(contract.ShardsDifferError)
    assert (told.mine, told.theirs) == (2, SHARDS)
    for number in range(3):
        await many.publish(topic, number)
        await few.publish(topic, number)
    await few.publish(topic, "on one that both have", key=keys_of(3)[0])
    assert await mailbox.count(3) == [0, 1, 2]
    assert set(await answers.count(4)) == {0, 1, 2, "on one that both have"}
    other = await many.error(contract.ShardsDifferError)
    assert (other.mine, other.theirs) == (SHARDS, 2)
    assert told.node != other.node
    for each in (many, few):
        assert [type(error) for error in each.errors.items] == [contract.ShardsDifferError]


@pytest.mark.clause("M6")
async def test_names_of_shards_are_refused(node: MakeNode, topic: str) -> None:
    sharded, other = await node(shards=SHARDS), await node(shards=SHARDS)
    for name in (f"{topic}--1", f"{topic}--31", f"{topic}\n--2"):
        await sharded.publish(topic, 1, key=keys_of(1)[0])  # has used that name at the broker
        with pytest.raises(contract.PublishRefusedError, match="shard"):
            await sharded.publish(name, 1)
        with pytest.raises(contract.PublishRefusedError, match="shard"):
            sharded.publish_nowait(name, 1)
        with pytest.raises(contract.SubscribeRefusedError, match="shard"):
            await sharded.subscribe(name, Log())
    mailbox = Log()
    for name in (f"{topic}--01", f"{topic}--32", f"{topic}-1"):
        await sharded.subscribe(name, mailbox)
        await other.publish(name, name)
    assert len(await mailbox.count(3)) == 3


@pytest.mark.clause("M6")
async def test_without_shards_no_name_is_refused(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    mailbox, plain = Log(), Log()
    await subscriber.subscribe(f"{topic}--1", mailbox)
    await subscriber.subscribe(topic, plain)
    await publisher.publish(f"{topic}--1", "the name of a shard")
    await publisher.publish(topic, "a key", key=keys_of(1)[0])
    assert await mailbox.count(1) == ["the name of a shard"]
    assert await plain.count(1) == ["a key"]


@pytest.mark.clause("M8")
async def test_a_private_topic_has_no_shards(node: MakeNode) -> None:
    publisher: Node = await node(shards=SHARDS)
    subscriber: SpiedNode = await node(SpiedNode, shards=SHARDS, node_name="node--1")
    mailbox, by_key = Log(), Log()
    await subscriber.subscribe(private_topic(subscriber.node_name), mailbox)
    await subscriber.subscribe(private_topic(subscriber.node_name), by_key, key=keys_of(1)[0])
    for number, key in enumerate(KEYS):
        await publisher.publish(private_topic("node--1"), number, key=key)
    for each in (mailbox, by_key):
        assert await each.count(len(KEYS)) == list(range(len(KEYS)))
    assert subscriber.called("subscribe") == 1


@pytest.mark.clause("M6", "E1")
async def test_a_key_that_is_no_text_is_refused(node: MakeNode, topic: str) -> None:
    connector: Any = await node()
    with pytest.raises(contract.PublishRefusedError, match="key = 5"):
        await connector.publish(topic, 1, key=5)
    with pytest.raises(contract.PublishRefusedError, match="key = 5"):
        connector.publish_nowait(topic, 1, key=5)
    with pytest.raises(contract.SubscribeRefusedError, match="key = 5"):
        await connector.subscribe(topic, Log(), key=5)
    with pytest.raises(contract.UnsubscribeError, match="key = 5"):
        await connector.unsubscribe(topic, Log(), key=5)


@pytest.mark.clause("S4")
async def test_an_error_on_a_shard_names_the_topic(node: MakeNode, wire: Wire, topic: str) -> None:
    subscriber: Node = await node(shards=SHARDS, noisy=True)
    await subscriber.subscribe(topic, Log())
    await wire.transport.publish(f"{topic}--1", b"this is no frame")
    error = await subscriber.error(contract.BadFrameError)
    assert error.topic == topic
    assert f"{topic}--1" not in str(error)


@pytest.mark.clause("R4")
async def test_what_was_missed_on_any_shard_arrives_later(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    publisher: Node = await node(shards=SHARDS)
    subscriber: Node = await node(shards=SHARDS, noisy=True, **through)
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    await until_heard(publisher, topic, mailbox)
    await proxy.refuse()
    await until_down(subscriber, 1)
    sent: list[list[Any]] = [[KEYS[number % len(KEYS)], number] for number in range(5 * len(KEYS))]
    for key, number in sent:
        await publisher.publish(topic, [key, number], key=key)
    await proxy.heal()
    await subscriber.until_ready(2)
    await mailbox.count(SHARDS + len(sent))
    got = without_markers(mailbox)
    for key in KEYS:
        assert [item for item in got if item[0] == key] == [item for item in sent if item[0] == key]
    assert reported(subscriber) == 0
