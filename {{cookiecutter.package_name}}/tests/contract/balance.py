"""Messages sent, and their outcome at each node."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

from ..subject import contract
from .nodes import Log, Node, eventually


def losses(node: Node) -> int:
    """How many lost connections a node has reported."""
    return sum(isinstance(error, contract.ConnectionLostError) for error in node.errors.items)


def sum_of(node: Node, kind: type[Exception]) -> int:
    """Return the sum of the counts of a node's `error` events of one kind."""
    return sum(cast(Any, error).count for error in node.errors.items if isinstance(error, kind))


def reported(node: Node) -> int:
    """Return how many messages a node was told that it has missed."""
    assert sum_of(node, contract.MessagesLostError) == node.stats()["lost"]
    return node.stats()["lost"]


async def balance(nodes: list[Node], topic: str, disturb: Callable[[], Awaitable[None]], times: int) -> None:
    """Publish from all nodes while they are disturbed; all that was sent must have come, in order, or be reported.

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


async def mailbox_and_errors(node: Node, mailbox: Log, wanted: int) -> None:
    """Return when the messages that a node got and those that it missed make up those sent to it."""
    await eventually(lambda: len(mailbox.items) + reported(node) >= wanted, f"{wanted} messages, or word of their loss")
    assert len(mailbox.items) + reported(node) == wanted
