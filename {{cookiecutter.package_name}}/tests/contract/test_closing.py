"""Chapter L: closing, whenever it comes."""

import asyncio
import gc
import threading
from pathlib import Path
from typing import Any

import pytest

from ..subject import contract, private_topic
from .nodes import PATIENCE, Log, Node, SpiedNode, eventually, other_tasks, patience
from .proxy import Proxy
from .public import MakeHost, MakeNode

DESCRIPTORS = Path("/proc/self/fd")
"""What this process holds open."""


async def until_no_thread_besides(known: set[threading.Thread]) -> None:
    """Return when the other threads have ended; those of the loop's own executor may wait for work."""
    async with patience("the end of what runs in `asyncio.to_thread`"):
        await asyncio.get_running_loop().shutdown_default_executor()
    await eventually(
        lambda: not set(threading.enumerate()) - known,
        lambda: f"the end of the threads {[each.name for each in set(threading.enumerate()) - known]}",
    )


@pytest.mark.clause("L4")
async def test_close_delivers_what_was_accepted(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    mailbox, outcomes = Log(), Log()
    await subscriber.subscribe(topic, lambda message: mailbox(message[0]))
    for number in range(500):  # which take several frames
        publisher.publish_nowait(topic, [number, "x" * 5000], outcomes)
    await publisher.close()
    assert outcomes.items == [None] * 500
    assert await mailbox.count(500) == list(range(500))


@pytest.mark.clause("L4")
async def test_close_lets_listeners_finish_what_has_arrived(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    arrived, finished, gate = Log(), Log(), asyncio.Event()

    async def listener(message: object) -> None:
        arrived(message)
        await gate.wait()
        finished(message)

    await subscriber.subscribe(topic, listener)
    for number in range(3):
        await publisher.publish(topic, number)
    await arrived.count(1)
    closing = asyncio.ensure_future(subscriber.close())
    gate.set()
    await closing
    assert finished.items
    assert finished.items == list(range(len(finished.items)))


@pytest.mark.basic(6)
@pytest.mark.clause("L4")
async def test_close_releases_tasks_threads_and_sockets(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    before, threads = other_tasks(), set(threading.enumerate())
    connector: Node = await node(**through)
    await connector.subscribe(topic, Log())
    await connector.publish(topic, "something")
    assert connector.is_ready
    await connector.close()
    assert connector.is_ready is False
    assert len(connector.closes.items) == 1
    async with patience():
        await proxy.until(lambda: not proxy.connections)
    assert other_tasks() <= before
    await until_no_thread_besides(threads)


def open_descriptors() -> int:
    """Return how many files and sockets this process has open."""
    return len(list(DESCRIPTORS.iterdir()))


@pytest.mark.clause("L4")
@pytest.mark.skipif(
    not DESCRIPTORS.is_dir(), reason="not applicable: this system does not show what a process has open"
)
async def test_no_connection_leaves_anything_open(node: MakeNode, topic: str) -> None:
    counts = []
    for _ in range(5):
        connector: Node = await node()
        await connector.subscribe(topic, Log())
        await connector.close()
        gc.collect()
        counts.append(open_descriptors())
    assert counts[-1] - counts[1] < 3, f"open files and sockets after each connection: {counts}"


@pytest.mark.clause("L3", "L4")
async def test_a_broker_that_accepts_and_never_answers_is_told_in_time(
    node: MakeNode, proxy: Proxy, through: dict[str, Any]
) -> None:
    connector: Node = await node(connect=False, **through, connect_timeout=0.5)
    before = other_tasks()
    proxy.mute()
    started = asyncio.get_running_loop().time()
    with pytest.raises(contract.ConnectError, match=r"127\.0\.0\.1"):
        await connector.connect()
    assert asyncio.get_running_loop().time() - started < 0.5 + 5
    assert connector.is_ready is False
    await proxy.heal()
    async with patience():
        await proxy.until(lambda: not proxy.connections)
    assert other_tasks() <= before


@pytest.mark.clause("L4")
async def test_any_host_takes_it_and_its_process_can_exit(host: MakeHost, topic: str) -> None:
    hosts = await asyncio.gather(*(host() for _ in range(3)))
    for each in hosts:
        for name in (topic, private_topic(each.node_name)):
            await each.tell("subscribe", name)
    for number, each in enumerate(hosts):
        await each.tell("publish", topic, {"from": number})
    await hosts[0].tell("publish", private_topic(hosts[1].node_name), "for one alone")
    for number, each in enumerate(hosts):
        wanted = [["message", topic, {"from": other}] for other in range(3) if other != number]
        if number == 1:
            wanted.append(["message", private_topic(each.node_name), "for one alone"])
        await each.events.until(lambda events, wanted=wanted: all(event in events for event in wanted))  # type: ignore[misc]
        assert await each.close() == (0, "")
        told = [event for event in each.events.items if event[0] in ("message", "error")]
        assert sorted(told, key=wanted.index) == wanted


@pytest.mark.clause("L4")
async def test_close_twice_at_once_and_before_connect(node: MakeNode) -> None:
    never: Node = await node(connect=False)
    await never.close()
    await never.close()
    assert len(never.closes.items) == 1
    connector: Node = await node()
    await asyncio.gather(connector.close(), connector.close())
    await connector.close()
    assert len(connector.closes.items) == 1


@pytest.mark.clause("L4")
async def test_close_while_connecting(node: MakeNode, proxy: Proxy, through: dict[str, Any]) -> None:
    connector: Node = await node(connect=False, **through)
    proxy.mute()
    connecting = asyncio.ensure_future(connector.connect())
    async with patience():
        await proxy.until(lambda: proxy.connections)
        await connector.close()
        with pytest.raises(contract.ClosedError):
            await connecting
    assert (len(connector.closes.items), connector.readies.items) == (1, [])


@pytest.mark.clause("L4", "R6")
async def test_close_in_an_outage_fails_what_waits(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    connector: Node = await node(**through, noisy=True, publish_timeout=60)
    await proxy.refuse()
    await connector.until_down()
    outcomes = Log()
    waiting = asyncio.ensure_future(connector.publish(topic, "never"))
    connector.publish_nowait(topic, "never", outcomes)
    async with patience():
        await asyncio.sleep(0)
        await connector.close()
        with pytest.raises(contract.ConnectorError):
            await waiting
        (outcome,) = await outcomes.count(1)
    assert isinstance(outcome, contract.ConnectorError)
    assert len(connector.closes.items) == 1


@pytest.mark.clause("L4")
async def test_a_transport_is_closed_once_also_when_it_never_connected(node: MakeNode) -> None:
    connector: SpiedNode = await node(SpiedNode, connect=False)

    async def fail(*_: object) -> None:
        raise OSError("no way")

    connector.trouble["connect"] = fail
    with pytest.raises(contract.ConnectError, match="no way"):
        await connector.connect()
    assert connector.called("close") == 1
    connector.trouble.clear()
    await connector.connect()
    await connector.close()
    assert connector.called("close") == 2


@pytest.mark.clause("L4", "R6")
async def test_close_with_a_subscription_pending_on_a_silent_connection(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    connector: SpiedNode = await node(SpiedNode, noisy=True, **through)
    proxy.mute()
    pending = asyncio.ensure_future(connector.subscribe(topic, Log()))
    await eventually(lambda: connector.called("subscribe"), "the call of the transport's subscribe", 0)
    async with patience():
        await connector.close()
        with pytest.raises(contract.ClosedError):
            await pending
    assert len(connector.closes.items) == 1


@pytest.mark.clause("L4")
async def test_close_takes_no_time_on_a_silent_connection(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    before, threads = other_tasks(), set(threading.enumerate())
    connector: Node = await node(**through)
    await connector.subscribe(topic, Log())
    proxy.mute()
    started = asyncio.get_running_loop().time()
    await connector.close()
    assert asyncio.get_running_loop().time() - started < connector.settings.heartbeat + 2
    await proxy.heal()
    async with patience("the end of all connections: break them off where the peer is silent"):
        await proxy.until(lambda: not proxy.connections)
    assert other_tasks() <= before
    await until_no_thread_besides(threads)


@pytest.mark.clause("L4")
async def test_close_right_after_a_loss_still_closes_the_transport(node: MakeNode) -> None:
    connector: SpiedNode = await node(SpiedNode, connect=False, noisy=True)
    transports, closed = Log(), Log()

    async def remember(transport: Any, _: object) -> None:
        transports(transport)

    async def close_slowly(*_: object) -> None:
        for _turn in range(10):
            await asyncio.sleep(0)
        closed()

    connector.trouble.update(connect=remember, close=close_slowly)
    await connector.connect()
    transports.items[0].inbox.lost(ConnectionResetError("lost"))
    await connector.until_down()
    await connector.close()
    assert len(closed.items) == connector.called("close") == connector.called("connect")


@pytest.mark.clause("L4", "R4")
async def test_what_outlives_a_connection_is_undone_at_the_end_and_not_at_a_loss(
    node: MakeNode, proxy: Proxy, through: dict[str, Any]
) -> None:
    connector: SpiedNode = await node(SpiedNode, noisy=True, **through)
    await proxy.cut()
    await connector.until_ready(2)
    assert connector.called("leave") == 0
    await connector.close()
    assert [method for method, _ in connector.calls if method in ("leave", "close")][-2:] == ["leave", "close"]
    away: SpiedNode = await node(SpiedNode, noisy=True, **through)
    await proxy.refuse()
    await away.until_down()
    await away.close()
    assert away.called("leave") == 0


@pytest.mark.clause("L4")
async def test_connect_that_waits_for_a_reconnection_ends_with_close(
    node: MakeNode, proxy: Proxy, through: dict[str, Any]
) -> None:
    connector: Node = await node(noisy=True, **through, connect_timeout=2 * PATIENCE)
    await proxy.refuse()
    await connector.until_down()
    waiting = asyncio.ensure_future(connector.connect())
    await asyncio.sleep(0)
    await connector.close()
    async with patience():
        with pytest.raises(contract.ClosedError):
            await waiting


@pytest.mark.clause("L7")
async def test_cancelling_close_does_not_stop_the_closing(node: MakeNode) -> None:
    connector: Node = await node()
    closing = asyncio.ensure_future(connector.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait((closing,))
    await connector.close()
    assert len(connector.closes.items) == 1
