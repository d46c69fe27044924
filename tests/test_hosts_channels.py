"""The channel layer for Django Channels, on Valkey: groups, channels, bounds, losses, threads, event loops and processes."""

import asyncio
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from asgiref.testing import ApplicationCommunicator
from baking import blocks, run
from channels.exceptions import ChannelFull, MessageTooLarge
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import channel_layers, get_channel_layer
from django.conf import settings
from django.test import override_settings
from django.utils.safestring import mark_safe
from hosting import PATIENCE, Client, Package, check_that_both_hear, clients, play
from hypothesis import given
from hypothesis import strategies as st

if not settings.configured:
    settings.configure()


class Bench:
    """Makes layers of the package on a broker that runs; each is a node, as if it were in a process of its own."""

    def __init__(self, package: Package, broker: Any) -> None:
        self.broker = broker
        self.package = package
        self.name = package.name
        self.source = package.source
        self.module = package.module("hosts.channels")
        self.mailboxes = package.module("hosts.mailboxes")
        self.errors = package.module().Connector.errors

    @asynccontextmanager
    async def layer(self, **config: Any) -> AsyncIterator[Any]:
        """Lend a layer."""
        layer = self.module.ConnectorChannelLayer(**{"url": self.broker.url, **config})
        try:
            yield layer
        finally:
            await layer.close()

    def clients(self) -> set[str]:
        """Return the ids of all clients of the broker."""
        return {client["id"] for client in self.broker.ask("CLIENT LIST")}

    async def until_shards(self, topic: str, count: int) -> None:
        """Return when so many shards of a topic have subscribers."""

        def wait() -> None:
            deadline = time.monotonic() + PATIENCE
            while sum(each.startswith(topic.encode()) for each in self.broker.ask("PUBSUB", "CHANNELS")) != count:
                assert time.monotonic() < deadline
                time.sleep(0.05)

        await asyncio.to_thread(wait)

    def connections(self) -> int:
        """Return how many connections the broker has accepted since it was started."""
        return int(self.broker.ask("INFO", "stats")["total_connections_received"])


