"""Chapter R: a lost or silent connection is noticed, reported, and restored."""

import asyncio
import time
from itertools import pairwise
from typing import Any

import pytest

from ..subject import contract
from .balance import losses
from .nodes import PATIENCE, Log, Node, SpiedNode, patience
from .proxy import Proxy
from .public import MakeNode


@pytest.mark.clause("R1", "R2")
async def test_a_cut_is_told_once_and_mended(node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str) -> None:
    publisher: Node = await node()
    subscriber: Node = await node(connect=False, noisy=True, **through)
    states, mailboxes = Log(), {f"{topic}-{number}": Log() for number in range(3)}
    subscriber.on("error", lambda _: states(("error", subscriber.is_ready)))
    subscriber.on("ready", lambda: states(("ready", subscriber.is_ready)))
    await subscriber.connect()
    for name, mailbox in mailboxes.items():
        await subscriber.subscribe(name, mailbox)
    for turn in range(3):
        await proxy.cut()
        await subscriber.until_ready(turn + 2)
        for name, mailbox in mailboxes.items():
            await publisher.publish(name, turn)
            await mailbox.count(turn + 1)
    assert states.items == [("ready", True), *[("error", False), ("ready", True)] * 3]
    assert losses(subscriber) == len(subscriber.errors.items) == 3
    assert subscriber.stats()["reconnects"] == 3


@pytest.mark.clause("R1")
async def test_a_cut_is_told_long_before_a_silence_would_be(
    node: MakeNode, proxy: Proxy, through: dict[str, Any]
) -> None:
    connector: Node = await node(noisy=True, **through, heartbeat=20 * PATIENCE)
    await proxy.cut()
    await connector.until_down()
    await connector.until_ready(2)


@pytest.mark.clause("R1")
@pytest.mark.parametrize("is_subscribed", [True, False])
async def test_silence_is_noticed(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str, is_subscribed: bool
) -> None:
    connector: Node = await node(noisy=True, **through)
    if is_subscribed:
        await connector.subscribe(topic, Log())
    proxy.mute()
    started = asyncio.get_running_loop().time()
    await connector.until_down()
    assert asyncio.get_running_loop().time() - started < connector.settings.heartbeat * 2
    assert connector.is_ready is False
    await proxy.heal()
    await connector.until_ready(2)
    assert losses(connector) == 1


