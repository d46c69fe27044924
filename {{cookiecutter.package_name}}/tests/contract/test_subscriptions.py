"""Chapter M: listeners share a subscription at the broker, and leave it one by one."""

import asyncio

import pytest

from ..subject import contract
from .nodes import Log, Node, SpiedNode, Wire
from .public import MakeNode


@pytest.mark.clause("M4", "M5")
async def test_after_the_last_listener_the_broker_delivers_no_more(node: MakeNode, wire: Wire, topic: str) -> None:
    publisher: Node = await node()
    await wire.transport.subscribe(topic)
    await wire.transport.subscribe(f"{topic}-marker")
    await wire.transport.unsubscribe(topic)
    await publisher.publish(topic, "nobody wants it")
    await publisher.publish(f"{topic}-marker", "marker")
    ((name, _), *_more) = await wire.payloads.count(1)
    assert name != topic, "the transport's `unsubscribe` did not end the subscription"


@pytest.mark.clause("M4")
async def test_listeners_share_one_subscription_at_the_broker(node: MakeNode, topic: str) -> None:
    subscriber: SpiedNode = await node(SpiedNode)
    publisher: Node = await node()
    mailboxes = [Log() for _ in range(3)]
    await asyncio.gather(*(subscriber.subscribe(topic, mailbox) for mailbox in mailboxes))
    await publisher.publish(topic, "all")
    for mailbox in mailboxes:
        assert await mailbox.count(1) == ["all"]
    for mailbox in mailboxes[1:]:
        await subscriber.unsubscribe(topic, mailbox)
    assert subscriber.called("unsubscribe") == 0
    await publisher.publish(topic, "one")
    assert await mailboxes[0].count(2) == ["all", "one"]
    await subscriber.unsubscribe(topic, mailboxes[0])
    assert (subscriber.called("subscribe"), subscriber.called("unsubscribe")) == (1, 1)


@pytest.mark.clause("M4")
async def test_subscribing_and_unsubscribing_at_once_ends_as_it_was_asked(node: MakeNode, topic: str) -> None:
    subscriber, publisher = await node(), await node()
    mailboxes = [Log() for _ in range(4)]
    for _ in range(5):
        await asyncio.gather(*(subscriber.subscribe(topic, mailbox) for mailbox in mailboxes))
        await asyncio.gather(
            *(subscriber.unsubscribe(topic, mailbox) for mailbox in mailboxes),
            subscriber.subscribe(topic, kept := Log()),
        )
        await publisher.publish(topic, "kept")
        assert await kept.count(1) == ["kept"]
        await subscriber.unsubscribe(topic, kept)
    assert [mailbox.items for mailbox in mailboxes] == [[]] * 4


@pytest.mark.basic(5)
@pytest.mark.clause("M5")
async def test_unsubscribe_ends_it_for_that_listener_alone(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    leaver, stayer = Log(), Log()
    await subscriber.subscribe(topic, leaver)
    await subscriber.subscribe(topic, stayer)
    await publisher.publish(topic, 1)
    await leaver.count(1)
    await subscriber.unsubscribe(topic, leaver)
    for number in range(2, 50):
        await publisher.publish(topic, number)
    assert await stayer.count(49) == list(range(1, 50))
    assert leaver.items == [1]
    with pytest.raises(contract.UnsubscribeError):
        await subscriber.unsubscribe(topic, leaver)
    with pytest.raises(contract.UnsubscribeError):
        await subscriber.unsubscribe(f"{topic} of another name", stayer)


@pytest.mark.clause("M5")
async def test_what_waits_for_a_listener_goes_with_it(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    gate, entered, stayer = asyncio.Event(), Log(), Log()

    async def slow(message: object) -> None:
        entered(message)
        await gate.wait()

    await subscriber.subscribe(topic, slow)
    await subscriber.subscribe(topic, stayer)
    for number in range(5):
        await publisher.publish(topic, number)
    await stayer.count(5)
    await subscriber.unsubscribe(topic, slow)
    gate.set()
    await publisher.publish(topic, "end")
    assert await stayer.before("end") == [0, 1, 2, 3, 4]
    assert entered.items == [0]


@pytest.mark.clause("M5")
async def test_the_last_listener_gets_nothing_after_unsubscribe(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    gone, back = Log(), Log()
    for turn in range(5):
        await subscriber.subscribe(topic, gone)
        flood = [asyncio.ensure_future(publisher.publish(topic, [turn, number])) for number in range(50)]
        await gone.count(1)
        await subscriber.unsubscribe(topic, gone)
        seen = len(gone.items)
        await asyncio.gather(*flood)
        await subscriber.subscribe(topic, back)
        await publisher.publish(topic, turn)
        assert await back.before(turn) == []
        assert len(gone.items) == seen
        await subscriber.unsubscribe(topic, back)
        gone.items.clear()
        back.items.clear()
