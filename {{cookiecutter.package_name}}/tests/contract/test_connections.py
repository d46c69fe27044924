"""Chapter R: the end of each connection of a node is noticed by itself, however it ends."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ..subject import contract
from .balance import losses, reported
from .nodes import PATIENCE, Log, Node, SpiedNode, eventually, patience
from .proxy import Connection, Proxy
from .public import MakeNode

Fault = Callable[[Proxy, Connection], Awaitable[None]]


async def end(proxy: Proxy, connection: Connection) -> None:
    """Close a connection, like a server that stops."""
    await proxy.cut(connection)


async def reset(proxy: Proxy, connection: Connection) -> None:
    """Reset a connection, like a firewall."""
    await proxy.cut(connection, reset=True)


async def silence(_: Proxy, connection: Connection) -> None:
    """Silence a connection, like a pulled cable."""
    connection.mute()


async def silence_of_the_broker(_: Proxy, connection: Connection) -> None:
    """Silence a connection in the direction to the node."""
    connection.mute("in")


async def silence_of_the_node(_: Proxy, connection: Connection) -> None:
    """Silence a connection in the direction to the broker."""
    connection.mute("out")


@pytest.mark.clause("R1", "R2", "R4")
@pytest.mark.parametrize("fault", [end, reset, silence, silence_of_the_broker, silence_of_the_node])
async def test_each_connection_is_noticed_alone(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str, fault: Fault
) -> None:
    one: Node = await node(noisy=True, **through)
    other: Node = await node(noisy=True)
    topics = [topic, f"{topic}-too"]
    heard = {each: {name: Log() for name in topics} for each in (one, other)}
    for each, mailboxes in heard.items():
        for name, mailbox in mailboxes.items():
            await each.subscribe(name, mailbox)
    sent = 0

    async def publish() -> None:
        """Send one message per topic each way."""
        nonlocal sent
        for each in heard:
            for name in topics:
                await each.publish(name, sent)
        sent += 1

    async def arrive() -> None:
        for mailboxes in heard.values():
            for mailbox in mailboxes.values():
                await mailbox.count(sent)

    await publish()
    await arrive()
    count = len(proxy.connections)
    most = 2 * count - 1  # a pool may grow; a client that connects again by itself has twice as many in the end
    broken = 0
    while broken < len(proxy.connections) and broken < count:  # a client with several may have fewer after it
        connection = proxy.connections[broken]
        broken += 1
        readies, lost = len(one.readies.items), losses(one)
        await fault(proxy, connection)
        async with patience(
            f"messages both ways after {fault.__name__} of connection {broken} of {count} (is `inbox.lost` called "
            "when any one of them ends? does `ping` make a round trip on each?)"
        ):
            await publish()
            await arrive()
            if losses(one) > lost:  # or else the client has made a new one for its next request, and nothing was missed
                await one.until_ready(readies + 1)
            connection.heal()
        await eventually(
            lambda: len(proxy.connections) <= most,
            lambda: (
                f"{count} connections, as before; there are {len(proxy.connections)}: is each closed? does the client "
                "connect again by itself?"
            ),
        )
    assert losses(one) == len(one.readies.items) - 1 <= broken
    for mailboxes in heard.values():
        assert [mailbox.items for mailbox in mailboxes.values()] == [list(range(sent))] * 2
    assert (reported(one), reported(other)) == (0, 0)


@pytest.mark.clause("R1", "R2", "R8")
async def test_each_port_is_missed_alone(node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str) -> None:
    one: Node = await node(noisy=True, **through)
    other: Node = await node(noisy=True)
    mailboxes = {one: Log(), other: Log()}
    for each, mailbox in mailboxes.items():
        await each.subscribe(topic, mailbox)
    names = dict.fromkeys(connection.name for connection in proxy.connections)
    for turn, name in enumerate(names, 1):
        await proxy.refuse(name)
        async with patience(f"word that the connection to `{name}` is lost, and cannot come back"):
            await one.errors.until(lambda errors: bool(errors) and isinstance(errors[-1], contract.ReconnectError))
        await other.publish(topic, "meanwhile")
        await proxy.heal()
        await one.until_ready(turn + 1)
        await one.publish(topic, "back")
        for mailbox in mailboxes.values():
            await mailbox.count(turn)


@pytest.mark.clause("R2")
async def test_a_new_connection_brings_nothing_that_was_delivered_long_ago(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    publisher: Node = await node()
    subscriber: SpiedNode = await node(SpiedNode, noisy=True, **through)
    mailbox, messages = Log(), 100
    await subscriber.subscribe(topic, mailbox)
    for number in range(messages):
        await publisher.publish(topic, number)
    await mailbox.count(messages)
    await proxy.cut()
    await subscriber.until_ready(2)
    await publisher.publish(topic, "end")
    assert await mailbox.before("end") == list(range(messages))
    assert subscriber.stats()["duplicates"] < messages / 2, "the broker delivers again what had arrived"


@pytest.mark.clause("R3")
async def test_an_answer_that_comes_too_late_is_nobody_elses(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    publisher: SpiedNode = await node(SpiedNode, noisy=True, **through, publish_timeout=0.3, heartbeat=20 * PATIENCE)
    subscriber: Node = await node(noisy=True)
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    await publisher.publish(topic, "before")
    for connection in proxy.connections:
        connection.mute("in")
    with pytest.raises(contract.PublishUnconfirmedError):
        await publisher.publish(topic, "its answer comes late")
    proxy.mute("out")
    before = publisher.called("publish", topic)
    publishing = asyncio.ensure_future(publisher.publish(topic, "never left the node"))
    await eventually(lambda: publisher.called("publish", topic) > before, "the next call of the transport's publish", 0)
    for connection in proxy.connections:
        connection.heal("in")
    with pytest.raises(contract.PublishUnconfirmedError):
        await publishing
    await proxy.heal()
