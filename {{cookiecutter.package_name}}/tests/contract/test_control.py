"""Chapter R: what the nodes tell one another on the control topic, and what they do without it."""

import asyncio
from itertools import count
from typing import Any

import pytest

from ..subject import BrokerTransport, contract, wire_format
from .balance import reported
from .faults import CertainNode, hang, hold_until, until_down
from .nodes import PATIENCE, Log, Node, SpiedNode
from .proxy import Proxy
from .public import MakeNode

KEEPS = BrokerTransport.keeps_messages


@pytest.mark.clause("R4")
@pytest.mark.skipif(KEEPS, reason="not applicable: the broker keeps messages until they are taken")
async def test_what_was_dropped_on_a_quiet_connection_arrives_later(node: MakeNode, topic: str) -> None:
    publisher: CertainNode = await node(CertainNode, heartbeat=0.4)
    subscriber: SpiedNode = await node(SpiedNode, connect=False)
    mailbox, arrivals = Log(), count()

    async def drop(transport: Any, _: object) -> None:
        received = transport.inbox.received

        def hear(name: str, payload: bytes) -> None:
            is_new = name == topic and wire_format.unpack(payload).kind == wire_format.MESSAGES
            if not is_new or next(arrivals) not in (1, 3):
                received(name, payload)

        transport.inbox.received = hear

    subscriber.trouble["connect"] = drop
    await subscriber.connect()
    await subscriber.subscribe(topic, mailbox)
    for number in range(3):
        await publisher.publish(topic, number)
    await mailbox.count(3)
    await publisher.publish(topic, 3)
    assert await mailbox.count(4) == [0, 1, 2, 3]
    assert subscriber.stats()["repaired"] >= 2
    assert reported(subscriber) == 0


@pytest.mark.clause("R7", "R4")
@pytest.mark.skipif(KEEPS, reason="not applicable: the broker keeps messages for nodes that are away")
async def test_what_waits_is_held_until_the_others_are_back(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{contract.__name__}.repair.HOLD", 2 * PATIENCE)
    publisher: SpiedNode = await node(SpiedNode, noisy=True, **through)
    subscriber: SpiedNode = await node(SpiedNode, noisy=True, **through)
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
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    publisher: Node = await node()
    subscriber: SpiedNode = await node(SpiedNode, connect=False, noisy=True, **through)
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


@pytest.mark.clause("R4", "E3")
@pytest.mark.skipif(KEEPS, reason="not applicable: the broker keeps messages, so that there is no control topic")
async def test_a_broker_that_cuts_the_connection_to_refuse_the_control_topic_is_used_without_it(
    node: MakeNode, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    publisher: Node = await node()
    subscriber: SpiedNode = await node(SpiedNode, connect=False)
    mailbox = Log()

    async def cut(transport: Any, _: object) -> None:
        transport.inbox.lost(ConnectionResetError("no rights to this one"))
        await hang()

    subscriber.trouble["control subscribe"] = cut
    await subscriber.connect()
    await subscriber.subscribe(topic, mailbox)
    await publisher.publish(topic, 1)
    assert await mailbox.count(1) == [1]
    assert len([record for record in caplog.records if "control_topic" in record.getMessage()]) == 1


@pytest.mark.clause("R4")
async def test_losses_are_told_on_the_topic_itself_where_there_is_no_control_topic(node: MakeNode, topic: str) -> None:
    rests = {"reconnect_delay_min": 0.4, "reconnect_delay_max": 0.4}  # so that the messages are given up meanwhile
    publisher: CertainNode = await node(CertainNode, connect=False, heartbeat=1, publish_timeout=1, **rests)
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
    assert reported(subscriber) == given_up == 3


@pytest.mark.clause("R4")
async def test_the_control_topic_is_no_topic_for_hosts(node: MakeNode, topic: str) -> None:
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