@pytest.mark.clause("R2")
async def test_it_tries_until_the_broker_is_back(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    subscriber: SpiedNode = await node(SpiedNode, noisy=True, **through)
    publisher: Node = await node()
    attempts, mailbox = Log(), Log()

    async def attempt(*_: object) -> None:
        attempts(asyncio.get_running_loop().time())

    await subscriber.subscribe(topic, mailbox)
    subscriber.trouble["connect"] = attempt
    await proxy.refuse()
    await attempts.count(5)
    await proxy.heal()
    await subscriber.until_ready(2)
    await publisher.publish(topic, "back")
    assert await mailbox.count(1) == ["back"]
    assert losses(subscriber) == 1
    assert all(isinstance(error, contract.ReconnectError) for error in subscriber.errors.items[1:])


@pytest.mark.clause("R2")
async def test_attempts_come_more_and_more_slowly_and_not_in_step(
    node: MakeNode, proxy: Proxy, through: dict[str, Any]
) -> None:
    delays = {"reconnect_delay_min": 0.03, "reconnect_delay_max": 0.24}
    connectors: list[SpiedNode] = [await node(SpiedNode, noisy=True, **through, **delays) for _ in range(2)]
    logs = [Log() for _ in connectors]

    def note(log: Log) -> Any:
        async def attempt(*_: object) -> None:
            log(asyncio.get_running_loop().time())
            raise OSError("not yet")

        return attempt

    for connector, log in zip(connectors, logs, strict=True):
        connector.trouble["connect"] = note(log)
    await proxy.cut()
    gaps = []
    for log in logs:
        times = await log.count(10)
        gaps.append([later - earlier for earlier, later in pairwise(times)])
        assert min(gaps[-1][3:]) >= 0.24 / 2
        assert min(gaps[-1]) >= 0.06 / 2
    assert min(gap for each in gaps for gap in each[3:]) < 0.23, "pauses have no jitter"
    for connector in connectors:
        connector.trouble.clear()
        await connector.until_ready(2)


@pytest.mark.clause("R2")
async def test_a_loss_while_restoring_is_not_forgotten(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    subscriber: SpiedNode = await node(SpiedNode, noisy=True, **through)
    publisher: Node = await node()
    mailbox, restorations = Log(), Log()
    await subscriber.subscribe(topic, mailbox)

    async def lose(transport: Any, _: object) -> None:
        restorations(transport)
        if len(restorations.items) <= 2:
            transport.inbox.lost(ConnectionResetError("lost while restoring"))

    subscriber.trouble["subscribe"] = lose
    await proxy.cut()
    await subscriber.until_ready(2)
    await publisher.publish(topic, "restored")
    assert await mailbox.count(1) == ["restored"]
    assert len(restorations.items) == 3
    assert subscriber.called("connect") == subscriber.called("close") + 1


@pytest.mark.clause("R1", "R2")
async def test_silence_while_restoring_is_noticed(node: MakeNode, topic: str) -> None:
    subscriber: SpiedNode = await node(SpiedNode, noisy=True, publish_timeout=10 * PATIENCE)
    publisher: Node = await node()
    mailbox, transports = Log(), Log()
    await subscriber.subscribe(topic, mailbox)

    async def remember(transport: Any, _: object) -> None:
        transports(transport)

    async def fall_silent(*_: object) -> None:
        if len(transports.items) == 2:
            await asyncio.Event().wait()

    subscriber.trouble.update(ping=remember)
    await transports.count(1)
    subscriber.trouble.update(connect=remember, subscribe=fall_silent, ping=fall_silent)
    transports.items[0].inbox.lost(ConnectionResetError("lost"))
    await subscriber.until_ready(2)
    await publisher.publish(topic, "restored")
    assert await mailbox.count(1) == ["restored"]


@pytest.mark.clause("R2", "M4")
async def test_who_unsubscribes_while_it_is_restored_is_not_subscribed(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    subscriber: SpiedNode = await node(SpiedNode, noisy=True, **through)
    mailbox, entered, gate = Log(), Log(), asyncio.Event()
    await subscriber.subscribe(topic, mailbox)

    async def hold(*_: object) -> None:
        entered()
        await gate.wait()

    subscriber.trouble["subscribe"] = hold
    await proxy.cut()
    await entered.count(1)
    leaving = asyncio.ensure_future(subscriber.unsubscribe(topic, mailbox))
    await asyncio.sleep(0)
    gate.set()
    await leaving
    await subscriber.until_ready(2)
    assert subscriber.called("unsubscribe", topic) == 1


@pytest.mark.clause("R2")
async def test_what_an_abandoned_transport_says_is_ignored(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    subscriber: SpiedNode = await node(SpiedNode, noisy=True, **through)
    publisher: Node = await node()
    mailbox, transports = Log(), Log()

    async def remember(transport: Any, _: object) -> None:
        transports(transport)

    await subscriber.subscribe(topic, mailbox)
    subscriber.trouble["ping"] = subscriber.trouble["subscribe"] = remember
    await transports.count(1)
    old = transports.items[0]
    await proxy.cut()
    await subscriber.until_ready(2)
    old.inbox.lost(ConnectionResetError("late"))
    old.inbox.received(topic, b"late")
    await publisher.publish(topic, "fine")
    assert await mailbox.count(1) == ["fine"]
    assert subscriber.is_ready
    assert len(subscriber.errors.items) == 1


@pytest.mark.clause("R5")
async def test_a_blocked_event_loop_is_no_lost_connection(node: MakeNode, topic: str) -> None:
    connector: SpiedNode = await node(SpiedNode, heartbeat=0.4)
    other: Node = await node()
    mailbox, blocked = Log(), Log()

    async def block(*_: object) -> None:
        time.sleep(0.04 + connector.settings.heartbeat)  # noqa: ASYNC251 - the host blocks its loop
        for _turn in range(5):  # in which the timeout is noticed before there is an answer
            await asyncio.sleep(0)
        blocked()

    await connector.subscribe(topic, mailbox)
    connector.trouble["ping"] = block
    await blocked.count(3)
    connector.trouble.clear()
    await other.publish(topic, "still here")
    await mailbox.count(1)
    assert (connector.errors.items, len(connector.readies.items)) == ([], 1)


@pytest.mark.clause("R6")
async def test_subscribing_and_unsubscribing_in_an_outage(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    subscriber: Node = await node(noisy=True, **through)
    publisher: Node = await node()
    leaver, comer = Log(), Log()
    await subscriber.subscribe(topic, leaver)
    await proxy.refuse()
    await subscriber.until_down()
    coming = asyncio.ensure_future(subscriber.subscribe(f"{topic}-new", comer))
    async with patience():
        await subscriber.unsubscribe(topic, leaver)
        await proxy.heal()
        await coming
    await publisher.publish(topic, "nobody listens")
    await publisher.publish(f"{topic}-new", "somebody does")
    assert await comer.count(1) == ["somebody does"]
    assert leaver.items == []
