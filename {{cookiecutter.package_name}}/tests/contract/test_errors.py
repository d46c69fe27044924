"""Chapter E: who gets which error, and what it says."""

import asyncio
import gc
import logging
import re
from typing import Any

import pytest

from ..subject import contract
from .nodes import PATIENCE, Log, Node, SpiedNode, patience
from .proxy import Proxy
from .public import MakeNode


async def refuse_publish(*_: object) -> None:
    """What a broker does that does not allow it."""
    raise contract.PublishRefusedError("no rights here")


async def refuse_subscribe(*_: object) -> None:
    """What a broker does that does not allow it."""
    raise contract.SubscribeRefusedError("no rights here")


@pytest.mark.simulated("E3")
@pytest.mark.clause("E1", "E3")
async def test_a_refused_publish_is_its_callers_error_at_once(node: MakeNode, topic: str) -> None:
    connector: SpiedNode = await node(SpiedNode, publish_timeout=2 * PATIENCE)
    subscriber: Node = await node()
    mailbox, outcomes = Log(), Log()
    await subscriber.subscribe(topic, mailbox)
    connector.trouble["publish"] = refuse_publish
    async with patience():
        with pytest.raises(contract.PublishRefusedError, match="no rights here") as raised:
            await connector.publish(topic, "refused")
        connector.publish_nowait(topic, "refused", outcomes)
        (outcome,) = await outcomes.count(1)
    assert isinstance(outcome, contract.PublishRefusedError)
    assert raised.value.topic == outcome.topic == topic
    assert connector.called("publish", topic) == 2
    connector.trouble.clear()
    await connector.publish(topic, "fine")
    assert await mailbox.count(1) == ["fine"]
    assert connector.errors.items == []
    assert connector.is_ready


@pytest.mark.simulated("E3")
@pytest.mark.clause("E1", "E3")
async def test_a_refused_subscription_is_its_callers_error_at_once(node: MakeNode, topic: str) -> None:
    connector: SpiedNode = await node(SpiedNode, publish_timeout=2 * PATIENCE)
    publisher: Node = await node()
    refused, mailbox = Log(), Log()
    connector.trouble["subscribe"] = refuse_subscribe
    async with patience():
        with pytest.raises(contract.SubscribeRefusedError, match="no rights here") as raised:
            await connector.subscribe(topic, refused)
    assert raised.value.topic == topic
    assert connector.called("subscribe", topic) == 1
    with pytest.raises(contract.UnsubscribeError):
        await connector.unsubscribe(topic, refused)
    connector.trouble.clear()
    await connector.subscribe(topic, mailbox)
    await publisher.publish(topic, "fine")
    assert await mailbox.count(1) == ["fine"]
    assert (refused.items, connector.errors.items) == ([], [])


@pytest.mark.clause("E1", "L7")
async def test_a_publish_can_be_awaited_in_every_way(node: MakeNode, topic: str) -> None:
    connector: SpiedNode = await node(SpiedNode)
    entered, gate = Log(), asyncio.Event()

    async def hold(*_: object) -> None:
        entered()
        await gate.wait()

    async def publish(number: int) -> None:
        async with patience():
            await connector.publish(topic, number)

    connector.trouble["publish"] = hold
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(connector.publish(topic, 1)), group.create_task(publish(2))]
        gathered = asyncio.gather(connector.publish(topic, 3), asyncio.wait_for(connector.publish(topic, 4), PATIENCE))
        await entered.count(1)
        given_up = [asyncio.create_task(connector.publish(topic, 5)), asyncio.create_task(publish(6))]
        await asyncio.sleep(0)
        for task in given_up:
            task.cancel()
        await asyncio.wait(given_up)
        assert not any(task.done() for task in tasks)
        gate.set()
    await gathered
    assert all(task.cancelled() for task in given_up)
    await connector.publish(topic, "all are accepted")
    assert connector.stats()["published"] == 7
    connector.trouble["publish"] = refuse_publish
    for way in (asyncio.create_task, asyncio.ensure_future, asyncio.gather, asyncio.shield):
        with pytest.raises(contract.PublishRefusedError, match="no rights here"):
            await way(connector.publish(topic, "refused"))


@pytest.mark.clause("E1")
async def test_success_calls_back_with_none(node: MakeNode, topic: str) -> None:
    connector: Node = await node()
    outcomes = Log()
    result: object = connector.publish_nowait(topic, 1, outcomes)  # type: ignore[func-returns-value]
    assert result is None
    assert await outcomes.count(1) == [None]


@pytest.mark.clause("E1", "E2")
async def test_without_a_callback_a_late_error_is_an_event(node: MakeNode, topic: str) -> None:
    connector: SpiedNode = await node(SpiedNode, noisy=True)
    connector.trouble["publish"] = refuse_publish
    connector.publish_nowait(topic, "refused")
    error = await connector.error(contract.PublishRefusedError)
    assert topic in str(error)
    assert "no rights here" in str(error)
    assert len(connector.errors.items) == 1


@pytest.mark.clause("E2")
async def test_a_callback_that_raises_is_told_and_harms_nobody(node: MakeNode, topic: str) -> None:
    connector: Node = await node(noisy=True)

    def bad(_: object) -> None:
        raise ValueError("bad callback")

    def worse(_: object) -> None:
        raise asyncio.CancelledError

    connector.publish_nowait(topic, 1, bad)
    assert "bad callback" in str(await connector.error(contract.ListenerError))
    connector.publish_nowait(topic, 1, worse)
    await connector.errors.count(2)
    await connector.publish(topic, 2)


