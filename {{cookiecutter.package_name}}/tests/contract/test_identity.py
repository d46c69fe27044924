"""Chapter L: to whom a connector belongs, and with which settings it connects when."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..subject import Connector, Settings, contract, private_topic
from .faults import InstantNode, hang
from .nodes import PATIENCE, Log, Node, SpiedNode, in_environment, patience
from .proxy import Proxy
from .public import Change, MakeNode
from .server import free_port

PACKAGE = Connector.__module__.partition(".")[0]
PREFIX = str(Settings.model_config.get("env_prefix"))


async def run_forked(given: Settings, when: str, topic: str, meanwhile: Callable[[], Any]) -> list[dict[str, Any]]:
    """Run the program `forked.py`; return what its processes said."""
    if not hasattr(os, "fork"):
        pytest.skip("not applicable: no process forks on this system")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, Path(__file__).with_name("forked.py"), PACKAGE, when, topic),
        env={**os.environ, **in_environment(given)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        ending = asyncio.ensure_future(process.communicate())
        await meanwhile()
        async with patience("the end of the processes"):
            said, complaints = await ending
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, complaints.decode()[-500:]
    return [json.loads(line) for line in said.splitlines()]


@pytest.mark.clause("L10")
async def test_a_connector_made_before_a_fork_becomes_two_nodes(node: MakeNode, given: Settings, topic: str) -> None:
    third: Node = await node()
    mailbox, hellos = Log(), Log()
    await third.subscribe(topic, mailbox)
    await third.subscribe(f"{topic}-hello", hellos)

    async def let_them_go() -> None:
        await hellos.until(lambda hellos: len(hellos) == 2, "the names of both children")
        await third.publish(f"{topic}-go", "go")

    parent, *children = await run_forked(given, "made", topic, let_them_go)
    names = {child["name"] for child in children}
    assert len(names | {parent["name"]}) == 3
    for child in children:
        (other,) = names - {child["name"]}
        assert child["heard"] == [[other, number] for number in range(10)]
    wanted = [[name, number] for name in names for number in range(10)]
    assert sorted(await mailbox.count(20)) == sorted(wanted)
    assert third.stats()["duplicates"] == 0


@pytest.mark.clause("L10")
async def test_a_child_of_a_connected_process_is_told_what_to_use(node: MakeNode, given: Settings, topic: str) -> None:
    other: Node = await node()
    mailbox = Log()
    await other.subscribe(topic, mailbox)
    (child,) = await run_forked(given, "connected", topic, lambda: mailbox.count(1))
    assert child["told"].startswith("RuntimeError")
    assert "forked" in child["told"]
    assert "BlockingConnector" in child["told"]
    assert mailbox.items == ["from the parent"]


@pytest.mark.clause("L10", "M2")
async def test_connectors_with_the_same_settings_object_have_names_of_their_own(change: Change) -> None:
    settings = change()
    connectors = [Connector(settings), Connector(settings)]
    mailboxes = [Log(), Log()]
    early = connectors[0].node_name
    for connector, mailbox in zip(connectors, mailboxes, strict=True):
        await connector.connect()
        await connector.subscribe(private_topic(connector.node_name), mailbox)
    one, two = connectors
    assert one.node_name == early != two.node_name
    await one.publish(private_topic(two.node_name), "for two")
    await two.publish(private_topic(one.node_name), "for one")
    assert (await mailboxes[0].count(1), await mailboxes[1].count(1)) == (["for one"], ["for two"])
    for connector in connectors:
        await connector.close()


@pytest.mark.clause("L10")
def test_a_second_run_of_an_event_loop_is_told_at_once(change: Change, topic: str) -> None:
    connector = Connector(change())
    asyncio.run(connector.connect())

    async def use() -> None:
        calls: list[Callable[[], Any]] = [
            lambda: connector.publish_nowait(topic, 1),
            lambda: connector.publish(topic, 1),
            lambda: connector.subscribe(topic, print),
            lambda: connector.unsubscribe(topic, print),
            connector.connect,
            connector.close,
        ]
        for call in calls:
            async with patience("a RuntimeError"):
                with pytest.raises(RuntimeError, match=r"event loop.* BlockingConnector"):
                    await call()

    asyncio.run(use())


@pytest.mark.clause("L10")
async def test_other_threads_are_told_and_can_hand_over(node: MakeNode, topic: str) -> None:
    connector, other, loop = await node(), await node(), asyncio.get_running_loop()
    mailbox, answers = Log(), Log()
    await other.subscribe(topic, mailbox)
    with pytest.raises(RuntimeError, match="BlockingConnector"):
        await asyncio.to_thread(connector.publish_nowait, topic, "from a thread")

    def hand_over() -> None:
        asyncio.run_coroutine_threadsafe(connector.publish(topic, "handed over"), loop).result(PATIENCE)
        asyncio.run_coroutine_threadsafe(connector.subscribe(f"{topic}-answers", answers), loop).result(PATIENCE)
        with pytest.raises(contract.SerializationError):
            asyncio.run_coroutine_threadsafe(connector.publish(topic, {1, 2}), loop).result(PATIENCE)

    async def publish_elsewhere() -> None:
        await connector.publish(topic, "from another loop")

    def run_elsewhere() -> None:
        with pytest.raises(RuntimeError, match="BlockingConnector"):
            asyncio.run(publish_elsewhere())

    await asyncio.to_thread(hand_over)
    await asyncio.to_thread(run_elsewhere)
    await other.publish(f"{topic}-answers", "heard")
    assert await answers.count(1) == ["heard"]
    await connector.publish(topic, "end")
    assert await mailbox.before("end") == ["handed over"]


if hasattr(asyncio, "eager_task_factory"):  # from Python 3.12 on

    @pytest.mark.clause("M1", "M11")
    async def test_eager_tasks_change_nothing(node: MakeNode, topic: str) -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]
        publisher, subscriber = await node(), await node()
        instant: InstantNode = await node(InstantNode)
        called, awaited = Log(), Log()

        async def listener(message: object) -> None:
            await asyncio.sleep(0)
            awaited(message)

        await subscriber.subscribe(topic, called)
        await subscriber.subscribe(topic, listener)
        for number in range(5):
            await publisher.publish(topic, number)
            await called.count(number + 1)
            await awaited.count(number + 1)
            await instant.publish(topic, number)
        assert called.items == awaited.items == list(range(5))
        assert instant.called("publish", topic) == 5


@pytest.mark.clause("L7")
async def test_a_connect_that_is_cancelled_leaves_another_one_alone(node: MakeNode) -> None:
    connector: SpiedNode = await node(SpiedNode, connect=False)
    entered, gate = Log(), asyncio.Event()

    async def hold(*_: object) -> None:
        entered()
        await gate.wait()

    connector.trouble["connect"] = hold
    first, second = (asyncio.ensure_future(connector.connect()) for _ in range(2))
    await entered.count(1)
    first.cancel()
    await asyncio.wait((first,))
    gate.set()
    async with patience("the second call"):
        await second
    assert (first.cancelled(), connector.is_ready, connector.called("connect")) == (True, True, 1)


@pytest.mark.clause("L11", "R3", "R6")
async def test_start_comes_before_the_broker(node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str) -> None:
    await proxy.refuse()
    connector: Node = await node(connect=False, noisy=True, **through)
    other: Node = await node()
    mailbox, theirs, outcomes = Log(), Log(), Log()
    await other.subscribe(f"{topic}-out", theirs)
    result: object = connector.start()  # type: ignore[func-returns-value]
    connector.start()
    assert (result, connector.is_ready) == (None, False)
    connector.publish_nowait(f"{topic}-out", 0, outcomes)
    publishing = asyncio.ensure_future(connector.publish(f"{topic}-out", 1))
    subscribing = asyncio.ensure_future(connector.subscribe(topic, mailbox))
    connecting = asyncio.ensure_future(connector.connect())
    error = await connector.error(contract.ReconnectError)
    assert error.refused is False
    assert not any(call.done() for call in (publishing, subscribing, connecting))
    assert (connector.readies.items, connector.stats()["pending"]) == ([], 2)
    await proxy.heal()
    async with patience("the first connection"):
        await asyncio.gather(publishing, subscribing, connecting)
    assert (await outcomes.count(1), await theirs.count(2)) == ([None], [0, 1])
    await other.publish(topic, "in")
    assert await mailbox.count(1) == ["in"]
    assert len(connector.readies.items) == 1
    assert connector.stats()["reconnects"] == 0


@pytest.mark.clause("L11", "L4")
async def test_a_start_that_never_succeeds_can_be_closed(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    await proxy.refuse()
    connector: Node = await node(connect=False, noisy=True, **through, publish_timeout=0.3, connect_timeout=0.5)
    connector.start()
    await connector.error(contract.ReconnectError)
    async with patience():
        with pytest.raises(contract.PublishUnconfirmedError, match="publish_timeout"):
            await connector.publish(topic, "given up")
        with pytest.raises(contract.ConnectError, match="connect_timeout"):
            await connector.connect()
        connector.publish_nowait(topic, "waits", outcomes := Log())
        await connector.close()
    assert [type(outcome) for outcome in outcomes.items] == [contract.ClosedError]
    assert (connector.readies.items, len(connector.closes.items)) == ([], 1)


class Source:
    """A function that returns settings, with a new password each time; it raises what is put into `faults`."""

    def __init__(self, change: Change, **changes: Any) -> None:
        self.calls = 0
        self.faults: list[BaseException] = []
        self.plain = change(**changes)
        self.logins = Log()
        self._change = change
        self._changes = changes

    def __call__(self) -> Settings:
        self.calls += 1
        if self.faults:
            raise self.faults.pop()
        return self._change(**self._changes, username="somebody", password=f"s3cr3t-{self.calls}")

    async def later(self) -> Settings:
        """The same as a coroutine function."""
        await asyncio.sleep(0)
        return self()

    async def let_in(self, transport: Any, _: object) -> None:
        """A trouble for `connect`: note user and password, and connect without, whatever the broker asks for."""
        self.logins(transport.settings.login)
        transport.settings = self.plain


@pytest.mark.clause("L12")
@pytest.mark.parametrize("is_async", [False, True])
async def test_settings_come_from_a_function_at_each_attempt(
    node: MakeNode, change: Change, proxy: Proxy, through: dict[str, Any], is_async: bool
) -> None:
    source = Source(change, **through)
    function: Any = source.later if is_async else source
    connector: SpiedNode = await node(lambda _: SpiedNode(function), connect=False, noisy=True)
    connector.trouble["connect"] = source.let_in
    assert source.calls == 0
    source.faults.append(ZeroDivisionError("wr0ng s3cr3t"))
    with pytest.raises(contract.ConnectError, match="settings function raised ZeroDivisionError") as raised:
        await connector.connect()
    assert "wr0ng" not in str(raised.value)
    await connector.connect()
    assert source.logins.items == [("somebody", "s3cr3t-2")]
    source.faults += [Unfit(), ValueError("again")]
    await proxy.cut()
    await connector.until_ready(2)
    assert source.logins.items[1:] == [("somebody", f"s3cr3t-{source.calls}")]
    told = [str(error) for error in connector.errors.items if isinstance(error, contract.ReconnectError)]
    assert ["ValueError" in told[0], "Unfit" in told[1]] == [True, True]


class Unfit(BaseException):
    """What a settings function may raise, too."""


@pytest.mark.clause("L12")
async def test_a_settings_function_that_hangs_is_a_failed_attempt(
    node: MakeNode, change: Change, proxy: Proxy, through: dict[str, Any]
) -> None:
    source = Source(change, **through, connect_timeout=0.3)

    async def hang_once() -> Settings:
        if source.calls == 1:
            source.calls += 1
            await hang()
        return await source.later()

    function: Any = hang_once
    connector: SpiedNode = await node(lambda _: SpiedNode(function), connect=False, noisy=True)
    connector.trouble["connect"] = source.let_in
    await connector.connect()
    await proxy.cut()
    assert "settings function did not return" in str(await connector.error(contract.ReconnectError))
    await connector.until_ready(2)


@pytest.mark.clause("L12")
async def test_the_settings_class_reads_the_environment_anew(
    node: MakeNode, given: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in in_environment(given).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(f"{PREFIX}URL", f"{(Settings.schemes or ('broker',))[0]}://127.0.0.1:{free_port()}")
    monkeypatch.setenv(f"{PREFIX}CONNECT_TIMEOUT", "2")
    function: Any = Settings
    connector: Node = await node(lambda _: Node(function), connect=False)
    with pytest.raises(contract.ConnectError):
        await connector.connect()
    monkeypatch.setenv(f"{PREFIX}URL", given.url.get_secret_value())
    monkeypatch.setenv(f"{PREFIX}CONNECT_TIMEOUT", "10")
    await connector.connect()
    assert connector.settings.url == given.url


@pytest.mark.clause("L12", "R9")
async def test_a_password_file_is_read_at_each_connection(
    node: MakeNode, change: Change, proxy: Proxy, through: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("s3cr3t-1\n")
    source = Source(change, **through)
    connector: SpiedNode = await node(
        SpiedNode, connect=False, noisy=True, **through, username="somebody", password_file=file
    )
    connector.trouble["connect"] = source.let_in
    await connector.connect()
    file.write_text("")
    await proxy.cut()
    assert "password_file" in str(await connector.error(contract.ReconnectError))
    file.write_text("s3cr3t-2")
    await connector.until_ready(2)
    assert source.logins.items == [("somebody", "s3cr3t-1"), ("somebody", "s3cr3t-2")]
