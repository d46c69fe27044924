"""Chapter M: listeners that are pulled, that are odd, that are too slow, and topics that are members of enumerations."""

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest

from ..subject import contract
from .balance import sum_of
from .faults import ODD_DEEDS, RAISING
from .nodes import Log, Node, SpiedNode, patience
from .public import MakeNode


@pytest.mark.clause("M9")
async def test_a_listener_may_do_anything(node: MakeNode, topic: str) -> None:
    one, other = await node(), await node()
    answers, extra = Log(), Log()
    await other.subscribe(f"{topic}-answers", answers)

    async def listener(message: str) -> None:
        await one.publish(f"{topic}-answers", f"{message} published")
        await one.subscribe(f"{topic}-more", extra)
        await one.publish(f"{topic}-answers", f"{message} subscribed")
        await one.unsubscribe(topic, listener)
        await one.publish(f"{topic}-answers", f"{message} unsubscribed")

    async def closer(_: object) -> None:
        await one.close()
        extra("closed by its listener")

    await one.subscribe(topic, listener)
    await other.publish(topic, "1")
    assert await answers.count(3) == ["1 published", "1 subscribed", "1 unsubscribed"]
    await other.publish(f"{topic}-more", "2")
    assert await extra.count(1) == ["2"]
    await one.subscribe(topic, closer)
    await other.publish(topic, "3")
    assert await extra.count(2) == ["2", "closed by its listener"]
    assert len(await one.closes.count(1)) == 1