@pytest.mark.clause("E2")
async def test_handlers_that_raise_do_no_harm(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    connector: Node = await node(connect=False, noisy=True, **through)

    def bad(*_: object) -> None:
        raise ValueError("bad handler")

    async def worse(*_: object) -> None:
        raise ValueError("bad handler")

    def worst(*_: object) -> None:
        raise asyncio.CancelledError

    for event in ("ready", "error", "close"):
        for handler in (bad, worse, worst):
            connector.on(event, handler)
    await connector.connect()
    await proxy.cut()
    await connector.until_ready(2)
    await connector.publish(topic, 1)
    await connector.close()
    assert len(connector.closes.items) == 1


@pytest.mark.clause("E2")
async def test_an_outage_is_logged_from_beginning_to_end_if_nobody_listens(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    connector: Node = await node(noisy=True, **through)
    connector.remove_listener("error", connector.errors)
    await proxy.cut()
    await connector.until_ready(2)
    lost, *_, over = [each for each in caplog.records if each.name == contract.__name__.partition(".")[0]]
    assert lost.getMessage().startswith("ConnectionLostError: ")
    assert re.search(r"^Connected to .* after an outage of \d+\.\d s\.$", over.getMessage())
    assert over.levelno == logging.WARNING  # what Python shows unless it is told otherwise


@pytest.mark.clause("E2")
async def test_messages_that_are_not_sent_are_logged_together_if_nobody_listens(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    connector: Node = await node(noisy=True, **through, publish_timeout=0.3)
    await proxy.refuse()
    await connector.until_down()
    connector.remove_listener("error", connector.errors)
    for number in range(300):
        connector.publish_nowait(topic, number)
    with pytest.raises(contract.PublishUnconfirmedError):
        await connector.publish(topic, "which waits as long as those before it")
    for number in range(300):
        connector.publish_nowait(topic, number)
    await connector.close()
    words = r"(\d+) (?:more )?messages? of this node may be lost"
    told = [int(count) for each in caplog.records for count in re.findall(words, each.getMessage())]
    assert sum(told) == 600
    assert len(told) <= 4


@pytest.mark.clause("E2")
async def test_an_outage_is_told_by_events_and_by_no_log(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    connector: Node = await node(noisy=True, **through, reconnect_delay_min=0.01, reconnect_delay_max=0.01)
    await proxy.refuse()
    await connector.error(contract.ReconnectError)
    await proxy.heal()
    await connector.until_ready(2)
    await connector.close()
    gc.collect()  # asyncio then reports errors that nobody has read
    told = [f"{each.name}: {each.getMessage()}" for each in caplog.records if each.levelno >= logging.WARNING]
    assert [each for each in told if not each.startswith("asyncio: Executing")] == []  # those are of its debug mode


@pytest.mark.clause("E2")
async def test_a_loss_is_told_with_what_where_and_what_to_do(
    node: MakeNode, proxy: Proxy, through: dict[str, Any]
) -> None:
    connector: Node = await node(noisy=True, **through)
    await proxy.cut()
    text = str(await connector.error(contract.ConnectionLostError))
    assert f"127.0.0.1:{proxy.port}" in text
    assert len(text) > 60


@pytest.mark.simulated("E3")
@pytest.mark.clause("E3")
async def test_a_refusal_when_restoring_is_told_and_the_rest_is_restored(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    connector: SpiedNode = await node(SpiedNode, noisy=True, **through)
    publisher: Node = await node()
    allowed, mailbox = f"{topic}-allowed", Log()
    await connector.subscribe(topic, Log())
    await connector.subscribe(allowed, mailbox)

    async def refuse_one(_: object, name: str) -> None:
        if name == topic:
            raise contract.SubscribeRefusedError("no rights any more")

    connector.trouble["subscribe"] = refuse_one
    await proxy.cut()
    await connector.until_ready(2)
    assert topic in str(await connector.error(contract.SubscribeRefusedError))
    await publisher.publish(allowed, "still here")
    assert await mailbox.count(1) == ["still here"]


@pytest.mark.clause("E3")
async def test_errors_that_are_no_refusals_are_tried_again(node: MakeNode, topic: str) -> None:
    connector: SpiedNode = await node(SpiedNode)
    publisher: Node = await node()
    mailbox, troubles = Log(), [OSError("once"), asyncio.CancelledError(), RuntimeError("thrice")]

    async def stumble(*_: Any) -> None:
        if troubles:
            raise troubles.pop()

    connector.trouble["publish"] = stumble
    await publisher.subscribe(topic, mailbox)
    await connector.publish(topic, "through")
    assert (await mailbox.count(1), troubles) == (["through"], [])
    connector.trouble.clear()
    troubles += [OSError("once"), asyncio.CancelledError()]
    connector.trouble["subscribe"] = stumble
    await connector.subscribe(topic, mailbox)
    await publisher.publish(topic, "and back")
    assert await mailbox.count(2) == ["through", "and back"]


@pytest.mark.clause("E3")
async def test_an_error_before_there_is_something_to_await_is_tried_again(node: MakeNode, topic: str) -> None:
    connector: SpiedNode = await node(SpiedNode, connect=False)
    troubles = [OSError("once"), RuntimeError("twice")]

    async def make_abrupt(transport: Any, _: object) -> None:
        publish = transport.publish

        def publish_or_raise(name: str, payload: bytes) -> Any:
            if name == topic and troubles:
                raise troubles.pop()
            return publish(name, payload)

        transport.publish = publish_or_raise

    connector.trouble["connected"] = make_abrupt
    await connector.connect()
    await connector.publish(topic, "through")
    assert troubles == []
