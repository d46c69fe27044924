"""Chapter L: from constructing to closing."""

import asyncio
import gc
import logging
import sys
import threading
import traceback
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from ..subject import Connector, Settings, Topic, contract, private_topic
from .nodes import PATIENCE, Log, Node, SpiedNode, patience
from .plugin import MakeHost, MakeNode
from .proxy import Proxy
from .server import at_port, free_port

Change = Callable[..., Settings]

_audited: list[str] | None = None


def _audit(event: str, _: tuple[Any, ...]) -> None:
    if _audited is not None and event in ("socket.__new__", "socket.connect", "subprocess.Popen", "open"):
        _audited.append(event)


sys.addaudithook(_audit)


def somewhere(**changes: Any) -> Settings:
    """Settings that need no broker."""
    return Settings(
        **{"url": SecretStr(f"{(Settings.schemes or ('broker',))[0]}://127.0.0.1:{free_port()}"), **changes}
    )


def others() -> set[asyncio.Task[Any]]:
    """All tasks but the test's."""
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


@pytest.mark.clause("L1")
def test_constructing_does_no_io() -> None:
    global _audited
    settings = somewhere()
    _audited = []
    connector = Connector(settings)
    audited, _audited = _audited, None
    assert audited == []
    assert connector.is_ready is False


@pytest.mark.clause("L1")
def test_bad_settings_are_all_named_and_no_secret_is_shown() -> None:
    with pytest.raises(ValidationError) as raised:
        somewhere(url="s3cr3t-and-no-url", heartbeat=-1, publish_timeout="soon", max_outbox_bytes=0, colour="red")
    text = str(raised.value)
    for field in ("url", "heartbeat", "publish_timeout", "max_outbox_bytes", "colour"):
        assert field in text
    assert "-1" in text
    assert "s3cr3t" not in text + repr(raised.value.errors())


@pytest.mark.clause("L1")
def test_delays_out_of_order_are_named_with_all_else() -> None:
    with pytest.raises(ValidationError, match="reconnect_delay_min") as raised:
        somewhere(reconnect_delay_min=2, reconnect_delay_max=1, heartbeat=0)
    assert "heartbeat" in str(raised.value)


@pytest.mark.clause("L1")
@pytest.mark.parametrize(
    "rest",
    [
        *(f"u:s3{mark}cr3t@host:1" for mark in "@:/?#[],%"),
        "host:s3cr3t",
        "host:70000",
        "host:0",
        "[::1",
        "u:s3cr3t@one,v:s3cr3t@other",
        "host,",
        ",host",
    ],
)
def test_a_url_that_could_be_misread_is_refused_and_not_shown(rest: str) -> None:
    with pytest.raises(ValidationError, match="percent-encoded") as raised:
        somewhere(url=f"{(Settings.schemes or ('broker',))[0]}://{rest}")
    assert "cr3t" not in str(raised.value)


@pytest.mark.clause("L1")
@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("node_name", "node one", "node one"),
        ("serialization", "msgpack", "msgpack"),
        ("connect_timeout", "7.5", 7.5),
        ("publish_timeout", "7.5", 7.5),
        ("heartbeat", "7.5", 7.5),
        ("max_message_bytes", "2000", 2000),
        ("max_outbox_bytes", "2000", 2000),
        ("max_pending_messages", "2000", 2000),
        ("max_pending_bytes", "2000", 2000),
        ("max_history_bytes", "2000", 2000),
        ("control_topic", "our cluster", "our cluster"),
        ("password_file", "a file", Path("a file")),
        ("reconnect_delay_min", "0.25", 0.25),
        ("reconnect_delay_max", "7.5", 7.5),
    ],
)
def test_the_environment_overrides_defaults(
    monkeypatch: pytest.MonkeyPatch, field: str, text: str, value: object
) -> None:
    package = Connector.__module__.partition(".")[0]
    default = getattr(somewhere(), field)
    monkeypatch.setenv(f"{package}_{field}".upper(), text)
    assert getattr(somewhere(), field) == value
    assert getattr(somewhere(**{field: default}), field) == default != value