@pytest.fixture(scope="module")
def broker(packages: Mapping[str, Package], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with packages["redis"].broker(tmp_path_factory.mktemp("channels") / "broker") as broker:
        yield broker


@pytest.fixture
def bench(packages: Mapping[str, Package], broker: Any) -> Bench:
    return Bench(packages["redis"], broker)


def message(number: object) -> dict[str, Any]:
    return {"type": "number", "number": number}


async def numbers(layer: Any, channel: str, count: int) -> list[Any]:
    """Return what is in the next messages of a channel."""
    return [(await layer.receive(channel))["number"] for _ in range(count)]


async def joined(layer: Any, *groups: str) -> str:
    """Return a new channel that is in these groups."""
    channel: str = await layer.new_channel()
    for group in groups:
        await layer.group_add(group, channel)
    return channel


async def send_without_end(layer: Any, group: str) -> None:
    """Send one message after another to a group."""
    while True:
        await layer.group_send(group, message("one of many"))
        await asyncio.sleep(0.01)


async def until_awaited(task: "asyncio.Task[Any]") -> None:
    """Return when a task, which receives, waits for a message."""
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done()


# Groups.


def test_channels_of_all_processes_get_what_is_sent_to_their_group_in_order_and_once(bench: Bench) -> None:
    async def scene() -> None:
        async with bench.layer() as here, bench.layer() as there:
            own, second, other = await joined(here, "a"), await joined(here, "a", "b"), await joined(there, "b", "a")
            for number in range(300):
                await here.group_send("a", message(number))
            await there.group_send("a", message("end"))
            for layer, channel in ((here, own), (here, second), (there, other)):
                got = await numbers(layer, channel, 301)
                assert [number for number in got if number != "end"] == list(range(300))
            for layer in (here, there):
                await layer.group_send("b", message("only b"))
                assert await numbers(here, second, 1) == ["only b"]
                assert await numbers(there, other, 1) == ["only b"]
            await here.group_send("a", message("nothing was between"))
            assert await numbers(here, own, 1) == ["nothing was between"]

    play(scene())


def test_a_channel_that_was_discarded_gets_nothing_more(bench: Bench) -> None:
    async def scene() -> None:
        async with bench.layer() as here, bench.layer() as there:
            channel = await joined(there, "a", "b")
            await here.group_send("a", message(1))
            assert await numbers(there, channel, 1) == [1]
            await there.group_discard("a", channel)
            await there.group_discard("a", channel)
            await there.group_discard("another", channel)
            await here.group_send("a", message(2))
            await here.group_send("b", message(3))
            assert await numbers(there, channel, 1) == [3]

    play(scene())


def test_a_channel_of_another_process_can_be_added_and_discarded(bench: Bench) -> None:
    async def scene() -> None:
        async with bench.layer() as here, bench.layer() as there:
            channel = await joined(there)
            await here.group_add("a", channel)
            await here.group_send("a", message(1))
            await here.group_discard("a", channel)
            await here.group_send("a", message(2))
            await here.send(channel, message(3))
            assert await numbers(there, channel, 2) == [1, 3]

    play(scene())


# Channels.


def test_a_channel_gets_what_any_process_sends_to_it(bench: Bench) -> None:
    async def scene() -> None:
        async with bench.layer() as here, bench.layer() as there:
            channel, other = await joined(there), await joined(there)
            assert channel != other
            for number in range(100):
                await here.send(channel, message(number))
            assert await numbers(there, channel, 100) == list(range(100))
            await there.send(channel, message("own"))
            await here.send(other, message("other"))
            assert await numbers(there, channel, 1) == ["own"]
            assert await numbers(there, other, 1) == ["other"]
            with pytest.raises(ValueError, match="another process"):
                await here.receive(channel)

    play(scene())


def test_of_several_processes_that_receive_of_a_named_channel_one_gets_each_message(bench: Bench) -> None:
    wanted = [*range(-190, 0, 10), *range(200)]

    async def work(layer: Any, done: "asyncio.Queue[Any]") -> None:
        while True:
            await done.put(*await numbers(layer, "resize", 1))

    async def scene() -> None:
        async with bench.layer() as here, bench.layer() as one, bench.layer() as two:
            await here.send("resize", message(0))  # before anybody receives
            done: asyncio.Queue[Any] = asyncio.Queue(1)
            workers = [asyncio.create_task(work(layer, done)) for layer in (one, one, two, here)]
            for number in range(1, 200):
                await here.send("resize", message(number))
                if number % 10 == 0:
                    await two.send("resize", message(-number))
            assert sorted([await done.get() for _ in wanted]) == wanted
            await here.send("resize", message("nothing is left"))
            assert await done.get() == "nothing is left"
            for worker in workers:
                worker.cancel()
            await asyncio.wait(workers)

    play(scene())


def test_a_message_to_a_named_channel_reaches_a_process_that_waits_already(bench: Bench) -> None:
    async def scene() -> None:
        async with bench.layer() as here, bench.layer() as there:
            marker = await joined(here)
            await here.send("resize", message(0))
            assert await numbers(there, "resize", 1) == [0]
            waiting = asyncio.create_task(there.receive("resize"))
            await until_awaited(waiting)
            await there.send(marker, message("it has asked"))
            assert await numbers(here, marker, 1) == ["it has asked"]
            await here.send("resize", message(1))
            assert (await waiting)["number"] == 1

    play(scene())


# Values.

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
MARKED = st.text("\uffff\ufffea", max_size=4)
VALUES = st.recursive(SCALARS | MARKED, lambda inner: st.lists(inner) | st.dictionaries(st.text() | MARKED, inner))


@given(value=VALUES)
def test_bytes_arrive_as_bytes_and_texts_as_texts(packages: Mapping[str, Package], value: Any) -> None:
    values = packages["redis"].module("hosts.values")
    assert values.unpack(values.pack(value)) == value


def test_all_receivers_get_a_copy_of_the_message_as_it_was_when_it_was_sent(bench: Bench) -> None:
    original = {"type": "t", "bytes": b"\xff\x00", "html": mark_safe("<b>"), "list": [1, {"a": (2.5, None, True)}]}
    wanted = {"type": "t", "bytes": b"\xff\x00", "html": "<b>", "list": [1, {"a": [2.5, None, True]}]}

    async def scene() -> None:
        async with bench.layer() as here, bench.layer() as there:
            channels = [
                (here, await joined(here, "a")),
                (here, await joined(here, "a")),
                (there, await joined(there, "a")),
            ]
            sent = dict(original)
            await here.group_send("a", sent)
            sent.clear()
            for layer, channel in channels:
                got = await layer.receive(channel)
                assert got == wanted
                assert type(got["html"]) is str
                got["list"].clear()

    play(scene())


def test_what_cannot_be_sent_is_raised_and_reaches_nobody(bench: Bench) -> None:
    async def scene() -> None:
        async with bench.layer(max_message_bytes=200) as here, bench.layer() as there:
            own, other = await joined(here, "a"), await joined(there, "a")
            with pytest.raises(bench.errors.SerializationError):
                await here.group_send("a", message({1, 2}))
            with pytest.raises(MessageTooLarge):
                await here.group_send("a", message("x" * 201))
            with pytest.raises(MessageTooLarge):
                await here.send(other, message("x" * 201))
            await here.group_send("a", message("fine"))
            assert await numbers(here, own, 1) == ["fine"]
            assert await numbers(there, other, 1) == ["fine"]

    play(scene())


def test_names_are_checked(bench: Bench) -> None:
    async def scene() -> None:
        async with bench.layer() as here:
            channel = await joined(here)
            for call in (
                here.send("a b", message(1)),
                here.receive("a b"),
                here.new_channel("a b"),
                here.group_add("a b", channel),
                here.group_add("a", "a b"),
                here.group_discard("a b", channel),
                here.group_send("x" * 100, message(1)),
            ):
                with pytest.raises(TypeError):
                    await call

    play(scene())


# Bounds and losses.


def test_a_channel_that_is_full_is_told_to_the_sender_where_that_is_known(bench: Bench) -> None:
    async def scene() -> None:
        async with bench.layer(capacity=3, channel_capacity={"tiny*": 1}) as here:
            for channel, most in ((await joined(here), 3), ("named", 3), ("tiny.one", 1)):
                for number in range(most):
                    await here.send(channel, message(number))
                with pytest.raises(ChannelFull):
                    await here.send(channel, message(most))
                assert await numbers(here, channel, 1) == [0]
                await here.send(channel, message("room again"))

    play(scene())


def test_a_full_channel_misses_messages_and_its_consumer_is_told_where(bench: Bench) -> None:
    async def scene() -> None:
        async with bench.layer() as here, bench.layer(capacity=3) as there:
            told = await joined(there, "a", bench.module.MISSED)
            untold, marker = await joined(there, "a"), await joined(there)
            for number in range(10):
                await here.group_send("a", message(number))
            await here.send(marker, message("end"))
            assert await numbers(there, marker, 1) == ["end"]
            for channel in (told, untold):
                assert await numbers(there, channel, 3) == [0, 1, 2]
            assert await there.receive(told) == {"type": bench.module.MISSED}
            await here.group_send("a", message("next"))
            for channel in (told, untold):
                assert await numbers(there, channel, 1) == ["next"]

    play(scene())


def test_consumers_are_told_once_what_was_lost_on_the_way(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with bench.layer(max_history_bytes=0, heartbeat=0.5) as here:
            await joined(here)
            others = bench.clients()
            async with bench.layer(heartbeat=0.5, reconnect_delay_min=1) as there:
                told, untold = await joined(there, "a", bench.module.MISSED), await joined(there, "a")
                await here.group_send("a", message("before"))
                for channel in (told, untold):
                    assert await numbers(there, channel, 1) == ["before"]
                for client in bench.clients() - others:
                    bench.broker.ask("CLIENT KILL", "ID", client)
                sending = asyncio.create_task(send_without_end(here, "a"))
                got = None
                while got != {"type": bench.module.MISSED}:
                    got = await there.receive(told)
                sending.cancel()
                await asyncio.wait([sending])
                await here.group_send("a", message("end"))
                for channel in (told, untold):
                    while (await numbers(there, channel, 1)) != ["end"]:
                        pass

    play(scene())
    assert any("MessagesLostError" in record.getMessage() for record in caplog.records)


def test_messages_that_wait_too_long_expire(bench: Bench) -> None:
    async def scene() -> None:
        async with bench.layer(expiry=0.2) as here:
            told, untold = await joined(here, bench.module.MISSED), await joined(here)
            for channel in (told, untold):
                await here.send(channel, message("old"))
            await asyncio.sleep(0.3)
            for channel in (told, untold):
                await here.send(channel, message("new"))
            assert await here.receive(told) == {"type": bench.module.MISSED}
            assert await numbers(here, told, 1) == ["new"]
            assert await numbers(here, untold, 1) == ["new"]

    play(scene())


# Receivers that leave.


def test_a_receive_that_is_cancelled_loses_no_message(bench: Bench) -> None:
    async def scene() -> None:
        async with bench.layer() as here, bench.layer() as there:
            channel = await joined(there)
            got = []
            for number in range(300):
                receiving = asyncio.create_task(there.receive(channel))
                await asyncio.sleep(0)
                await (here if number % 3 else there).send(channel, message(number))
                for _ in range(number % 7):
                    await asyncio.sleep(0)
                receiving.cancel()
                with suppress(asyncio.CancelledError):
                    got.append((await receiving)["number"])
            got += await numbers(there, channel, 300 - len(got))
            assert sorted(got) == list(range(300))

    play(scene())


def test_what_a_cancelled_receiver_was_woken_for_goes_to_the_next_one(bench: Bench) -> None:
    async def scene() -> None:
        async with bench.layer() as here:
            channel = await joined(here)
            for number in range(100):
                first, second = [asyncio.create_task(here.receive(channel)) for _ in range(2)]
                await until_awaited(second)
                await here.send(channel, message(number))
                for _ in range(number % 3):
                    await asyncio.sleep(0)
                if first.cancel():
                    assert (await second)["number"] == number
                else:
                    assert (await first)["number"] == number
                    second.cancel()
                await asyncio.wait([first, second])

    play(scene())


def test_channels_that_nobody_receives_of_any_more_are_forgotten(bench: Bench) -> None:
    def count() -> int:
        return sum(type(each) is bench.mailboxes.Mailbox for each in gc.get_objects())

    async def scene() -> None:
        gc.collect()  # of other tests
        async with bench.layer(expiry=0.2) as here:
            awaited = await joined(here, "a")
            receiving = asyncio.create_task(here.receive(awaited))
            for _ in range(100):
                leaving = asyncio.create_task(here.receive(await joined(here, "a")))
                await until_awaited(leaving)
                leaving.cancel()
                await asyncio.wait([leaving])
            assert count() >= 100
            while count() > 20:
                await asyncio.sleep(0.05)
                await here.new_channel()
            await here.group_send("a", message("still there"))
            assert (await receiving)["number"] == "still there"

    play(scene())


def test_a_receiver_whose_event_loop_was_closed_is_passed_over(bench: Bench) -> None:
    async def scene() -> None:
        async with bench.layer() as here:
            channel = await joined(here, "a")
            left = []

            def leave_in_the_middle() -> None:
                loop = asyncio.new_event_loop()
                left.append(loop.create_task(here.receive(channel)))
                loop.run_until_complete(asyncio.sleep(0.1))
                assert not left[0].done()
                loop.close()

            await asyncio.to_thread(leave_in_the_middle)
            receiving = asyncio.create_task(here.receive(channel))
            await until_awaited(receiving)
            await here.group_send("a", message(0))
            assert (await receiving)["number"] == 0
            logging.getLogger("asyncio").disabled = True  # it complains of the task
            left.clear()
            gc.collect()
            logging.getLogger("asyncio").disabled = False

    play(scene())


def test_flush_forgets_groups_and_messages_and_leaves_receivers_waiting(bench: Bench) -> None:
    async def scene() -> None:
        async with bench.layer() as here:
            channel, waiting = await joined(here, "a"), await joined(here, "a")
            receiving = asyncio.create_task(here.receive(waiting))
            await until_awaited(receiving)
            await here.send(channel, message("flushed"))
            await here.flush()
            await here.group_send("a", message("to nobody"))
            for each in (channel, waiting):
                await here.send(each, message("after"))
            assert await numbers(here, channel, 1) == ["after"]
            assert (await receiving)["number"] == "after"

    play(scene())


# Threads, event loops, processes.


def test_views_in_many_threads_send_without_a_new_connection(bench: Bench) -> None:
    async def scene() -> None:
        async with bench.layer() as here, bench.layer() as there:
            channel = await joined(there, "a")
            await here.group_send("b", message("connected"))
            before = bench.connections()
            loops = set()

            def view(number: int) -> None:
                async def send() -> None:
                    loops.add(asyncio.get_running_loop())
                    await here.group_send("a", message(number))

                async_to_sync(send)()

            def all_views() -> None:
                with ThreadPoolExecutor(16) as threads:
                    list(threads.map(view, range(1000)))

            sending = asyncio.create_task(asyncio.to_thread(all_views))
            assert sorted(await numbers(there, channel, 1000)) == list(range(1000))
            await sending
            assert len(loops) > 16
            assert bench.connections() == before + 1  # which asks

    play(scene())


def test_what_many_threads_send_comes_in_one_order_to_all_processes(bench: Bench) -> None:
    async def scene() -> None:
        async with bench.layer(capacity=8000) as here, bench.layer(capacity=8000) as there:
            channels = [(layer, await joined(layer, "a")) for layer in (here, there)]

            async def speak(thread: int) -> None:
                for number in range(1000):
                    await here.group_send("a", message([thread, number]))

            interval = sys.getswitchinterval()
            sys.setswitchinterval(1e-6)  # so that threads come in one another's way
            try:
                await asyncio.gather(*(asyncio.to_thread(asyncio.run, speak(thread)) for thread in range(8)))
            finally:
                sys.setswitchinterval(interval)
            own, other = [await numbers(layer, channel, 8000) for layer, channel in channels]
            assert own == other
            for thread in range(8):
                assert [number for who, number in own if who == thread] == list(range(1000))

    play(scene())


def test_one_that_sends_without_end_does_not_keep_others_of_its_event_loop_waiting(bench: Bench) -> None:
    async def scene() -> None:
        async with bench.layer() as here, bench.layer() as there:
            own, other = await joined(here, "a"), await joined(there)
            for name, send in (("a", here.group_send), (own, here.send), (other, here.send)):
                turn = asyncio.Event()
                asyncio.get_running_loop().call_soon(turn.set)
                await send(name, message(0))
                assert turn.is_set()

    play(scene())


def test_a_handler_of_the_log_may_send(bench: Bench) -> None:
    here: Any = None

    class Sending(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with suppress(StopIteration):
                here.group_send("log", message("full")).send(None)

    async def scene() -> None:
        nonlocal here
        async with bench.layer(capacity=1) as here:
            full, log = await joined(here, "a"), await joined(here, "log")
            await here.group_send("a", message(0))
            await here.group_send("a", message(1))
            assert await numbers(here, full, 1) == [0]
            assert await numbers(here, log, 1) == ["full"]

    logger, handler = logging.getLogger(bench.package.name), Sending()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        play(scene())
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def test_receivers_wait_in_threads_of_their_own(bench: Bench) -> None:
    async def scene() -> None:
        async with bench.layer() as here, bench.layer() as there:
            channels = [await joined(there, "a") for _ in range(5)]
            receiving = [asyncio.to_thread(asyncio.run, numbers(there, channel, 100)) for channel in channels]
            together = asyncio.gather(*receiving)
            for number in range(100):
                await here.group_send("a", message(number))
            assert await together == [list(range(100))] * 5

    play(scene())


FORKING = """
import asyncio, os, sys
from asgiref.sync import async_to_sync
from {package}.hosts.channels import ConnectorChannelLayer

layer = ConnectorChannelLayer()
channel = async_to_sync(layer.new_channel)()
async_to_sync(layer.group_add)("a", channel)
readable, writable = os.pipe()

async def child():
    own = await layer.new_channel()
    await layer.group_add("a", own)
    os.write(writable, b"1")
    assert (await layer.receive(own))["text"] == "from the parent"
    await layer.group_send("a", {{"type": "t", "text": "from the child"}})
    assert (await layer.receive(own))["text"] == "from the child"
    await layer.send(channel, {{"type": "t", "text": "for the parent"}})
    await layer.close()

if os.fork():
    os.read(readable, 1)
    async_to_sync(layer.group_send)("a", {{"type": "t", "text": "from the parent"}})
    for _ in range(3):
        print(async_to_sync(layer.receive)(channel)["text"])
    print(os.wait()[1])
else:
    asyncio.run(child())
    os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_process_that_was_forked_is_another_node(bench: Bench, tmp_path: Path) -> None:
    place = {"PYTHONPATH": str(bench.source), f"{bench.name.upper()}_URL": bench.broker.url}
    words = (sys.executable, "-W", "ignore", "-c", FORKING.format(package=bench.name))
    ended = run(*words, cwd=tmp_path, environment=place, timeout=PATIENCE)
    assert ended.stdout.splitlines() == ["from the parent", "from the child", "for the parent", "0"]


def test_a_process_gets_only_the_shards_that_its_channels_need(bench: Bench) -> None:
    groups = [f"room-{number}" for number in range(40)]

    async def scene() -> None:
        config = {"topic": "sharded", "shards": 8}
        async with bench.layer(**config) as here, bench.layer(**config) as there:
            channel, other = await joined(here), await joined(here, groups[0])
            await here.group_discard(groups[0], other)
            await bench.until_shards("sharded", 1)
            for group in groups:
                await here.group_add(group, channel)
            await bench.until_shards("sharded", 8)
            for number in range(5):
                for group in groups:
                    await there.group_send(group, message([group, number]))
            got = await numbers(here, channel, 5 * len(groups))
            for group in groups:
                assert [number for name, number in got if name == group] == list(range(5))
            for group in groups:
                await here.group_discard(group, channel)
            await bench.until_shards("sharded", 1)
            await here.send("resize", message("held"))
            assert await numbers(there, "resize", 1) == ["held"]
            for group in groups:
                await there.group_add(group, channel)
            await bench.until_shards("sharded", 8)

    play(scene())


# The broker goes, or was never there.


class Notice(logging.Handler):
    """Keeps the lines of the log with a word in it, and tells when one has come from any thread."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self.word = word
        self.lines: list[str] = []
        self.came = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self.word in record.getMessage():
            self.lines.append(record.getMessage())
            self.came.set()


def test_in_an_outage_senders_do_not_wait_and_consumers_of_the_process_go_on(
    packages: Mapping[str, Package], tmp_path: Path
) -> None:
    async def scene(bench: Bench) -> None:
        in_time = {"publish_timeout": 0.5, "connect_timeout": 0.5}
        async with bench.layer(**in_time) as here, bench.layer(**in_time) as there:
            own, other = await joined(here, "a"), await joined(there, "a")
            await here.group_send("a", message("before"))
            assert await numbers(there, other, 1) == ["before"]
            bench.broker.stop()
            for number in range(100):
                await here.group_send("a", message(number))
            assert await numbers(here, own, 101) == ["before", *range(100)]
            assert await asyncio.to_thread(unsent.came.wait, PATIENCE)

    unsent = Notice("of this node may be lost")
    logger = logging.getLogger(packages["redis"].name)
    logger.addHandler(unsent)
    try:
        with packages["redis"].broker(tmp_path / "broker") as broker:
            play(scene(Bench(packages["redis"], broker)))
    finally:
        logger.removeHandler(unsent)
    assert len(unsent.lines) < 10
    assert all("publish_timeout" in line for line in unsent.lines)


def test_a_consumer_that_comes_in_an_outage_hears_all_groups_afterwards(
    packages: Mapping[str, Package], tmp_path: Path
) -> None:
    groups = [f"room-{number}" for number in range(40)]

    async def scene(bench: Bench) -> None:
        async with bench.layer(shards=8) as here, bench.layer(shards=8) as there:
            await joined(here)
            await there.new_channel()
            bench.broker.stop()
            channel = await joined(here, *groups)
            bench.broker.spawn()
            for group in groups:
                await there.group_send(group, message(group))
            assert sorted(await numbers(here, channel, 40)) == sorted(groups)

    with packages["redis"].broker(tmp_path / "broker") as broker:
        play(scene(Bench(packages["redis"], broker)))


def test_a_group_is_heard_as_soon_as_the_broker_allows_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    transport, groups = bench.package.module("transport").BrokerTransport, [f"room-{number}" for number in range(40)]
    subscribe, refused = transport.subscribe, list[str]()

    async def without_rights(self: Any, topic: str) -> None:
        if topic.startswith("rights") and len(refused) < 3:
            refused.append(topic)
            raise bench.errors.SubscribeRefusedError("no rights to this topic")
        await subscribe(self, topic)

    async def scene() -> None:
        config = {"topic": "rights", "shards": 8}
        async with bench.layer(**config) as here, bench.layer(**config) as there:
            channel = await joined(here)
            await there.new_channel()
            monkeypatch.setattr(transport, "subscribe", without_rights)
            for group in groups:
                await there.group_add(group, channel)
            await bench.until_shards("rights", 8)
            for group in groups:
                await there.group_send(group, message(group))
            assert sorted(await numbers(here, channel, 40)) == sorted(groups)

    monkeypatch.setattr(bench.package.module("hosts.joining"), "RETRY", 0.1)
    play(scene())
    assert len(refused) == 3
    assert any("no rights to this topic" in line for line in caplog.messages)


def test_a_process_that_begins_before_the_broker_hears_all_groups_when_it_is_there(
    packages: Mapping[str, Package], tmp_path: Path
) -> None:
    async def scene(bench: Bench) -> None:
        bench.broker.stop()
        paces = {"connect_timeout": 0.3, "reconnect_delay_max": 0.2}
        async with bench.layer(**paces) as here, bench.layer(**paces) as there:
            channel = await joined(here, "a")
            sending = asyncio.create_task(send_without_end(there, "a"))
            await here.send("named", message("waits"))
            assert await numbers(here, "named", 1) == ["waits"]
            bench.broker.spawn()
            assert await numbers(here, channel, 1) == ["one of many"]
            sending.cancel()

    with packages["redis"].broker(tmp_path / "broker") as broker:
        play(scene(Bench(packages["redis"], broker)))


def test_what_was_sent_before_the_layer_was_closed_arrives(bench: Bench) -> None:
    async def scene() -> None:
        async with bench.layer() as there:
            channel = await joined(there, "a")
            async with bench.layer() as here:
                await here.group_send("a", message(0))
                sending = [asyncio.create_task(here.group_send("a", message(number))) for number in range(1, 100)]
                await asyncio.sleep(0)
            await asyncio.gather(*sending)
            assert await numbers(there, channel, 100) == list(range(100))

    play(scene())


def test_a_layer_that_was_closed_says_so(bench: Bench) -> None:
    async def scene() -> None:
        async with bench.layer() as here:
            await here.new_channel()
        for call in (here.group_send("a", message(1)), here.send("named", message(1)), here.receive("named")):
            with pytest.raises(bench.errors.ClosedError):
                await call

    play(scene())


# Django.


def test_django_makes_the_layer_from_its_settings(bench: Bench) -> None:
    back_end = f"{bench.name}.hosts.channels.ConnectorChannelLayer"
    config = {"url": bench.broker.url, "capacity": 7, "topic": "of its own"}

    async def scene() -> None:
        layer = get_channel_layer()
        assert type(layer) is bench.module.ConnectorChannelLayer
        assert layer.extensions == ["groups", "flush"]
        assert layer.get_capacity("any") == 7
        async with bench.layer() as elsewhere:
            channel = await joined(layer, "a")
            await elsewhere.group_send("a", message("on another topic"))
            await layer.group_send("a", message("here"))
            assert await numbers(layer, channel, 1) == ["here"]
        await layer.close()

    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": back_end, "CONFIG": config}}):
        play(scene())
    with (
        override_settings(CHANNEL_LAYERS={"default": {"BACKEND": back_end, "CONFIG": {**config, "hosts": []}}}),
        pytest.raises(ValueError, match="hosts"),
    ):
        get_channel_layer()


class Talk(AsyncWebsocketConsumer):  # type: ignore[misc]
    groups = ("room",)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send("room", {"type": "room.text", "text": text_data})

    async def room_text(self, event: dict[str, Any]) -> None:
        await self.send(event["text"])


def test_consumers_talk(bench: Bench) -> None:
    client: Any = ApplicationCommunicator

    async def scene() -> None:
        async with bench.layer() as layer, bench.layer() as elsewhere:
            channel_layers.set("default", layer)
            sockets = [client(Talk.as_asgi(), {"type": "websocket"}) for _ in range(2)]
            for socket in sockets:
                await socket.send_input({"type": "websocket.connect"})
                assert (await socket.receive_output())["type"] == "websocket.accept"
            await sockets[0].send_input({"type": "websocket.receive", "text": "hello"})
            assert [(await socket.receive_output())["text"] for socket in sockets] == ["hello", "hello"]
            await elsewhere.group_send("room", {"type": "room.text", "text": "from elsewhere"})
            assert [(await socket.receive_output())["text"] for socket in sockets] == ["from elsewhere"] * 2
            for socket in sockets:
                await socket.send_input({"type": "websocket.disconnect", "code": 1000})
                await socket.wait()

    try:
        play(scene())
    finally:
        channel_layers.backends.clear()


def test_the_code_of_the_guide_runs_as_printed(packages: Mapping[str, Package], broker: Any, tmp_path: Path) -> None:
    _, script = blocks("docs/channels.md", "python")

    async def scene(programs: list[Any]) -> None:
        await check_that_both_hear(programs)
        async with clients(Client, programs) as pair:
            (tmp_path / "8001" / "announce.py").write_text(script)
            place = {"PYTHONPATH": str(package.source), f"{package.name.upper()}_URL": broker.url}
            words = (sys.executable, "announce.py")
            ended = await asyncio.to_thread(run, *words, cwd=tmp_path / "8001", environment=place, timeout=PATIENCE)
            assert (ended.returncode, ended.stdout) == (0, "")
            await asyncio.gather(*(client.until("from a script") for client in pair))

    package = packages["redis"]
    with package.printed(tmp_path, broker, "channels.md") as programs:
        play(scene(programs))


def test_a_server_that_is_told_to_end_waits_until_the_broker_has_what_it_was_sent(
    packages: Mapping[str, Package], broker: Any, tmp_path: Path
) -> None:
    async def scene(programs: list[Any]) -> None:
        async with clients(Client, programs) as (client, other):
            broker.freeze()
            try:
                await client.send("the last words")
                await client.until("the last words")
                programs[0].terminate()
                assert not await asyncio.to_thread(programs[0].ended, 1)
            finally:
                broker.thaw()
            await other.until("the last words")
            assert await asyncio.to_thread(programs[0].ended, PATIENCE)

    with packages["redis"].printed(tmp_path, broker, "channels.md") as programs:
        play(scene(programs))
