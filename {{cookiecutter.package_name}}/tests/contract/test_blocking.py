"""Chapter L: the same connector for code without an event loop."""

import asyncio
import gc
import os
import re
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ..subject import BlockingConnector, Connector, Settings, contract, sending
from .nodes import Log, Node, eventually, in_environment, patience
from .proxy import Proxy
from .public import FAST, Change, MakeNode

PACKAGE = Connector.__module__.partition(".")[0]

MakeBlocking = Callable[..., BlockingConnector]


class Mailbox(Log):
    """Collects what threads say."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()

    def __call__(self, item: Any = None) -> None:
        self._loop.call_soon_threadsafe(super().__call__, item)


@pytest.fixture
async def blocking(change: Change) -> AsyncIterator[MakeBlocking]:
    """Creates blocking connectors, which are closed at the end."""
    made: list[BlockingConnector] = []

    def make(**changes: Any) -> BlockingConnector:
        made.append(BlockingConnector(change(**changes)))
        return made[-1]

    yield make
    async with patience("the end of all threads"):
        for each in made:
            await asyncio.to_thread(each.close)


@pytest.fixture
async def other(node: MakeNode) -> Node:
    """Another node."""
    made: Node = await node()
    return made


@pytest.fixture
async def mailbox(other: Node, topic: str) -> Log:
    """What the other node hears on the topic."""
    heard = Log()
    await other.subscribe(topic, heard)
    return heard


async def run_blocked(given: Settings, program: str, topic: str) -> str:
    """Run a program of `blocked.py`, which must not complain; return what it has printed."""
    status, printed, complaints = await run_program(given, program, topic)
    assert (status, complaints) == (0, "")
    return printed


async def run_program(given: Settings, program: str, topic: str) -> tuple[int | None, str, str]:
    """Run a program of `blocked.py`; return how it has ended, what it has printed, and its complaints."""
    quiet = "ignore:This process:DeprecationWarning"  # it comes with each fork of a process that has threads
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", quiet, str(Path(__file__).with_name("blocked.py")), PACKAGE, program, topic),
        env={**os.environ, **in_environment(given), "PYTHONASYNCIODEBUG": ""},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        async with patience("the end of the program"):
            printed, complaints = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, printed.decode(), complaints.decode()


@pytest.mark.clause("L10", "M7")
async def test_all_threads_share_one_connection(
    mailbox: Log, blocking: MakeBlocking, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    connector, gate = blocking(**through), threading.Barrier(16)

    def speak(thread: int) -> None:
        gate.wait()
        for number in range(63):
            (connector.publish_nowait if number % 3 else connector.publish)(topic, [thread, number])

    before = proxy.accepted
    await asyncio.to_thread(blocking(**through).publish, topic, [16, 0])
    needed = proxy.accepted - before
    with ThreadPoolExecutor(16) as threads:
        async with patience("publishing from 16 threads"):
            await asyncio.gather(*(asyncio.get_running_loop().run_in_executor(threads, speak, n) for n in range(16)))
    heard = await mailbox.count(1 + 16 * 63)
    assert [[number for thread, number in heard if thread == n] for n in range(16)] == [list(range(63))] * 16
    assert proxy.accepted - before == 2 * needed


@pytest.mark.clause("L10", "L11")
async def test_a_first_use_waits_for_the_broker(
    mailbox: Log, blocking: MakeBlocking, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    outcomes = Mailbox()
    await proxy.refuse()
    hasty, patient = blocking(**through, publish_timeout=0.3), blocking(**through)
    with pytest.raises(contract.PublishUnconfirmedError, match="publish_timeout"):
        await asyncio.to_thread(hasty.publish, topic, "in vain")
    await asyncio.to_thread(patient.publish_nowait, topic, "first", outcomes)
    publishing = asyncio.ensure_future(asyncio.to_thread(patient.publish, topic, "second"))
    await proxy.heal()
    async with patience("a publish that waits"):
        await publishing
    assert await outcomes.count(1) == [None]
    heard = await mailbox.until(lambda items: "second" in items)
    assert [each for each in heard if each != "in vain"] == ["first", "second"]
    async with patience("the connection of one that has published in vain"):
        await asyncio.to_thread(hasty.subscribe, topic, print)


@pytest.mark.clause("L10", "E1", "S3")
async def test_errors_are_those_of_a_connector(blocking: MakeBlocking, topic: str) -> None:
    connector = blocking(max_message_bytes=1000)
    for publish in (connector.publish, connector.publish_nowait):
        for message, error in (({1}, contract.SerializationError), ("x" * 2000, contract.MessageTooLargeError)):
            with pytest.raises(error):
                await asyncio.to_thread(publish, topic, message)
    with pytest.raises(contract.UnsubscribeError):
        await asyncio.to_thread(connector.unsubscribe, topic, print)
    with pytest.raises(TypeError, match="settings must be Settings"):
        BlockingConnector("redis://127.0.0.1")  # type: ignore[arg-type]


def raising(error: type[BaseException]) -> Callable[[object], Any]:
    """Return a use of a connector that raises an error."""

    async def use(_: object) -> None:
        raise error

    return use


@pytest.mark.clause("L7", "L10")
async def test_a_use_that_was_submitted_ends_as_its_future_does(blocking: MakeBlocking, topic: str) -> None:
    connector, begun, ended = blocking(), Mailbox(), Mailbox()

    async def square(_: object) -> int:
        return 7 * 7

    async def wait(_: object) -> None:
        try:
            begun()
            await asyncio.Event().wait()
        finally:
            ended()

    assert await asyncio.wrap_future(connector.submit(square)) == 49
    with pytest.raises(contract.UnsubscribeError):
        await asyncio.wrap_future(connector.submit(lambda inner: inner.unsubscribe(topic, print)))
    for ends in (SystemExit, KeyboardInterrupt):
        with pytest.raises(RuntimeError, match=ends.__name__):
            await asyncio.wrap_future(connector.submit(raising(ends)))
    waiting = connector.submit(wait)
    await begun.count(1)
    waiting.cancel()
    await ended.count(1)


@pytest.fixture
async def narrow(blocking: MakeBlocking, proxy: Proxy, through: dict[str, Any]) -> BlockingConnector:
    """A connector that cannot connect until `proxy` heals, with room for 100 messages of 98 characters."""
    await proxy.refuse()
    room = 100 * (100 + sending.MESSAGE_COST)
    return blocking(**through, **FAST, publish_timeout=60, max_outbox_bytes=room)


@pytest.mark.clause("L10", "T3")
async def test_threads_share_the_room_of_the_outbox(narrow: BlockingConnector, proxy: Proxy, topic: str) -> None:
    outcomes = Mailbox()
    gate = threading.Barrier(16)

    def fill(_: int) -> int:
        gate.wait()
        for count in range(1000):
            try:
                narrow.publish_nowait(topic, "x" * 98, outcomes)
            except contract.OutboxFullError:
                return count
        return 1000

    with ThreadPoolExecutor(16) as threads:
        async with patience("a full outbox"):
            taken = sum(await asyncio.to_thread(lambda: list(threads.map(fill, range(16)))))
    assert 99 <= taken <= 101  # one that passes to the connector's thread at that moment may count twice, or not at all
    await proxy.heal()
    assert await outcomes.count(taken) == [None] * taken
    await asyncio.to_thread(narrow.publish, topic, "room again")


@pytest.mark.clause("L10", "T3")
async def test_what_a_thread_was_promised_the_event_loop_does_not_take(
    narrow: BlockingConnector, proxy: Proxy, topic: str
) -> None:
    outcomes = Mailbox()

    def fill() -> None:
        for _ in range(100):
            narrow.publish_nowait(topic, "x" * 98, outcomes)

    async def publish_more(inner: contract.MessageConnector[Settings]) -> None:
        filling = threading.Thread(target=fill)
        filling.start()
        filling.join()  # the event loop, which is this thread's, comes to nothing meanwhile
        with pytest.raises(contract.OutboxFullError):
            inner.publish_nowait(topic, "one too many", outcomes)

    await asyncio.wrap_future(narrow.submit(publish_more))
    await proxy.heal()
    assert await outcomes.count(100) == [None] * 100


@pytest.mark.clause("L10", "M11")
async def test_a_listener_that_blocks_delays_nobody(other: Node, blocking: MakeBlocking, topic: str) -> None:
    connector, gate, slow, quick, at_other = blocking(), threading.Event(), Mailbox(), Mailbox(), Log()
    await other.subscribe(f"{topic}-back", at_other)

    def block(message: Any) -> None:
        gate.wait()
        slow(message)

    for _ in range(2):  # the second time, the listener is there
        await asyncio.to_thread(connector.subscribe, topic, block)
    await asyncio.to_thread(connector.subscribe, topic, quick)
    try:
        for number in range(3):
            await other.publish(topic, number)
        assert await quick.count(3) == [0, 1, 2]
        async with patience("a publish beside a listener that blocks"):
            await asyncio.to_thread(connector.publish, f"{topic}-back", "not delayed")
        assert await at_other.count(1) == ["not delayed"]
        assert slow.items == []
    finally:
        gate.set()
    assert await slow.count(3) == [0, 1, 2]
    await asyncio.to_thread(connector.unsubscribe, topic, block)
    await other.publish(topic, "marker")
    assert await quick.before("marker") == slow.items == [0, 1, 2]


@pytest.mark.clause("L10", "M10")
@pytest.mark.parametrize("raised", [StopIteration, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
async def test_whatever_a_listener_raises_it_gets_the_next_message(
    other: Node, blocking: MakeBlocking, topic: str, caplog: pytest.LogCaptureFixture, raised: type[BaseException]
) -> None:
    connector, heard = blocking(), Mailbox()

    def listen(message: Any) -> None:
        heard(message)
        raise raised

    await asyncio.to_thread(connector.subscribe, topic, listen)
    for number in range(3):
        await other.publish(topic, number)
    assert await heard.count(3) == [0, 1, 2]
    await asyncio.to_thread(connector.close)
    told = [each.getMessage() for each in caplog.records if each.getMessage().startswith("ListenerError")]
    assert [raised.__name__ in each for each in told] == [True] * 3


class Repeater:
    """A listener that calls another one, which hears all twice."""

    def __init__(self, listener: Log) -> None:
        self._listener = listener

    def __call__(self, message: Any) -> None:
        self._listener([message, message])


@pytest.mark.clause("L10", "M10")
async def test_a_listener_may_be_an_object_with_a_listener_of_its_own(
    other: Node, blocking: MakeBlocking, topic: str
) -> None:
    heard = Mailbox()
    await asyncio.to_thread(blocking().subscribe, topic, Repeater(heard))
    await other.publish(topic, 1)
    assert await heard.count(1) == [[1, 1]]


@pytest.mark.clause("L10", "E2")
async def test_messages_that_are_not_sent_are_logged_with_a_count(
    blocking: MakeBlocking, proxy: Proxy, through: dict[str, Any], topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    await proxy.refuse()
    connector = blocking(**through, publish_timeout=0.3, connect_timeout=0.3)

    def publish() -> None:
        for number in range(300):
            connector.publish_nowait(topic, number)
        with pytest.raises(contract.PublishUnconfirmedError):
            connector.publish(topic, "which waits as long as those before it")
        for number in range(300):
            connector.publish_nowait(topic, number)
        connector.close()

    async with patience("the end of the connector"):
        await asyncio.to_thread(publish)
    words = r"(\d+) (?:more )?messages? of this node may be lost"
    told = [int(count) for each in caplog.records for count in re.findall(words, each.getMessage())]
    assert sum(told) == 600
    assert len(told) <= 4


@pytest.mark.clause("L10", "M9")
async def test_a_listener_may_do_all_that_others_may(other: Node, blocking: MakeBlocking, topic: str) -> None:
    connector, answers, heard, done = blocking(), Log(), Mailbox(), Mailbox()
    await other.subscribe(f"{topic}-answers", answers)

    def use(message: Any) -> None:
        connector.publish(f"{topic}-answers", message)
        connector.subscribe(f"{topic}-more", heard)
        connector.unsubscribe(topic, use)
        connector.close()
        done()

    await asyncio.to_thread(connector.subscribe, topic, use)
    await other.publish(topic, "use it")
    await done.count(1)
    assert await answers.count(1) == ["use it"]
    with pytest.raises(contract.ClosedError):
        await asyncio.to_thread(connector.publish, topic, "late")


@pytest.mark.clause("L10", "M9")
async def test_calls_on_the_connectors_own_thread_never_wait_for_themselves(
    other: Node, blocking: MakeBlocking, topic: str
) -> None:
    connector, answers, errors, closed = blocking(), Log(), Mailbox(), Mailbox()
    await other.subscribe(f"{topic}-answers", answers)

    async def use(message: Any) -> None:
        try:
            connector.publish(topic, message)
        except RuntimeError as error:
            errors(error)
        connector.publish_nowait(f"{topic}-answers", message, close)

    def close(_: object) -> None:
        connector.close()
        closed()

    await asyncio.to_thread(connector.subscribe, topic, use)
    await other.publish(topic, "use it")
    assert await answers.count(1) == ["use it"]
    assert "publish_nowait" in str((await errors.count(1))[0])
    await closed.count(1)


@pytest.mark.clause("L4", "L10")
async def test_closing_ends_all_threads(other: Node, mailbox: Log, blocking: MakeBlocking, topic: str) -> None:
    before, loop = set(threading.enumerate()), asyncio.get_running_loop()
    unused, connector, heard = blocking(), blocking(), Mailbox()

    def close() -> set[threading.Thread]:
        unused.close()
        with pytest.raises(contract.ClosedError):
            unused.publish(topic, "never")
        with connector:
            for number in range(1000):
                connector.publish_nowait(topic, number)
            closing = threading.Thread(target=connector.close)
            closing.start()
        closing.join()
        return set(threading.enumerate()) - before - {threading.current_thread()}

    async with patience("the end of all threads"):
        with ThreadPoolExecutor(1) as thread:
            await loop.run_in_executor(thread, connector.subscribe, f"{topic}-back", heard)
            await other.publish(f"{topic}-back", "for a listener, on a thread of its own")
            await heard.count(1)
            left = await loop.run_in_executor(thread, close)
    assert left == set()
    assert await mailbox.count(1000) == list(range(1000))


@pytest.mark.clause("L4", "L10")
async def test_closing_waits_for_the_first_connection(
    mailbox: Log, blocking: MakeBlocking, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    connector, accepted = blocking(**through), Mailbox()
    outcomes: list[Any] = []

    def close() -> list[Any]:
        connector.publish_nowait(topic, "accepted", outcomes.append)
        accepted()
        connector.close()
        return outcomes.copy()

    await proxy.refuse()
    closing = asyncio.ensure_future(asyncio.to_thread(close))
    await accepted.count(1)
    await proxy.heal()
    async with patience("the end of the connector"):
        assert await closing == [None]
    assert await mailbox.count(1) == ["accepted"]


@pytest.mark.clause("L4", "L10")
async def test_what_was_accepted_is_sent_before_the_interpreter_exits(
    mailbox: Log, given: Settings, topic: str
) -> None:
    assert await run_blocked(given, "end", topic) == "closed\n"
    assert await mailbox.count(100) == [["parent", number] for number in range(100)]


@pytest.mark.clause("L4", "L10")
@pytest.mark.parametrize("program", ["end_while_closing", "end_while_closing_itself"])
async def test_an_exit_waits_where_closing_has_begun(mailbox: Log, given: Settings, topic: str, program: str) -> None:
    accepted, settled = map(int, (await run_blocked(given, program, topic)).split())
    assert settled == accepted
    assert await mailbox.count(accepted) == [["parent", number] for number in range(accepted)]


@pytest.mark.clause("L4", "L10")
async def test_an_exit_waits_for_connectors_that_nobody_has_kept(mailbox: Log, given: Settings, topic: str) -> None:
    await run_blocked(given, "drop", topic)
    assert sorted(await mailbox.count(3)) == [["dropped", number] for number in range(3)]


@pytest.mark.clause("L4", "L10")
async def test_a_connector_that_nobody_keeps_closes(other: Node, mailbox: Log, change: Change, topic: str) -> None:
    heard, before = Mailbox(), set(threading.enumerate())

    def publish() -> None:
        BlockingConnector(change()).publish_nowait(topic, "sent all the same")
        gc.collect()

    def drop() -> None:
        with pytest.warns(ResourceWarning, match="without being closed"):
            publish()

    def subscribe() -> "weakref.ref[BlockingConnector]":
        connector = BlockingConnector(change())
        connector.subscribe(f"{topic}-back", heard)
        return weakref.ref(connector)

    await asyncio.to_thread(drop)
    assert await mailbox.count(1) == ["sent all the same"]
    async with patience("the end of all threads"):
        for thread in set(threading.enumerate()) - before - {threading.current_thread()}:
            if not thread.name.startswith("asyncio"):
                await asyncio.to_thread(thread.join)
    subscriber = await asyncio.to_thread(subscribe)
    gc.collect()
    await other.publish(f"{topic}-back", "for a listener")
    assert await heard.count(1) == ["for a listener"]
    found = subscriber()
    assert found
    await asyncio.to_thread(found.close)


@pytest.mark.clause("L4", "L10")
async def test_a_connector_that_was_closed_is_collected(change: Change, topic: str) -> None:
    def use() -> "weakref.ref[BlockingConnector]":
        connector = BlockingConnector(change())

        async def handle_errors(inner: Any) -> None:
            inner.on("error", partial(connector.publish_nowait, topic))

        connector.submit(handle_errors).result()
        connector.close()
        return weakref.ref(connector)

    used = await asyncio.to_thread(use)
    await eventually(lambda: gc.collect() >= 0 and used() is None, "the end of a connector that was closed")


@pytest.mark.clause("L4", "L10", "M7")
async def test_a_signal_handler_may_publish_and_close(mailbox: Log, given: Settings, topic: str) -> None:
    if not hasattr(signal, "setitimer"):
        pytest.skip("not applicable: this system has no such signals")
    published = int(await run_blocked(given, "interrupt", topic))
    heard = await mailbox.until(lambda items: ["handler", published - 1] in items)
    assert [number for who, number in heard if who == "handler"] == list(range(published))


@pytest.mark.clause("L4", "L10")
async def test_an_exit_that_is_interrupted_tells_what_it_has_not_sent(
    proxy: Proxy, through: dict[str, Any], change: Change, topic: str
) -> None:
    if os.name != "posix":
        pytest.skip("not applicable: here a thread that waits is not interrupted")
    await proxy.refuse()
    _, _, complaints = await run_program(change(**through, connect_timeout=60), "interrupt_exit", topic)
    assert re.search(r"\d+ messages were not sent before the process exited", complaints)


@pytest.mark.clause("L4", "L10")
async def test_each_process_is_a_node_of_its_own(other: Node, mailbox: Log, given: Settings, topic: str) -> None:
    await check_forks(other, mailbox, given, "fork", topic)


@pytest.mark.clause("L4", "L10")
async def test_a_fork_may_come_when_it_is_in_use(other: Node, mailbox: Log, given: Settings, topic: str) -> None:
    await check_forks(other, mailbox, given, "fork_late", topic)


@pytest.mark.clause("L10")
async def test_a_process_that_ends_accepts_nothing_that_it_would_not_send(
    mailbox: Log, given: Settings, topic: str
) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("not applicable: no process forks on this system")
    accepted = int(await run_blocked(given, "begin_late", topic) or "0")
    assert not accepted or sys.version_info >= (3, 13)
    assert await mailbox.count(accepted) == [["late", number] for number in range(accepted)]


async def check_forks(other: Node, mailbox: Log, given: Settings, program: str, topic: str) -> None:
    """Run a program of `blocked.py`; check that all messages of its three processes are heard."""
    if not hasattr(os, "fork"):
        pytest.skip("not applicable: no process forks on this system")
    mailbox = Log()
    await other.subscribe(topic, mailbox)
    assert await run_blocked(given, program, topic) == "closed\n"
    heard = [each for each in await mailbox.count(301 if program == "fork_late" else 300) if each != ["early", 0]]
    for name in ("parent", "forked", "multiprocessing"):
        assert [number for who, number in heard if who == name] == list(range(100))
    assert other.stats()["duplicates"] == 0