@pytest.mark.clause("L2")
async def test_connect_makes_ready_once(node: MakeNode) -> None:
    connector: Node = await node(connect=False)
    states = Log()
    connector.on("ready", lambda: states(connector.is_ready))
    await connector.connect()
    assert (states.items, connector.is_ready) == ([True], True)
    await connector.connect()
    assert states.items == [True]
    await connector.close()


@pytest.mark.clause("L2")
async def test_connecting_twice_at_once_makes_one_connection(
    node: MakeNode, proxy: Proxy, through: dict[str, Any]
) -> None:
    connector: Node = await node(connect=False, **through)
    await connector.connect()
    alone = proxy.accepted
    twice: Node = await node(connect=False, **through)
    await asyncio.gather(twice.connect(), twice.connect())
    assert proxy.accepted == 2 * alone
    assert len(twice.readies.items) == 1


@pytest.mark.clause("L2")
async def test_handlers_of_events_come_and_go(node: MakeNode, proxy: Proxy, through: dict[str, Any]) -> None:
    connector: Node = await node(connect=False, noisy=True, **through)
    always, once, never = Log(), Log(), Log()
    connector.on("ready")(always)
    connector.once("ready", once)
    connector.on("ready", never)
    connector.remove_listener("ready", never)
    await connector.connect()
    await proxy.cut()
    await connector.until_ready(2)
    assert [len(log.items) for log in (always, once, never)] == [2, 1, 0]


@pytest.mark.clause("L3")
async def test_an_unreachable_broker_is_told_in_time_and_can_be_tried_again(
    node: MakeNode, proxy: Proxy, through: dict[str, Any]
) -> None:
    connector: Node = await node(connect=False, **through)
    await proxy.refuse()
    async with patience():
        with pytest.raises(contract.ConnectError, match=r"127\.0\.0\.1"):
            await connector.connect()
    assert (connector.is_ready, connector.readies.items) == (False, [])
    await proxy.heal()
    await connector.connect()
    assert connector.is_ready


@pytest.mark.clause("L3", "L4")
async def test_a_broker_that_accepts_and_never_answers_is_told_in_time(
    node: MakeNode, proxy: Proxy, through: dict[str, Any]
) -> None:
    connector: Node = await node(connect=False, **through, connect_timeout=0.5)
    before = others()
    proxy.mute()
    started = asyncio.get_running_loop().time()
    with pytest.raises(contract.ConnectError, match=r"127\.0\.0\.1"):
        await connector.connect()
    assert asyncio.get_running_loop().time() - started < 0.5 + 5
    assert connector.is_ready is False
    await proxy.heal()
    async with patience():
        await proxy.until(lambda: not proxy.connections)
    assert others() <= before


@pytest.mark.clause("L3")
async def test_a_client_that_never_returns_is_given_up_in_time(node: MakeNode) -> None:
    connector: SpiedNode = await node(SpiedNode, connect=False, connect_timeout=0.3)

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    connector.trouble["connected"] = hang
    async with patience():
        with pytest.raises(contract.ConnectError, match="connect_timeout"):
            await connector.connect()
    assert connector.called("close") == 1


@pytest.mark.clause("L3")
async def test_a_loss_while_connecting_is_not_forgotten(node: MakeNode) -> None:
    connector: SpiedNode = await node(SpiedNode, connect=False)

    async def lose(transport: Any, _: object) -> None:
        transport.inbox.lost(ConnectionResetError("lost at once"))

    connector.trouble["connect"] = lose
    with pytest.raises(contract.ConnectError, match="lost at once"):
        await connector.connect()
    assert connector.called("close") == 1
    connector.trouble.clear()
    await connector.connect()
    assert connector.is_ready


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


