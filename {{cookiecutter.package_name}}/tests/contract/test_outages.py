"""Chapter R: nothing takes longer than it may, nothing is reported twice, and nothing is left behind."""

import asyncio
import gc
import socket
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from ..subject import BrokerTransport, Settings, contract, sending
from .faults import RAISING, Foreign, hang, hold_until, listen_to, pings, until_down
from .nodes import PATIENCE, Log, Node, SpiedNode, Wire, at_hosts, bad_host, eventually, largest, patience
from .proxy import Proxy
from .public import MakeNode
from .server import free_port


@pytest.mark.clause("R1")
async def test_it_pings_by_the_clock_also_while_messages_come(node: MakeNode, topic: str) -> None:
    connector: SpiedNode = await node(SpiedNode, heartbeat=0.4)
    other: Node = await node()
    mailbox, is_over = Log(), asyncio.Event()
    await connector.subscribe(topic, mailbox)

    async def chatter() -> None:
        while not is_over.is_set():
            await other.publish(topic, "chatter")
            await asyncio.sleep(0.01)

    chattering = asyncio.ensure_future(chatter())
    await pings(connector, 3)
    is_over.set()
    await chattering


@pytest.mark.clause("R2")
async def test_the_backoff_goes_on_while_each_connection_dies_at_once(node: MakeNode) -> None:
    delays = {"reconnect_delay_min": 0.01, "reconnect_delay_max": 0.3}
    connector: SpiedNode = await node(SpiedNode, connect=False, noisy=True, **delays)
    times, transports = Log(), Log()

    async def note(transport: Any, _: object) -> None:
        times(asyncio.get_running_loop().time())
        transports(transport)

    def lose() -> None:
        if len(times.items) <= 8:
            transports.items[-1].inbox.lost(ConnectionResetError("killed"))

    connector.trouble["connect"] = note
    connector.on("ready", lose)
    await connector.connect()
    came = await times.count(8)
    assert min(later - earlier for earlier, later in pairwise(came[5:])) >= 0.3 / 2
    await connector.until_ready(9)
    assert connector.is_ready


@pytest.mark.clause("R3")
@pytest.mark.parametrize("fault", ["mute", "cut"])
async def test_no_other_setting_lengthens_a_publish(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str, fault: str
) -> None:
    slow = {"heartbeat": 10 * PATIENCE, "connect_timeout": 10 * PATIENCE}
    publisher: Node = await node(noisy=True, **through, publish_timeout=0.3, **slow)
    outcomes = Log()
    proxy.mute()
    if fault == "cut":
        await proxy.cut()
        await publisher.until_down()
    started = asyncio.get_running_loop().time()
    publisher.publish_nowait(topic, 0, outcomes)
    for number in range(1, 3):
        with pytest.raises(contract.PublishUnconfirmedError, match="publish_timeout"):
            await publisher.publish(topic, number)
    assert [type(outcome) for outcome in outcomes.items] == [contract.PublishUnconfirmedError]
    assert asyncio.get_running_loop().time() - started < 2 * 0.3 + 2
    await proxy.heal()
    if fault == "cut":
        await publisher.until_ready(2)
    async with patience("a publish after it"):
        await published(publisher, topic)


async def published(publisher: Node, topic: str) -> None:
    """Publish, as often as it takes."""
    while True:
        try:
            await publisher.publish(topic, "after")
            return
        except contract.PublishUnconfirmedError:
            continue


@pytest.mark.clause("R3", "R5")
async def test_a_loop_that_its_host_has_blocked_is_not_held_against_the_broker(node: MakeNode, topic: str) -> None:
    publisher: Node = await node(publish_timeout=0.2)
    subscriber: Node = await node()
    mailbox, outcomes = Log(), Log()
    await subscriber.subscribe(topic, mailbox)
    for number in range(10):
        await subscriber.publish(f"{topic}-{number}", "makes the topic")
    for number in range(1000):
        publisher.publish_nowait(f"{topic}-{number % 10}" if number else topic, number, outcomes)
    time.sleep(0.5)  # noqa: ASYNC251 (the block itself: nobody waits for anything here)
    publisher.publish_nowait(topic, "end", outcomes)
    await outcomes.count(1001)
    assert set(outcomes.items) == {None}
    assert await mailbox.before("end") == [0]


