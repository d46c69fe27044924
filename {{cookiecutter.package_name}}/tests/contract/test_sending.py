"""Chapter R: messages published in an outage are sent after it, or fail in time."""

import asyncio
from typing import Any

import pytest

from ..subject import BrokerTransport, contract
from .balance import reported
from .faults import CertainNode
from .nodes import PATIENCE, Log, Node, SpiedNode, patience
from .proxy import Proxy
from .public import MakeNode


@pytest.mark.clause("R3")
async def test_a_publish_waits_for_the_connection(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    publisher: Node = await node(noisy=True, **through, publish_timeout=2 * PATIENCE)
    subscriber: Node = await node()
    mailbox, outcomes = Log(), Log()
    await subscriber.subscribe(topic, mailbox)
    await proxy.refuse()
    await publisher.until_down()
    waiting = [asyncio.ensure_future(publisher.publish(topic, number)) for number in range(10)]
    await asyncio.sleep(0)
    publisher.publish_nowait(topic, 10, outcomes)
    assert publisher.stats()["pending"] == 11
    await proxy.heal()
    await asyncio.gather(*waiting)
    assert await outcomes.count(1) == [None]
    assert await mailbox.count(11) == list(range(11))


@pytest.mark.clause("R3", "E1")
async def test_a_publish_that_waits_too_long_is_an_error(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    publisher: SpiedNode = await node(SpiedNode, noisy=True, **through, publish_timeout=0.3)
    outcomes = Log()

    async def fail(*_: object) -> None:
        raise OSError("no way back")

    publisher.trouble["connect"] = fail
    await proxy.cut()
    await publisher.error(contract.ReconnectError)
    async with patience():
        with pytest.raises(contract.PublishUnconfirmedError, match=r"publish_timeout.* no way back") as raised:
            await publisher.publish(topic, 1)
        publisher.publish_nowait(topic, 2, outcomes)
        (outcome,) = await outcomes.count(1)
    assert isinstance(outcome, contract.PublishUnconfirmedError)
    assert raised.value.topic == outcome.topic == topic
    assert publisher.stats()["pending"] == 0
    publisher.trouble.clear()
    await publisher.until_ready(2)
    told = {contract.ConnectionLostError, contract.ReconnectError}
    assert {type(error) for error in publisher.errors.items} == told


@pytest.mark.clause("R3")
async def test_a_publish_that_is_never_confirmed_is_an_error_and_the_next_goes_on(node: MakeNode, topic: str) -> None:
    publisher: SpiedNode = await node(SpiedNode, publish_timeout=0.3)

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    publisher.trouble["publish"] = hang
    async with patience():
        with pytest.raises(contract.PublishUnconfirmedError, match="publish_timeout"):
            await publisher.publish(topic, "hangs")
    publisher.trouble.clear()
    await publisher.publish(topic, "goes on")


@pytest.mark.clause("R3")
async def test_a_number_that_hangs_holds_up_no_message_for_good(node: MakeNode, topic: str) -> None:
    rests = {"reconnect_delay_min": 0.4, "reconnect_delay_max": 0.4}  # so that the number is not repeated at once
    publisher: CertainNode = await node(CertainNode, connect=False, heartbeat=1, publish_timeout=1, **rests)
    hanging = Log()

    async def refuse(*_: object) -> None:
        raise contract.SubscribeRefusedError("numbers are told on the topic itself")

    async def hang(*_: object) -> None:
        hanging()
        await asyncio.Event().wait()

    publisher.trouble["control subscribe"] = refuse
    await publisher.connect()
    await publisher.publish(topic, "first")
    publisher.trouble["publish"] = hang
    await hanging.count(1)
    async with patience():
        with pytest.raises(contract.PublishUnconfirmedError):
            await publisher.publish(topic, "stuck behind the number")
        publisher.trouble.clear()
        await publisher.publish(topic, "through")


@pytest.mark.clause("R3", "R4")
async def test_a_control_frame_that_hangs_holds_up_no_message(node: MakeNode, topic: str) -> None:
    publisher: CertainNode = await node(CertainNode, heartbeat=0.4)
    hanging = Log()

    async def hang(*_: object) -> None:
        hanging()
        await asyncio.Event().wait()

    publisher.trouble["control publish"] = hang
    await publisher.publish(topic, "first")
    if not BrokerTransport.keeps_messages:
        await hanging.count(1)
    async with patience():
        await publisher.publish(topic, "through")


@pytest.mark.clause("R3")
async def test_what_is_published_when_another_is_given_up_is_given_up_too(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    publisher: Node = await node(noisy=True, **through, publish_timeout=0.2)
    outcomes = Log()
    await proxy.refuse()
    await publisher.until_down()

    def again(error: object) -> None:
        outcomes(error)
        if len(outcomes.items) < 3:
            publisher.publish_nowait(topic, "again", again)

    publisher.publish_nowait(topic, "once", again)
    for outcome in await outcomes.count(3):
        assert isinstance(outcome, contract.PublishUnconfirmedError)


@pytest.mark.clause("R4")
async def test_a_new_connection_that_takes_less_loses_nothing_without_a_word(node: MakeNode, topic: str) -> None:
    publisher: SpiedNode = await node(SpiedNode, connect=False, noisy=True)
    subscriber: Node = await node(noisy=True)
    mailbox, entered, gates = Log(), Log(), [asyncio.Event(), asyncio.Event()]
    limits = [None, 300]

    async def limit(transport: Any, _: object) -> None:
        transport.max_frame_bytes = limits.pop(0)

    async def send_and_hold(transport: Any, name: str) -> None:
        await BrokerTransport.publish(transport, name, transport.payload)
        entered(transport)
        await gates[len(entered.items) - 1].wait()

    await subscriber.subscribe(topic, mailbox)
    publisher.trouble["connected"] = limit
    publisher.trouble["publish"] = send_and_hold
    await publisher.connect()
    first = asyncio.ensure_future(publisher.publish(topic, "first"))
    await entered.count(1)
    texts = ["small", "x" * 1000, "also small"]
    together = [asyncio.ensure_future(publisher.publish(topic, text)) for text in texts]
    await asyncio.sleep(0)
    gates[0].set()
    await entered.count(2)
    publisher.trouble.pop("publish")
    entered.items[1].inbox.lost(ConnectionResetError("lost"))
    await first
    results = await asyncio.gather(*together, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), contract.MessageTooLargeError, type(None)]
    await publisher.publish(topic, "last")
    assert await mailbox.before("last") == ["first", *texts]
    assert reported(subscriber) == 0


@pytest.mark.clause("R4")
async def test_what_was_on_its_way_is_sent_again_and_arrives_once(node: MakeNode, topic: str) -> None:
    publisher: SpiedNode = await node(SpiedNode, noisy=True)
    subscriber: Node = await node()
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    sent_of: list[int] = []

    async def deliver_and_lose(transport: Any, topic: str) -> None:
        if not sent_of:
            sent_of.append(1)
            await BrokerTransport.publish(transport, topic, transport.payload)
            transport.inbox.lost(ConnectionResetError("lost before the answer"))
            await asyncio.Event().wait()

    publisher.trouble["publish"] = deliver_and_lose
    async with patience():
        for number in range(5):
            await publisher.publish(topic, number)
    assert await mailbox.count(5) == list(range(5))
    assert subscriber.stats()["duplicates"] == 1
    assert subscriber.errors.items == []


@pytest.mark.clause("R3", "R4")
async def test_what_waits_at_a_loss_is_sent_after_it(node: MakeNode, topic: str) -> None:
    publisher: SpiedNode = await node(SpiedNode, noisy=True)
    subscriber: Node = await node()
    mailbox, held = Log(), Log()
    await subscriber.subscribe(topic, mailbox)

    async def hold(transport: Any, _: object) -> None:
        held(transport)
        await asyncio.Event().wait()

    publisher.trouble["publish"] = hold
    waiting = [asyncio.ensure_future(publisher.publish(topic, 0))]
    await held.count(1)
    waiting += [asyncio.ensure_future(publisher.publish(topic, number)) for number in range(1, 6)]
    await asyncio.sleep(0)
    publisher.trouble.clear()
    held.items[0].inbox.lost(ConnectionResetError("lost"))
    async with patience():
        await asyncio.gather(*waiting)
    assert await mailbox.count(6) == list(range(6))
