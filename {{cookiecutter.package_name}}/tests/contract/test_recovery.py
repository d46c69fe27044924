"""Chapter R: what survives cuts, silences, refusals and restarts."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest

from ..broker import Broker
from ..subject import BrokerTransport, contract, wire_format
from .nodes import PATIENCE, Log, Node, SpiedNode, Wire, patience
from .plugin import MakeNode
from .proxy import Proxy


def reported(node: Node) -> int:
    """How many messages a node was told that it has missed."""
    lost = [error for error in node.errors.items if isinstance(error, contract.MessagesLostError)]
    assert sum(error.count for error in lost) == node.stats()["lost"]
    return sum(error.count for error in lost)


def losses(node: Node) -> int:
    """How many lost connections a node has told of."""
    return sum(isinstance(error, contract.ConnectionLostError) for error in node.errors.items)


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
    publisher: SpiedNode = await node(SpiedNode, connect=False, heartbeat=0.4, publish_timeout=1)
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
    publisher: SpiedNode = await node(SpiedNode, heartbeat=0.4)
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
    """Return the numbers that control frames have told of a topic."""
    frames = [wire_format.unpack(payload) for _, payload in payloads]
    controls = [wire_format.unpack_control(frame) for frame in frames if frame.kind == wire_format.CONTROL]
    return [count.number for control in controls for count in control.counts if count.topic == topic]


@pytest.mark.clause("R4", "R5")
async def test_a_silent_node_tells_its_number_and_stays_ready(node: MakeNode, wire: Wire, topic: str) -> None:
    publisher: Node = await node(heartbeat=0.4)
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
    publisher: SpiedNode = await node(SpiedNode, heartbeat=0.4, publish_timeout=2 * PATIENCE)
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


@pytest.mark.clause("R4")
@pytest.mark.parametrize("seed", range(2))
async def test_a_storm_loses_nothing(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str, seed: int
) -> None:
    chance = random.Random(seed)
    nodes: list[Node] = [
        await node(noisy=True, publish_timeout=60, **through) if index else await node(noisy=True, publish_timeout=60)
        for index in range(3)
    ]
    mailboxes = [Log() for _ in nodes]
    for each, mailbox in zip(nodes, mailboxes, strict=True):
        await each.subscribe(topic, mailbox)
    for index, each in enumerate(nodes):
        await each.publish(topic, [index, -1])
    for index, mailbox in enumerate(mailboxes):
        await mailbox.until(heard_all_but(index))

    sent = [1 for _ in nodes]
    is_over = asyncio.Event()

    async def publish(index: int) -> None:
        while not is_over.is_set():
            messages = [[index, number] for number in range(sent[index] - 1, sent[index] + 4)]
            sent[index] += len(messages)
            await asyncio.gather(*(nodes[index].publish(topic, message) for message in messages))

    publishers = [asyncio.ensure_future(publish(index)) for index in range(3)]
    for _ in range(6):
        fault = chance.choice(["cut", "refuse", "mute"])
        connections = nodes[1].stats()["reconnects"], nodes[2].stats()["reconnects"]
        if fault == "cut":
            await proxy.cut()
        elif fault == "refuse":
            await proxy.refuse()
        else:
            proxy.mute()
        goal = sent[0] + chance.randrange(20, 200)
        while sent[0] < goal and not publishers[0].done():
            await asyncio.sleep(0.001)
        if fault == "mute" and chance.random() < 0.5:
            await nodes[1].errors.until(lost_again(nodes[1]))
        await proxy.heal()
        async with patience():
            while not (nodes[1].is_ready and nodes[2].is_ready):
                await asyncio.sleep(0.001)
        assert connections <= (nodes[1].stats()["reconnects"], nodes[2].stats()["reconnects"])
    is_over.set()
    await asyncio.gather(*publishers)

    for receiver, (each, mailbox) in enumerate(zip(nodes, mailboxes, strict=True)):
        await mailbox.count(sum(sent) - sent[receiver])
        for sender in range(3):
            numbers = [number for index, number in mailbox.items if index == sender]
            assert numbers == ([] if sender == receiver else list(range(-1, sent[sender] - 1)))
        assert reported(each) == 0


def heard_all_but(own: int) -> Callable[[list[Any]], bool]:
    """A condition: messages came from each of the three nodes but one."""
    return lambda items: {sender for sender, *_ in items} == {0, 1, 2} - {own}


def lost_again(node: Node) -> Callable[[list[Any]], bool]:
    """A condition: the node has told of one more lost connection than it has by now."""
    before = losses(node)
    return lambda _: losses(node) > before


async def mailbox_and_errors(node: Node, mailbox: Log, wanted: int) -> None:
    """Return when what a node got and what it was told to have missed make up what was sent to it."""
    async with patience():
        while (have := len(mailbox.items) + reported(node)) < wanted:
            await asyncio.sleep(0.01)
    assert have == wanted


@pytest.mark.timeout(240)
@pytest.mark.clause("R2", "R4", "R7")
async def test_five_restarts_under_load_lose_nothing(node: MakeNode, broker: Broker, topic: str) -> None:
    if not broker.is_running:
        pytest.skip("the broker is not ours to restart")
    nodes: list[Node] = [await node(noisy=True, publish_timeout=120) for _ in range(3)]
    await balance(nodes, topic, broker.restart, 5)
    if Broker.is_durable or not BrokerTransport.keeps_messages:
        assert [reported(each) for each in nodes] == [0, 0, 0]


async def balance(nodes: list[Node], topic: str, disturb: Callable[[], Awaitable[None]], times: int) -> None:
    """Publish from all nodes while they are disturbed; all that was sent must have come, in order, or be told of.

    Each disturbance must cost every node its connection.
    """
    mailboxes, sent = [Log() for _ in nodes], [0 for _ in nodes]
    before = [reported(each) for each in nodes]
    for each, mailbox in zip(nodes, mailboxes, strict=True):
        await each.subscribe(topic, mailbox)
    is_over = asyncio.Event()

    async def publish(index: int) -> None:
        while not is_over.is_set():
            sent[index] += 1
            await nodes[index].publish(topic, [index, sent[index], "x" * 10_000 if sent[index] % 10 == 0 else ""])

    publishing = [asyncio.ensure_future(publish(index)) for index in range(len(nodes))]
    for mailbox in mailboxes:
        await mailbox.until(lambda items: len({sender for sender, *_ in items}) == len(nodes) - 1)
    for _turn in range(times):
        readies = [len(each.readies.items) for each in nodes]
        await disturb()
        for each, count in zip(nodes, readies, strict=True):
            await each.until_ready(count + 1)
    is_over.set()
    await asyncio.gather(*publishing)
    for index, (each, mailbox) in enumerate(zip(nodes, mailboxes, strict=True)):
        await mailbox_and_errors(each, mailbox, sum(sent) - sent[index] + before[index])
        for sender in set(range(len(nodes))) - {index}:
            numbers = [number for other, number, _ in mailbox.items if other == sender]
            assert numbers == sorted(set(numbers))


@pytest.mark.clause("R5")
async def test_a_blocked_event_loop_is_no_lost_connection(node: MakeNode, topic: str) -> None:
    connector: SpiedNode = await node(SpiedNode, heartbeat=0.4)
    other: Node = await node()
    mailbox, blocked = Log(), Log()

    async def block(*_: object) -> None:
        time.sleep(0.04 + connector.settings.heartbeat)  # noqa: ASYNC251 - the host blocks its loop
        for _turn in range(5):  # in which the time-out is noticed before there is an answer
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
