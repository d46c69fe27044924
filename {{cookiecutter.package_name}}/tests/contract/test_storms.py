"""Chapter R: many faults in a row, and restarts of the broker, lose nothing."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from ..broker import Broker
from ..subject import BrokerTransport
from .balance import balance, losses, reported
from .nodes import Log, Node, eventually
from .proxy import Proxy
from .public import MakeNode


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
        is_noticed = lost_again(nodes[1])
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
            await nodes[1].errors.until(is_noticed)
        await proxy.heal()
        await eventually(lambda: nodes[1].is_ready and nodes[2].is_ready, "two connections", 0.001)
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
    """A condition: the node has reported one more lost connection than it has by now."""
    before = losses(node)
    return lambda _: losses(node) > before


@pytest.mark.timeout(240)
@pytest.mark.clause("R2", "R4", "R7")
async def test_five_restarts_under_load_lose_nothing(node: MakeNode, broker: Broker, topic: str) -> None:
    if not broker.is_running:
        pytest.skip("the broker is not ours to restart")
    nodes: list[Node] = [await node(noisy=True, publish_timeout=120) for _ in range(3)]
    await balance(nodes, topic, broker.restart, 5)
    if Broker.is_durable or not BrokerTransport.keeps_messages:
        assert [reported(each) for each in nodes] == [0, 0, 0]