@pytest.mark.clause("R3", "S5")
async def test_a_large_message_that_makes_the_broker_cut_is_given_up_soon(
    node: MakeNode, wire: Wire, topic: str
) -> None:
    publisher: SpiedNode = await node(SpiedNode, noisy=True, publish_timeout=10 * PATIENCE)
    if largest(publisher, wire) < sending.JOINED_BYTES + 1000:
        pytest.skip("not applicable: the broker takes no frame so large")
    other: Node = await node()
    mailbox = Log()
    await other.subscribe(topic, mailbox)

    async def cut_at_large(transport: Any, _: object) -> None:
        if len(transport.payload) > sending.JOINED_BYTES:
            transport.inbox.lost(ConnectionResetError("too much for me"))
            await hang()

    publisher.trouble["publish"] = cut_at_large
    async with patience("the end of the large message"):
        with pytest.raises(contract.MessageTooLargeError, match="drops the connection"):
            await publisher.publish(topic, "x" * (sending.JOINED_BYTES + 1000))
        assert publisher.called("publish", topic) <= 5
        await publisher.publish(topic, "small")
    assert await mailbox.count(1) == ["small"]


@pytest.mark.simulated("R9")
@pytest.mark.clause("R9", "R3")
async def test_each_new_reason_for_staying_away_is_told_once(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    connector: SpiedNode = await node(SpiedNode, noisy=True, **through, publish_timeout=0.3)
    attempts = Log()
    reason: list[BaseException] = [OSError("no route")]

    async def fail(*_: object) -> None:
        attempts()
        raise reason[0]

    connector.trouble["connect"] = fail
    await proxy.cut()
    for error in (OSError("no route"), contract.ConnectError("no such user", refused=True), Foreign("very odd")):
        reason[0] = error
        await attempts.count(len(attempts.items) + 3)
    with pytest.raises(contract.PublishUnconfirmedError, match="Foreign"):
        await connector.publish(topic, "given up")
    told = [error for error in connector.errors.items if isinstance(error, contract.ReconnectError)]
    texts = ["no route", "no such user", "Foreign"]
    assert [text in str(error) for error, text in zip(told, texts, strict=True)] == [True] * 3
    assert [error.refused for error in told] == [False, True, False]
    connector.trouble.clear()
    await connector.until_ready(2)
    await connector.publish(topic, "back")


@pytest.mark.clause("R9")
async def test_a_reason_that_lasts_is_told_again(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{contract.__name__}.link.TELL_AGAIN", 0.3)
    connector: Node = await node(noisy=True, **through)
    await proxy.refuse()
    started = asyncio.get_running_loop().time()
    await connector.errors.count(4)  # with the loss
    assert asyncio.get_running_loop().time() - started >= 2 * 0.3
    await proxy.heal()
    await connector.until_ready(2)


@pytest.mark.simulated("R9", "L3")
@pytest.mark.clause("R9", "L3")
@pytest.mark.parametrize("refused", [False, True])
async def test_connect_tells_whether_trying_again_is_vain(node: MakeNode, refused: bool) -> None:
    connector: SpiedNode = await node(SpiedNode, connect=False)

    async def fail(*_: object) -> None:
        raise contract.ConnectError("not you", refused=refused)

    connector.trouble["connect"] = fail
    with pytest.raises(contract.ConnectError, match="not you") as raised:
        await connector.connect()
    assert raised.value.refused is refused


@pytest.mark.clause("R8")
@pytest.mark.parametrize("fault", ["refuses", "silent", "drops"])
async def test_a_bad_first_host_keeps_no_node_away(
    node: MakeNode, given: Settings, topic: str, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    with bad_host(fault) as bad:
        url = at_hosts(given, bad, *given.address.hosts)
        async with patience("ten nodes that connect past a bad host"):
            nodes = await asyncio.gather(*(node(url=url, connect_timeout=6) for _ in range(10)))
            await nodes[0].publish(topic, "through")
    gc.collect()  # errors that nobody waits for are reported then
    assert [each.getMessage() for each in caplog.records if "never retrieved" in each.getMessage()] == []


@pytest.mark.clause("R8")
async def test_a_silent_first_address_of_a_name_keeps_no_node_away(
    node: MakeNode, given: Settings, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (alive, *_), look_up = given.address.hosts, socket.getaddrinfo
    if BrokerTransport.takes_all_hosts or alive.host != "127.0.0.1":
        pytest.skip("not applicable: the client itself looks up names, or the broker is not here")

    def two_addresses(host: Any, *arguments: Any, **options: Any) -> Any:
        hosts = ["127.0.0.2", alive.host] if host == "broker.test" else [host]
        return [found for each in hosts for found in look_up(each, *arguments, **options)]

    with socket.create_server(("127.0.0.2", alive.port or 0)):
        monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
        url = at_hosts(given, alive._replace(host="broker.test"))
        connector: Node = await node(url=url, connect_timeout=6)
        await connector.publish(topic, "through")


@pytest.mark.clause("R8")
async def test_the_next_attempt_begins_with_the_next_host(node: MakeNode, given: Settings) -> None:
    if BrokerTransport.takes_all_hosts:
        pytest.skip("not applicable: the client itself handles several hosts")
    ports = [free_port(), free_port()]
    url = at_hosts(given, *(contract.Target("127.0.0.1", port) for port in ports))
    connector: SpiedNode = await node(SpiedNode, connect=False, noisy=True, url=url)
    tried = Log()

    async def fail(transport: Any, _: object) -> None:
        tried(transport.settings.targets()[0].port)
        raise OSError("nobody is there")

    connector.trouble["connect"] = fail
    connector.start()
    assert (await tried.count(4))[:4] == [*ports, *reversed(ports)]


@pytest.mark.clause("L4")
@pytest.mark.parametrize("is_first", [False, True], ids=["let in, then closed", "closed, then let in"])
async def test_close_while_a_reconnection_is_about_to_succeed(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str, is_first: bool
) -> None:
    connector: SpiedNode = await node(SpiedNode, noisy=True, **through, publish_timeout=10 * PATIENCE)
    subscriber, other = await node(), await node()
    mailbox, entered, gate, outcomes = Log(), Log(), asyncio.Event(), Log()
    await subscriber.subscribe(topic, mailbox)
    connector.trouble["connected"] = hold_until(gate, entered, lambda *_: True)
    await proxy.cut()
    await entered.count(1)
    for number in range(2000):
        connector.publish_nowait(topic, number, partial(note, outcomes, number))
    if is_first:
        closing = asyncio.ensure_future(connector.close())
        await asyncio.sleep(0)
        gate.set()
    else:
        gate.set()
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(connector.close())
    async with patience("the end of close"):
        await closing
    assert len(outcomes.items) == 2000
    events = len(connector.errors.items), len(connector.readies.items), len(connector.closes.items)
    await other.publish(topic, "end")
    arrived = await mailbox.before("end")
    assert arrived == [number for number, error in outcomes.items if error is None]
    assert {type(error) for _, error in outcomes.items} <= {type(None), contract.ClosedError}
    assert events == (len(connector.errors.items), len(connector.readies.items), 1)
    if is_first:
        assert (arrived, connector.readies.items) == ([], [None])


def note(outcomes: Log, number: int, error: Exception | None) -> None:
    """Log what became of a message."""
    outcomes((number, error))


@pytest.mark.clause("M4")
async def test_a_subscribe_that_timed_out_leaves_nothing(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    connector: SpiedNode = await node(SpiedNode, connect=False, **through, publish_timeout=1, heartbeat=10 * PATIENCE)
    other: Node = await node()
    arrived, mailbox = Log(), Log()
    connector.trouble["connect"] = listen_to(arrived)
    await connector.connect()
    await connector.subscribe(f"{topic}-end", mailbox)

    async def give_up(name: str) -> None:
        proxy.mute()
        with pytest.raises(contract.SubscribeUnconfirmedError, match="publish_timeout") as raised:
            await connector.subscribe(name, Log())
        assert raised.value.topic == name
        await proxy.heal()
        await eventually(lambda: connector.called("unsubscribe", name), "the end of the subscription")

    await give_up(f"{topic}-first")  # a client may open one more connection, once
    connections = len(proxy.connections)
    await give_up(topic)
    await eventually(
        lambda: len(proxy.connections) <= connections,
        lambda: f"{connections} connections, as before; there are {len(proxy.connections)}: {connector.errors.items}",
    )
    await connector.subscribe(f"{topic}-later", Log())
    await other.publish(topic, "nobody listens")
    await other.publish(f"{topic}-end", "end")
    await mailbox.before("end")
    assert topic not in arrived.items
    assert connector.is_ready


@pytest.mark.clause("M4")
async def test_an_unsubscribe_that_failed_is_tried_again(node: MakeNode, topic: str) -> None:
    connector: SpiedNode = await node(SpiedNode)
    listener, failures = Log(), Log()

    async def fail_once(*_: object) -> None:
        if not failures.items:
            failures()
            raise OSError("not now")

    connector.trouble["unsubscribe"] = fail_once
    await connector.subscribe(topic, listener)
    with pytest.raises(contract.UnsubscribeError, match="not now"):
        await connector.unsubscribe(topic, listener)
    await eventually(lambda: connector.called("unsubscribe", topic) == 2, "a second attempt to unsubscribe")


@pytest.mark.clause("E2")
async def test_odd_handlers_of_events_harm_nobody(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    connector: Node = await node(connect=False, noisy=True, **through)

    def handler(deed: Callable[[], None], is_async: bool) -> Callable[..., Any]:
        async def later(*_: object) -> None:
            await asyncio.sleep(0)
            deed()

        return later if is_async else lambda *_: deed()

    for event in ("ready", "error", "close"):
        for deed in RAISING:
            for is_async in (False, True):
                connector.on(event, handler(deed, is_async))
    late = Log()
    for event in ("ready", "close"):
        connector.on(event, late)
    await connector.connect()
    for outage in range(1, 3):
        await proxy.cut()
        await until_down(connector, outage)
        await connector.until_ready(outage + 1)
        await connector.publish(topic, outage)
    await connector.close()
    assert len(late.items) == 4
