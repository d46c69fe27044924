"""Chapter L: connecting, and the calls that may come before it."""

import asyncio
from typing import Any

import pytest

from ..broker import Broker
from ..subject import Connector, Settings, Topic, contract
from .nodes import Log, Node, SpiedNode, other_tasks, patience, somewhere
from .proxy import Proxy
from .public import Change, MakeNode, Serve


@pytest.mark.basic(2)
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


@pytest.mark.clause("R2")
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


@pytest.mark.real
@pytest.mark.clause("L3", "L9", "R9")
async def test_a_wrong_password_is_refused_and_not_shown(node: MakeNode, given: Settings, serve: Serve) -> None:
    wrong: dict[str, Any] = {"username": "node", "password": "wr0ng-passw0rd"}
    if Broker.changes_passwords:
        wrong |= {"url": serve(login=("node", "s3cr3t")).url, **Broker.settings_of_login}
    else:
        scheme, mark, rest = given.url.get_secret_value().partition("://")
        wrong["url"] = f"{scheme}{mark}{rest.rpartition('@')[2]}"
    connector: Node = await node(connect=False, **wrong)
    (outcome,) = await asyncio.gather(connector.connect(), return_exceptions=True)
    if outcome is None:
        pytest.skip("not applicable: the broker of the tests lets anybody in")
    assert isinstance(outcome, contract.ConnectError)
    assert outcome.refused, f"`connect` is to raise ConnectError(text, refused=True); it was: {outcome}"
    assert "wr0ng-passw0rd" not in f"{outcome!r} {outcome.__cause__!r}"


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
    before = other_tasks()
    proxy.mute()
    connecting = asyncio.ensure_future(connector.connect())
    async with patience():
        await proxy.until(lambda: proxy.connections)
        connecting.cancel()
        await asyncio.wait((connecting,))
        assert connecting.cancelled()
        assert {task for task in other_tasks() - before if "Proxy" not in str(task.get_coro())} == set()
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