@pytest.mark.clause("L4")
async def test_close_releases_tasks_threads_and_sockets(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    before, threads = others(), set(threading.enumerate())
    connector: Node = await node(**through)
    await connector.subscribe(topic, Log())
    await connector.publish(topic, "something")
    assert connector.is_ready
    await connector.close()
    assert connector.is_ready is False
    assert len(connector.closes.items) == 1
    async with patience():
        await proxy.until(lambda: not proxy.connections)
    assert others() <= before
    async with patience("the end of all threads"):
        await asyncio.get_running_loop().shutdown_default_executor()  # its threads are the loop's, once they are idle
        while set(threading.enumerate()) - threads:
            await asyncio.sleep(0.01)


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
    async with patience():
        while not connector.called("subscribe"):
            await asyncio.sleep(0)
        await connector.close()
        with pytest.raises(contract.ClosedError):
            await pending
    assert len(connector.closes.items) == 1


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
    assert [method for method, _ in connector.calls if method != "ping"][-2:] == ["leave", "close"]
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


@pytest.mark.clause("L5")
async def test_operations_need_a_connection() -> None:
    connector = Connector(somewhere())
    listener = Log()
    for error in (contract.NotReadyError, contract.ClosedError):
        with pytest.raises(error):
            await connector.publish(Topic.EVENT, 1)
        with pytest.raises(error):
            connector.publish_nowait(Topic.EVENT, 1)
        with pytest.raises(error):
            await connector.subscribe(Topic.EVENT, listener)
        with pytest.raises(error):
            await connector.unsubscribe(Topic.EVENT, listener)
        await connector.close()
    with pytest.raises(contract.ClosedError):
        await connector.connect()


@pytest.mark.clause("L6")
async def test_async_with_connects_and_closes(change: Change) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with Node(change()) as connector:
            assert connector.is_ready
            raise ZeroDivisionError
    assert (connector.is_ready, len(connector.closes.items)) == (False, 1)


@pytest.mark.clause("L7")
async def test_cancelling_connect_undoes_it(node: MakeNode, proxy: Proxy, through: dict[str, Any]) -> None:
    connector: Node = await node(connect=False, **through)
    before = others()
    proxy.mute()
    connecting = asyncio.ensure_future(connector.connect())
    async with patience():
        await proxy.until(lambda: proxy.connections)
        connecting.cancel()
        await asyncio.wait((connecting,))
        assert connecting.cancelled()
        assert {task for task in others() - before if "Proxy" not in str(task.get_coro())} == set()
        await proxy.heal()
        await proxy.until(lambda: not proxy.connections)
        await connector.connect()
    assert connector.is_ready


@pytest.mark.clause("L7")
async def test_cancelling_an_operation_leaves_the_connector_usable(node: MakeNode, topic: str) -> None:
    connector: SpiedNode = await node(SpiedNode)
    other: Node = await node()
    entered, cut_short, gate = Log(), Log(), asyncio.Event()

    async def hold(_: object, topic: str) -> None:
        entered(topic)
        try:
            await gate.wait()
        except asyncio.CancelledError:
            cut_short(topic)
            raise

    mailbox = Log()
    for method, argument in (("subscribe", mailbox), ("unsubscribe", mailbox), ("publish", "something")):
        if method == "unsubscribe":
            await connector.subscribe(topic, mailbox)
        gate.clear()
        connector.trouble[method] = hold
        task = asyncio.ensure_future(getattr(connector, method)(topic, argument))
        await entered.until(lambda entered: entered == [topic])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.set()
        entered.items.clear()
        connector.trouble.clear()
        with pytest.raises(contract.UnsubscribeError):
            await connector.unsubscribe(topic, mailbox)
    assert cut_short.items == []
    await connector.subscribe(topic, mailbox)
    await other.publish(topic, "marker")
    assert await mailbox.before("marker") == []
    await connector.publish(topic, "and it still publishes")


@pytest.mark.clause("L7")
async def test_cancelling_a_second_call_leaves_the_first_alone(node: MakeNode, topic: str) -> None:
    connector: SpiedNode = await node(SpiedNode)
    other: Node = await node()
    gate, mailbox = asyncio.Event(), Log()

    async def hold(*_: object) -> None:
        await gate.wait()

    connector.trouble["subscribe"] = hold
    first, second = (asyncio.ensure_future(connector.subscribe(topic, mailbox)) for _ in range(2))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait((second,))
    gate.set()
    await first
    await other.publish(topic, "here")
    assert await mailbox.count(1) == ["here"]


@pytest.mark.clause("L7")
async def test_cancelling_close_does_not_stop_the_closing(node: MakeNode) -> None:
    connector: Node = await node()
    closing = asyncio.ensure_future(connector.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait((closing,))
    await connector.close()
    assert len(connector.closes.items) == 1


@pytest.mark.clause("L8")
def test_attributes() -> None:
    connector = Connector(somewhere(node_name="node one"))
    assert connector.node_name == "node one"
    assert all(isinstance(each, str) and each for each in (connector.name, connector.version))
    assert Connector(somewhere()).node_name != Connector(somewhere()).node_name


@pytest.mark.clause("L8")
def test_names_on_which_hosts_rely() -> None:
    assert issubclass(Topic, StrEnum)
    assert [topic.value for topic in Topic] == ["RECORD", "RPC", "EVENT"]
    assert private_topic("a") != private_topic("b")
    raised = "Connect NotReady Closed Publish Subscribe Unsubscribe Serialization MessageTooLarge OutboxFull"
    emitted = "ConnectionLost Reconnect BadFrame Listener SlowListener MessagesLost"
    for name in (*raised.split(), *emitted.split()):
        assert issubclass(getattr(Connector.errors, f"{name}Error"), Connector.errors.ConnectorError)
    for operation in ("Publish", "Subscribe"):
        for outcome in ("Refused", "Unconfirmed"):
            error = getattr(Connector.errors, f"{operation}{outcome}Error")
            assert issubclass(error, getattr(Connector.errors, f"{operation}Error"))
    counters = "published delivered filtered lost repaired duplicates reconnects pending"
    assert Connector(somewhere()).stats() == dict.fromkeys(counters.split(), 0)


@pytest.mark.clause("L8")
def test_a_host_needs_nothing_but_the_class() -> None:
    assert Connector.Settings is Settings
    assert Connector.errors.ConnectorError is contract.ConnectorError
    assert all(
        isinstance(each, str) and each for each in (Connector.name, Connector.version, Connector.contract_version)
    )


@pytest.mark.clause("L9")
async def test_no_secret_is_shown(given: Settings, change: Change, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = "s3cr3t%2Fp4ss", "s3cr3t/p4ss"
    open_url = at_port(given.url.get_secret_value(), free_port()).partition("://")
    connector = Node(change(url=f"{open_url[0]}://somebody:{secrets[0]}@{open_url[2].rpartition('@')[2]}"))
    with pytest.raises(contract.ConnectError) as raised:
        await connector.connect()
    await connector.close()
    shown = [repr(connector), repr(connector.settings), str(connector.settings), repr(raised.value), str(raised.value)]
    shown += [repr(raised.value.__cause__), repr(connector.errors.items), caplog.text]
    shown += [repr(record.__dict__) for record in caplog.records]
    assert [text for text in shown for secret in secrets if secret in text] == []
    gc.collect()


@pytest.mark.clause("L9")
async def test_what_a_client_library_tells_of_a_secret_is_not_passed_on(
    node: MakeNode, change: Change, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    start, middle, end = change().url.get_secret_value().partition("://")
    secret_url = f"{start}{middle}somebody:s3cr3t@{end.rpartition('@')[2]}"
    connector: SpiedNode = await node(SpiedNode, connect=False, noisy=True, url=secret_url)

    async def tell(*_: object) -> None:
        raise OSError(f"no luck at {secret_url}")

    connector.trouble["connect"] = tell
    with pytest.raises(contract.ConnectError, match="no luck") as raised:
        await connector.connect()
    shown = "".join(traceback.format_exception(raised.value)) + caplog.text
    assert "s3cr3t" not in shown
