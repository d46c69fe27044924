"""Chapter T: at rest a node is quiet, and whatever comes, its loop stays free and its memory bounded."""

import asyncio
import json
import time
from typing import Any
from uuid import uuid4

import pytest

from ..subject import BrokerTransport, contract, receiving, sending, wire_format
from .balance import reported
from .faults import CertainNode, InstantNode, forged, pauses, pings
from .nodes import Log, Node, SpiedNode, Wire, eventually, patience
from .proxy import Proxy
from .public import MakeNode

KEEPS = BrokerTransport.keeps_messages

TOPICS = 2_000 if KEEPS else 10_000

BEAT = 0.4 if KEEPS else 0.2
"""Seconds; a node at a broker that keeps messages announces its numbers in messages of their own, which take longer."""


class Lanes(sending.Lane):
    """A lane; `alive` counts them."""

    alive = 0

    def __post_init__(self) -> None:
        Lanes.alive += 1

    def __del__(self) -> None:
        Lanes.alive -= 1


def is_quiet(node: SpiedNode) -> bool:
    """Return whether a node has done nothing but ping for five heartbeats: the longest pause in announcing has four."""
    return [method for method, _ in node.calls[-15:]] == 15 * ["ping"]


@pytest.mark.clause("T2", "T3", "T4")
async def test_topics_that_were_published_on_once_cost_nothing_in_the_end(
    node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "Lane", Lanes)
    publisher: InstantNode = await node(InstantNode, heartbeat=BEAT, publish_timeout=3, forget_after=0.1)
    async with pauses(step=0.003) as pauses_seen:
        for number in range(TOPICS):
            publisher.publish_nowait(f"{number}", number)
            if number % 100 == 0:
                await asyncio.sleep(0)
        await eventually(lambda: not publisher.stats()["pending"], "the end of the publishing")
        published = TOPICS * (1 + 4 * KEEPS)  # there, each number is announced on its own topic, four times
        await eventually(lambda: publisher.called("publish") >= published, "the end of the telling")
        await eventually(lambda: is_quiet(publisher), "the end of the telling on the control topic")
    told = publisher.called("control publish")
    assert (told == 0) if KEEPS else (4 * TOPICS / 1000 < told < 4 * TOPICS / 10), told
    assert publisher.called("publish") == published
    assert min(sorted(pauses_seen.items)[-3:], default=0.0) < 0.05  # a busy machine may well keep the loop twice
    async with patience("the forgetting"):
        while Lanes.alive > sending.FEW_TOPICS:
            await pings(publisher, 1)


@pytest.mark.clause("T4", "R4")
async def test_numbers_are_told_four_times_and_a_forgotten_topic_begins_anew(
    node: MakeNode, wire: Wire, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "FEW_TOPICS", 0)
    monkeypatch.setattr(sending, "REMEMBERED", 0)
    publisher: CertainNode = await node(CertainNode, heartbeat=BEAT, forget_after=0.1)
    subscriber: CertainNode = await node(CertainNode, heartbeat=BEAT)
    newcomer: Node = await node()
    busy, mailbox, late = f"{topic}-busy", Log(), Log()
    await subscriber.subscribe(topic, mailbox)
    for number in range(10):
        await publisher.publish(busy, number)
    await publisher.publish(topic, 0)
    await mailbox.count(1)
    asked = publisher.called("control publish")
    await pings(publisher, 26)
    told = publisher.called("control publish") - asked
    answers = 1  # when the subscriber's question comes after the first message
    assert (told == 0) if KEEPS else (4 <= told <= 2 * 4 + answers), told
    before = len(publisher.calls), len(subscriber.calls)
    await pings(publisher, 5)
    for each, start in zip((publisher, subscriber), before, strict=True):
        assert {method for method, _ in each.calls[start:]} == {"ping"}
    await newcomer.subscribe(topic, late)
    await wire.transport.subscribe(topic)
    await publisher.publish(topic, 1)
    ((_, payload),) = await wire.payloads.count(1)
    frame = wire_format.unpack(payload)
    assert frame.number == frame.base == 10
    await publisher.publish(topic, 2)
    assert (await mailbox.count(3), await late.count(2)) == ([0, 1, 2], [1, 2])
    assert reported(subscriber) == reported(newcomer) == 0
    assert subscriber.stats()["duplicates"] == 0


@pytest.mark.clause("T3")
async def test_small_messages_fill_the_outbox_by_what_they_cost(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    publisher: Node = await node(noisy=True, **through, publish_timeout=60, max_outbox_bytes=100_000)
    await proxy.refuse()
    await publisher.until_down()
    taken = 0

    def fill() -> None:
        nonlocal taken
        while taken < 100_000:
            publisher.publish_nowait(f"{topic}-{taken % 10}", 1)
            taken += 1

    with pytest.raises(contract.OutboxFullError, match="max_outbox_bytes"):
        fill()
    assert 100 < taken < 1000
    assert publisher.stats()["pending"] == taken
    await proxy.heal()
    await eventually(lambda: not publisher.stats()["pending"], "room")
    await publisher.publish(topic, "there is room again")


@pytest.mark.clause("T3")
async def test_no_flood_of_newcomers_makes_a_regular_sender_forgotten(
    node: MakeNode, wire: Wire, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "KNOWN_SENDERS", 20)
    subscriber: SpiedNode = await node(SpiedNode, noisy=True, heartbeat=0.4)
    mailbox, regular = Log(), uuid4().bytes
    await subscriber.subscribe(topic, mailbox)

    async def send(sender: bytes, number: int) -> None:
        await wire.transport.publish(topic, forged(sender, number, b"[%d]" % number, flags=0))

    await send(regular, 0)
    await pings(subscriber, 4)
    await send(regular, 1)
    for _ in range(100):
        await send(uuid4().bytes, 7)
    await send(regular, 5)
    await mailbox.until(lambda items: 5 in items, "the regular sender's last message")
    assert (mailbox.items.count(7), reported(subscriber)) == (100, 3)
    assert subscriber.errors.items[-1].node == regular.hex()


LARGE: dict[str, tuple[int, Any]] = {
    "text": (10, "x" * 900_000),
    "numbers": (10, list(range(130_000))),
    "tuples": (2, [(1,)] * 150_000),
    "objects": (40, [{"number": number, "text": "some text", "list": [1, 2]} for number in range(16_000)]),
}


def time_to_read(message: Any) -> float:
    """Return in how many seconds of the thread's own time the standard library reads a message: a busy machine is slow."""
    text = json.dumps(message)
    began = time.thread_time()
    json.loads(text)
    return time.thread_time() - began


@pytest.mark.clause("T2")
@pytest.mark.parametrize("name", LARGE)
async def test_no_large_message_blocks_the_loop(node: MakeNode, topic: str, name: str) -> None:
    publisher, subscriber = await node(), await node()
    listeners, message = LARGE[name]
    mailboxes = [Log() for _ in range(listeners)]
    for mailbox in mailboxes:
        await subscriber.subscribe(topic, lambda _, mailbox=mailbox: mailbox())
    excess: list[float] = []
    while not excess or (excess[-1] >= 0 and len(excess) < 6):
        async with pauses() as pauses_seen:
            try:
                await publisher.publish(topic, message)
            except contract.MessageTooLargeError:
                pytest.skip("not applicable: the broker takes no message so large")
            for mailbox in mailboxes:
                await mailbox.count(len(excess) + 1)
        excess.append(max(pauses_seen.items, default=0.0) - max(0.05, 2 * time_to_read(message)))
    assert min(excess) < 0