@pytest.mark.clause("M10")
async def test_a_listener_that_raises_harms_nobody(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node(noisy=True)
    bad, worse, good = Log(), Log(), Log()

    def raises(message: object) -> None:
        bad(message)
        raise ValueError("bad day")

    async def raises_later(message: object) -> None:
        worse(message)
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    for listener in (raises, raises_later, good):
        await subscriber.subscribe(topic, listener)
    await asyncio.gather(*(publisher.publish(topic, number) for number in range(3)))
    for log in (bad, worse, good):
        assert await log.count(3) == [0, 1, 2]
    errors = await subscriber.errors.count(6)
    assert all(isinstance(error, contract.ListenerError) for error in errors)
    assert sum("bad day" in str(error) and isinstance(error.__cause__, ValueError) for error in errors) == 3


@pytest.mark.clause("M10")
async def test_what_one_listener_does_to_a_message_no_other_sees(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    good = Log()
    await subscriber.subscribe(topic, lambda message: message.clear())
    await subscriber.subscribe(topic, good)
    await publisher.publish(topic, {"kept": True})
    assert await good.count(1) == [{"kept": True}]


@pytest.mark.clause("M11")
async def test_a_slow_listener_delays_nobody(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    gate, entered, left, quick, quick_too, elsewhere = asyncio.Event(), Log(), Log(), Log(), Log(), Log()

    async def slow(message: object) -> None:
        entered(message)
        await gate.wait()
        left(message)

    async def quick_coroutine(message: object) -> None:
        await asyncio.sleep(0)
        quick_too(message)

    await subscriber.subscribe(topic, slow)
    await subscriber.subscribe(topic, quick)
    await subscriber.subscribe(topic, quick_coroutine)
    await subscriber.subscribe(f"{topic}-other", elsewhere)
    for number in range(5):
        await publisher.publish(topic, number)
    await publisher.publish(f"{topic}-other", "through")
    await subscriber.publish(f"{topic}-other", "and out")
    assert await quick.count(5) == [0, 1, 2, 3, 4]
    assert await quick_too.count(5) == [0, 1, 2, 3, 4]
    assert await elsewhere.count(1) == ["through"]
    assert (entered.items, left.items) == ([0], [])
    gate.set()
    assert await left.count(5) == [0, 1, 2, 3, 4]


@pytest.mark.clause("M11")
async def test_a_quick_listener_loses_nothing_to_a_large_frame(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node(max_pending_messages=10)
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    for number in range(200):
        publisher.publish_nowait(topic, number)
    assert await mailbox.count(200) == list(range(200))


@pytest.mark.clause("M11", "T3")
async def test_too_slow_a_listener_loses_the_oldest_and_is_told_how_many(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node(noisy=True, max_pending_messages=10)
    gate, got, quick = asyncio.Event(), Log(), Log()

    async def slow(message: object) -> None:
        got(message)
        await gate.wait()

    await subscriber.subscribe(topic, slow)
    await subscriber.subscribe(topic, quick)
    await publisher.publish(topic, 0)
    await got.count(1)
    for number in range(1, 21):
        await publisher.publish(topic, number)
        await quick.count(number + 1)
    await asyncio.gather(*(publisher.publish(topic, number) for number in range(21, 31)))
    await quick.count(31)
    gate.set()
    assert await got.count(11) == [0, *range(21, 31)]
    errors = await subscriber.errors.until(lambda errors: sum(error.count for error in errors) >= 20, "20 in all")
    assert sum(error.count for error in errors) == 20
    assert {(type(error), error.topic) for error in errors} == {(contract.SlowListenerError, topic)}
    assert len(errors) <= 3


class Colour(str, Enum):  # noqa: UP042
    """Topics as Python had them before `StrEnum`."""

    RED = "red"
    DEEP_RED = "deep red"


def odd_listener(log: Log, deed: Callable[[], None], is_async: bool) -> Callable[[Any], Any]:
    """Return a listener that logs each message, and then does something odd."""

    def listener(message: object) -> None:
        log(message)
        deed()

    async def later(message: object) -> None:
        log(message)
        await asyncio.sleep(0)
        deed()
        await asyncio.sleep(0)

    return later if is_async else listener


@pytest.mark.clause("M10")
async def test_whatever_a_listener_raises_or_cancels_harms_nobody(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node(noisy=True)
    odd, good = [Log() for _ in range(2 * len(ODD_DEEDS))], Log()
    for index, log in enumerate(odd):
        await subscriber.subscribe(topic, odd_listener(log, ODD_DEEDS[index // 2], bool(index % 2)))
    await subscriber.subscribe(topic, good)
    await asyncio.gather(*(publisher.publish(topic, number) for number in range(3)))  # the last two in one frame
    for log in (*odd, good):
        assert await log.count(3) == [0, 1, 2]
    await subscriber.errors.count(3 * len(odd))
    await publisher.publish(topic, "end")
    await good.before("end")
    for log in odd:
        assert await log.before("end") == [0, 1, 2]
    await subscriber.errors.count(4 * len(odd))
    assert {type(error) for error in subscriber.errors.items} == {contract.ListenerError}
    assert len(subscriber.errors.items) == 4 * len(odd)


@pytest.mark.clause("E2")
async def test_whatever_a_callback_raises_harms_nobody(node: MakeNode, topic: str) -> None:
    connector: Node = await node(noisy=True)
    called = Log()

    def odd(deed: Callable[[], None]) -> Callable[[object], None]:
        def callback(outcome: object) -> None:
            called(outcome)
            deed()

        return callback

    async with patience("publishes after odd callbacks"):
        for deed in ODD_DEEDS:
            connector.publish_nowait(topic, "odd", odd(deed))
            connector.publish_nowait(topic, "odd", odd(deed))
            await connector.publish(topic, "in the same frame")
            await connector.publish(topic, "after")
    assert called.items == [None] * 2 * len(ODD_DEEDS)
    await connector.errors.count(2 * len(RAISING))
    assert {type(error) for error in connector.errors.items} == {contract.ListenerError}
    assert connector.stats()["published"] == 4 * len(ODD_DEEDS)


@pytest.mark.clause("M3", "L7")
async def test_a_subscribe_that_is_cancelled_leaves_another_one_alone(node: MakeNode, topic: str) -> None:
    subscriber: SpiedNode = await node(SpiedNode)
    publisher: Node = await node()
    mailbox, entered, gate = Log(), Log(), asyncio.Event()

    async def hold(*_: object) -> None:
        entered()
        await gate.wait()

    subscriber.trouble["subscribe"] = hold
    first = asyncio.ensure_future(subscriber.subscribe(topic, mailbox))
    await entered.count(1)
    second = asyncio.ensure_future(subscriber.subscribe(topic, mailbox))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait((first,))
    gate.set()
    async with patience("the second call"):
        await second
    await publisher.publish(topic, "heard")
    assert await mailbox.count(1) == ["heard"]
    assert first.cancelled()
    await subscriber.unsubscribe(topic, mailbox)


@pytest.mark.clause("M6")
async def test_a_member_of_an_enumeration_of_texts_is_its_value(node: MakeNode) -> None:
    publisher, subscriber = await node(), await node()
    by_member, by_value = Log(), Log()
    await subscriber.subscribe(Colour.RED, by_member)
    await subscriber.subscribe("red", by_value)
    await publisher.publish(Colour.RED, 1)
    publisher.publish_nowait(Colour.RED, 2)
    await publisher.publish("red", 3)
    assert await by_member.count(3) == await by_value.count(3) == [1, 2, 3]
    async with subscriber.messages(Colour.DEEP_RED) as messages:
        await publisher.publish("deep red", 4)
        async with patience("a message"):
            assert await anext(messages) == 4
    await subscriber.unsubscribe("red", by_member)
    await subscriber.unsubscribe(Colour.RED, by_value)


@pytest.mark.clause("M12")
async def test_messages_are_pulled_from_the_beginning_of_a_block_to_its_end(node: MakeNode, topic: str) -> None:
    publisher: Node = await node()
    subscriber: SpiedNode = await node(SpiedNode)
    got: list[Any] = []
    await publisher.publish(topic, "too early")
    async with patience("ten messages"), subscriber.messages(topic) as messages:
        await publisher.publish(topic, 0)
        async for message in messages:
            got.append(message)
            if message == 9:
                break
            await publisher.publish(topic, message + 1)
    assert got == list(range(10))
    await publisher.publish(topic, "too late")
    async with patience("the end"):
        assert [message async for message in messages] == []
    assert (subscriber.called("subscribe", topic), subscriber.called("unsubscribe", topic)) == (1, 1)
    with pytest.raises(ZeroDivisionError):
        async with subscriber.messages(topic):
            raise ZeroDivisionError
    assert subscriber.called("unsubscribe", topic) == 2


@pytest.mark.clause("M12", "L4")
async def test_messages_end_when_the_connector_closes(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    entered, pulled, ended, witness, gate = Log(), Log(), Log(), Log(), asyncio.Event()

    async def pull() -> None:
        async with subscriber.messages(topic) as messages:
            entered()
            async for message in messages:
                pulled(message)
                await gate.wait()
        ended()

    pulling = asyncio.ensure_future(pull())
    await entered.count(1)
    await subscriber.subscribe(topic, witness)
    for number in range(3):
        await publisher.publish(topic, number)
    await witness.count(3)
    async with patience("the end of close, and of the pulling"):
        await subscriber.close()
        gate.set()
        await pulling
    assert (pulled.items, len(ended.items)) == ([0, 1, 2], 1)


@pytest.mark.clause("M12", "M11")
async def test_what_waits_to_be_pulled_is_bounded(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node(noisy=True, max_pending_messages=10)
    witness = Log()
    await subscriber.subscribe(topic, witness)
    async with subscriber.messages(topic) as messages:
        for number in range(50):
            await publisher.publish(topic, number)
            await witness.count(number + 1)
        got = [await anext(messages) for _ in range(10)]
    assert got == list(range(40, 50))
    assert sum_of(subscriber, contract.SlowListenerError) == 40


@pytest.mark.clause("M11", "T3")
async def test_too_many_bytes_are_dropped_like_too_many_messages_and_told_once(node: MakeNode, topic: str) -> None:
    publisher: Node = await node()
    subscriber: Node = await node(noisy=True, max_pending_bytes=100_000)
    got, quick, gate = Log(), Log(), asyncio.Event()

    async def slow(message: list[Any]) -> None:
        got(message[0])
        await gate.wait()

    await subscriber.subscribe(topic, slow)
    await subscriber.subscribe(topic, lambda message: quick(message[0]))
    started = asyncio.get_running_loop().time()
    for number in range(60):
        await publisher.publish(topic, [number, "x" * 10_000])
        await quick.count(number + 1)
    gate.set()
    await got.until(lambda got: got[-1] == 59, "the last message")
    kept = len(got.items) - 1
    assert got.items == [0, *range(60 - kept, 60)]
    assert 5 <= kept <= 10
    await subscriber.close()
    assert sum_of(subscriber, contract.SlowListenerError) == 59 - kept
    assert len(subscriber.errors.items) <= 2 + asyncio.get_running_loop().time() - started  # one a second
    assert subscriber.errors.items[0].topic == topic


@pytest.mark.clause("M11")
async def test_each_episode_of_slowness_is_told(node: MakeNode, topic: str) -> None:
    started = asyncio.get_running_loop().time()
    publisher, subscriber = await node(), await node(noisy=True, max_pending_messages=5)
    got, quick = Log(), Log()
    gates = [asyncio.Event(), asyncio.Event()]

    async def slow(message: int) -> None:
        got(message)
        if message % 1000 == 0:
            await gates[message // 1000].wait()

    await subscriber.subscribe(topic, slow)
    await subscriber.subscribe(topic, quick)
    for episode in range(2):
        for number in range(episode * 1000, episode * 1000 + 30):
            await publisher.publish(topic, number)
            await quick.count(30 * episode + number % 1000 + 1)
        gates[episode].set()
        await got.count(6 * (episode + 1))
    assert got.items == [0, *range(25, 30), 1000, *range(1025, 1030)]
    await subscriber.close()
    assert sum_of(subscriber, contract.SlowListenerError) == 2 * 24
    assert 2 <= len(subscriber.errors.items) <= 4 + asyncio.get_running_loop().time() - started  # one a second
