"""`Fanout` in one process, on Valkey: what its subscribers get, what they are told that they missed, what is left of them."""

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from hosting import Package, check_that_both_hear, play, unsent


class Bench:
    """Makes nodes of the package on a broker that runs."""

    def __init__(self, package: Package, broker: Any, shards: int) -> None:
        self.broker = broker
        self.shards = shards
        self.package = package.module()
        self.fanout = package.module("hosts.fanout")
        self.errors = self.package.Connector.errors

    @asynccontextmanager
    async def node(self, max_pending: int = 1000, **settings: Any) -> AsyncIterator[Any]:
        """Lend a `Fanout` on a connector of its own."""
        async with self.fanout.Fanout(self.connector(**settings), max_pending=max_pending) as fanout:
            yield fanout

    def connector(self, **settings: Any) -> Any:
        """Return a connector to the broker."""
        return self.package.Connector(
            self.package.Settings(**{"url": self.broker.url, "shards": self.shards, **settings})
        )

    def clients(self) -> set[str]:
        """Return the ids of all clients of the broker."""
        return {client["id"] for client in self.broker.ask("CLIENT LIST")}


@pytest.fixture(scope="module")
def broker(package: Package, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with package.broker(tmp_path_factory.mktemp("fanout") / "broker") as broker:
        yield broker


@pytest.fixture(params=[1, 4], ids=["one topic", "shards"])
def bench(package: Package, broker: Any, request: pytest.FixtureRequest) -> Bench:
    return Bench(package, broker, request.param)


async def publish_until_heard(fanout: Any, events: Any) -> None:
    """Return when a subscriber of the channel "a", which does not hear yet, hears."""
    hearing = asyncio.create_task(anext(events))
    while not hearing.done():
        await fanout.publish("a", "heard")
        await asyncio.wait([hearing], timeout=0.05)
    assert await hearing == "heard"


async def take(events: Any, count: int) -> list[Any]:
    """Return the next events."""
    return [await anext(events) for _ in range(count)]


def test_subscribers_of_all_nodes_get_what_is_published_in_order_and_once(bench: Bench) -> None:
    async def scene() -> None:
        async with (
            bench.node() as here,
            bench.node() as there,
            here.subscribe("a") as own,
            here.subscribe("a") as second,
            there.subscribe("a") as other,
        ):
            for number in range(0, 300, 3):
                here.publish_nowait("a", number)
                await here.publish("a", number + 1)
                here.publish_nowait("a", number + 2)
            await there.publish("a", "end")
            for events in (own, second, other):
                got = await take(events, 301)
                assert [event for event in got if event != "end"] == list(range(300))
                assert "end" in got

    play(scene())


def test_publishers_do_not_wait_for_each_other_to_be_heard_in_the_order_of_their_calls(bench: Bench) -> None:
    async def scene() -> None:
        async with bench.node() as here, here.subscribe("a") as own:
            await asyncio.gather(*(here.publish("a", number) for number in range(100)))
            assert await take(own, 100) == list(range(100))

    play(scene())


def test_a_subscriber_gets_only_what_is_published_to_its_channel(bench: Bench) -> None:
    channels = [f"room {number}" for number in range(200)]

    async def scene() -> None:
        async with bench.node() as here, bench.node() as there, AsyncExitStack() as stack:
            subscriptions = [
                (channel, await stack.enter_async_context(fanout.subscribe(channel)))
                for channel in channels
                for fanout in (here, there)
            ]
            for number in range(3):
                for channel in channels:
                    here.publish_nowait(channel, [channel, number])
            for channel, events in subscriptions:
                assert await take(events, 3) == [[channel, number] for number in range(3)]

    play(scene())


class Name(str):
    """A text of which one can see whether somebody still has it."""


async def listed(events: Any) -> list[Any]:
    """Return all events until the end."""
    return [event async for event in events]


class Colour(StrEnum):
    RED = "red"


def test_own_subscribers_get_what_other_nodes_get_and_what_it_was_at_the_call(bench: Bench) -> None:
    message = {"list": [1, 2.5, None, True], "tuple": (1, 2), "text": "ü\N{RABBIT FACE}", "colour": Colour.RED}

    async def scene() -> None:
        async with (
            bench.node() as here,
            bench.node() as there,
            here.subscribe("a") as own,
            there.subscribe("a") as other,
        ):
            for each in (message, Colour.RED):
                await here.publish("a", each)
            message.clear()
            wanted = {"list": [1, 2.5, None, True], "tuple": [1, 2], "text": "ü\N{RABBIT FACE}", "colour": "red"}
            for events in (own, other):
                got = await take(events, 2)
                assert got == [wanted, "red"]
                assert type(got[1]) is str

    play(scene())


def test_a_slow_subscriber_misses_what_was_too_much_and_delays_nobody(bench: Bench) -> None:
    async def scene() -> None:
        async with (
            bench.node() as here,
            bench.node(max_pending=10) as there,
            there.subscribe("a") as slow,
            there.subscribe("a") as quick,
        ):
            for number in range(1005):
                await here.publish("a", number)
                assert await anext(quick) == number
            with pytest.raises(bench.fanout.Missed):
                await anext(slow)
            first = await anext(slow)
            assert 995 <= first < 1005
            assert await take(slow, 1004 - first) == list(range(first + 1, 1005))
            await here.publish("a", "next")
            assert await anext(slow) == "next"

    play(scene())


def test_a_subscriber_that_is_not_too_slow_misses_nothing(bench: Bench) -> None:
    async def scene() -> None:
        async with bench.node(max_pending=10) as here, here.subscribe("a") as events:
            for number in range(10):
                here.publish_nowait("a", number)
            assert await take(events, 10) == list(range(10))

    play(scene())


def test_what_cannot_be_had_any_more_is_missed_by_all_subscribers_which_then_go_on(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        async with bench.node(max_history_bytes=0, heartbeat=0.5) as here:
            others = bench.clients()
            connector = bench.connector(heartbeat=0.5, reconnect_delay_min=0.5)
            async with (
                bench.fanout.Fanout(connector) as there,
                there.subscribe("a") as first,
                there.subscribe("b") as second,
            ):
                await here.publish("a", "before")
                assert await anext(first) == "before"
                lost, ready = asyncio.Event(), asyncio.Event()
                connector.on("error", lambda error: lost.set())
                connector.on("ready", ready.set)
                for client in bench.clients() - others:
                    bench.broker.ask("CLIENT KILL", "ID", client)
                await lost.wait()
                await here.publish("a", "while it is away")
                waiting = asyncio.create_task(take(second, 1))
                await ready.wait()
                await here.publish("a", "after")
                for events in (anext(first), waiting):
                    with pytest.raises(bench.fanout.Missed):
                        await events
                assert await anext(first) == "after"
                await here.publish("b", "going on")
                assert await anext(second) == "going on"
                async with there.subscribe("a") as later:
                    await here.publish("a", "new")
                    assert await anext(later) == "new"

    play(scene())
    assert any("MessagesLostError" in line for line in caplog.messages)
    assert sum("after an outage of" in line for line in caplog.messages) == 1


def test_what_a_busy_node_dropped_is_missed_once_by_subscribers_that_did_not_look(bench: Bench) -> None:
    async def scene() -> None:
        connector = bench.connector(max_pending_messages=1)
        dropped: asyncio.Queue[Any] = asyncio.Queue()
        async with bench.node() as here, bench.fanout.Fanout(connector) as there, AsyncExitStack() as stack:
            crowd = [await stack.enter_async_context(there.subscribe("crowded")) for _ in range(2000)]
            quiet = await stack.enter_async_context(there.subscribe("quiet"))
            connector.on("error", dropped.put_nowait)
            for _ in range(2):
                while dropped.empty():
                    await asyncio.gather(*(here.publish("crowded", number) for number in range(300)))
                assert isinstance(await dropped.get(), bench.errors.SlowListenerError)
            await here.publish("quiet", "going on")
            with pytest.raises(bench.fanout.Missed):
                await anext(quiet)
            assert await anext(quiet) == "going on"
            with pytest.raises(bench.fanout.Missed):
                await take(crowd[-1], 1000)

    play(scene())


def test_what_is_lost_on_other_topics_of_the_connector_is_not_missed(bench: Bench) -> None:
    async def scene() -> None:
        connector = bench.connector(max_pending_messages=1)
        dropped, free = asyncio.Event(), asyncio.Event()
        async with bench.node() as here, bench.fanout.Fanout(connector) as there, there.subscribe("a") as events:
            connector.on("error", lambda error: dropped.set())
            publisher = bench.connector()
            await connector.subscribe("other", lambda message: free.wait())
            async with publisher:
                for number in range(10):
                    await publisher.publish("other", number)
                await dropped.wait()
            await here.publish("a", "nothing was lost")
            assert await anext(events) == "nothing was lost"
            free.set()

    play(scene())


def test_what_cannot_be_sent_is_raised_and_reaches_nobody(bench: Bench) -> None:
    async def scene() -> None:
        async with bench.node(max_message_bytes=100) as here, here.subscribe("a") as own:
            for message, error in ((b"bytes", "SerializationError"), ("x" * 101, "MessageTooLargeError")):
                with pytest.raises(getattr(bench.errors, error)):
                    await here.publish("a", message)
                with pytest.raises(getattr(bench.errors, error)):
                    here.publish_nowait("a", message)
            await here.publish("a", "fine")
            assert await anext(own) == "fine"

    play(scene())


def test_in_an_outage_own_subscribers_go_on_and_publishing_ends_within_its_time(
    package: Package, own_broker: Any
) -> None:
    bench = Bench(package, own_broker, shards=1)

    async def scene() -> None:
        async with bench.node(publish_timeout=0.3) as here, here.subscribe("a") as own:
            bench.broker.stop()
            with pytest.raises(bench.errors.PublishUnconfirmedError):
                await here.publish("a", "hello")
            assert await anext(own) == "hello"

    play(scene())


def test_what_could_not_be_sent_is_logged_in_few_lines_with_its_count(
    package: Package, own_broker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(package, own_broker, shards=1)

    async def scene() -> None:
        async with bench.node(publish_timeout=0.3) as here, here.subscribe("a") as own:
            bench.broker.stop()
            for number in range(100):
                here.publish_nowait("a", number)
            assert await take(own, 100) == list(range(100))
            with pytest.raises(bench.errors.PublishUnconfirmedError):
                await here.publish("a", "which waits as long as those before it")
            here.publish_nowait("a", "which waits when the fanout ends")

    play(scene())
    told = unsent(caplog.messages)
    assert 1 < len(told) < 5
    assert sum(count for count, _ in told) == 101
    assert "publish_timeout" in told[0][1]


def test_nothing_is_left_of_a_subscriber_that_has_gone(bench: Bench) -> None:
    async def scene() -> None:
        async with bench.node() as here:
            gone: list[weakref.ref[Any]] = []
            for number in range(100):
                async with here.subscribe(f"room {number}") as events:
                    await here.publish(f"room {number}", "something")
                    gone.append(weakref.ref(events))
                del events
            channel = Name("of its own")
            async with here.subscribe(channel):
                gone.append(weakref.ref(channel))
            del channel
            with suppress(LookupError):
                async with here.subscribe("a") as events:
                    gone.append(weakref.ref(events))
                    raise LookupError
            del events
            for number in range(100):
                await here.publish(f"room {number}", "something")
            gc.collect()
            assert not [ref for ref in gone if ref()]

    play(scene())


def test_waiting_for_an_event_can_be_cancelled_and_loses_none(bench: Bench) -> None:
    async def scene() -> None:
        async with bench.node() as here, here.subscribe("a") as events:
            waiting = asyncio.create_task(anext(events))
            await asyncio.sleep(0)
            waiting.cancel()
            here.publish_nowait("a", 1)
            await asyncio.wait([waiting])
            assert waiting.cancelled()
            assert await anext(events) == 1

    play(scene())


def test_a_subscription_ends_with_its_block_and_begins_no_more(bench: Bench) -> None:
    async def scene() -> None:
        async with bench.node() as here:
            async with here.subscribe("a") as events, here.subscribe("b") as others:
                waiting = asyncio.create_task(listed(others))
                await here.publish("a", "last")
            assert await waiting == []
            await here.publish("a", "too late")
            assert await listed(events) == ["last"]
            with pytest.raises(bench.errors.ClosedError):
                await listed(events)

    play(scene())


def test_the_end_of_a_fanout_ends_all_subscriptions(bench: Bench) -> None:
    async def scene() -> None:
        async with AsyncExitStack() as longer:
            async with bench.node() as here:
                events, others = [await longer.enter_async_context(here.subscribe(channel)) for channel in "ab"]
                waiting = asyncio.create_task(listed(others))
                await here.publish("a", "last")
            assert await waiting == []
            assert await listed(events) == ["last"]
            with pytest.raises(bench.errors.ClosedError):
                await here.publish("a", 1)
            with pytest.raises(bench.errors.ClosedError):
                here.publish_nowait("a", 1)
            with pytest.raises(bench.errors.ClosedError):
                await longer.enter_async_context(here.subscribe("a"))

    play(scene())


def test_a_subscriber_that_comes_before_the_beginning_hears_other_nodes(bench: Bench) -> None:
    async def scene() -> None:
        early = bench.fanout.Fanout(bench.connector())
        async with early.subscribe("a") as events, early, bench.node() as other:
            await other.publish("a", "hello")
            assert await anext(events) == "hello"

    play(scene())


def test_a_large_message_blocks_the_loop_not_much_longer_with_a_subscriber_than_without(bench: Bench) -> None:
    message = [{"a": number} for number in range(80_000)]

    async def scene() -> None:
        async with bench.node() as fanout:

            def time_to_publish() -> float:
                begun = time.thread_time()
                fanout.publish_nowait("a", message)
                return time.thread_time() - begun

            alone = min(time_to_publish() for _ in range(5))
            async with fanout.subscribe("a") as events:
                with_one = min(time_to_publish() for _ in range(5))
                assert await take(events, 5) == [message] * 5
            assert with_one < 3 * alone

    play(scene())


@pytest.mark.parametrize("shards", [1, 4])
def test_it_begins_before_its_broker_and_misses_nothing(package: Package, own_broker: Any, shards: int) -> None:
    bench = Bench(package, own_broker, shards)

    async def scene() -> None:
        bench.broker.stop()
        async with (
            bench.node(reconnect_delay_max=0.2) as here,
            bench.node(reconnect_delay_max=0.2) as there,
            here.subscribe("a") as own,
            there.subscribe("a") as other,
        ):
            for number in range(100):
                here.publish_nowait("a", number)
            assert await take(own, 100) == list(range(100))
            bench.broker.spawn()
            assert await take(other, 100) == list(range(100))

    play(scene())


def test_a_broker_that_says_nothing_holds_the_beginning_up_for_connect_timeout_and_leaves_nothing(
    bench: Bench,
) -> None:
    async def scene() -> None:
        silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1")
        port = silent.sockets[0].getsockname()[1]
        url = f"redis://127.0.0.1:{port}"
        async with silent, bench.node(url=url, connect_timeout=0.3) as here, here.subscribe("a") as events:
            here.publish_nowait("a", "here")
            assert await anext(events) == "here"

    play(scene())


def test_a_fanout_begins_with_settings_that_are_not_known_yet(bench: Bench) -> None:
    known: list[Any] = []

    async def scene() -> None:
        connector = bench.package.Connector(lambda: known[0])
        async with (
            bench.node(shards=1) as here,
            bench.fanout.Fanout(connector) as there,
            there.subscribe("a") as events,
        ):
            known.append(bench.connector(shards=1).settings)
            await publish_until_heard(here, events)

    play(scene())


def test_a_topic_that_is_refused_is_told_at_once_and_leaves_nothing(bench: Bench) -> None:
    async def scene() -> None:
        connector = bench.connector()
        with pytest.raises(bench.errors.SubscribeRefusedError):
            async with bench.fanout.Fanout(connector, topic="CONTROL") as fanout, fanout.subscribe("a"):
                pass
        with pytest.raises(bench.errors.ClosedError):
            await connector.connect()

    play(scene())


def test_a_refusal_after_an_outage_is_logged_and_tried_again(
    package: Package, own_broker: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(package, own_broker, shards=1)
    transport = package.module("transport").BrokerTransport
    subscribe, refused = transport.subscribe, list[str]()

    async def without_rights(self: Any, topic: str) -> None:
        if topic == "fanout" and len(refused) < 2:
            refused.append(topic)
            raise package.module("contract").SubscribeRefusedError("no rights to this topic")
        await subscribe(self, topic)

    async def scene() -> None:
        bench.broker.stop()
        async with bench.node(reconnect_delay_max=0.2) as here, here.subscribe("a") as events:
            bench.broker.spawn()
            async with bench.node() as there:
                await publish_until_heard(there, events)

    monkeypatch.setattr(transport, "subscribe", without_rights)
    monkeypatch.setattr(package.module("hosts.joining"), "RETRY", 0.1)
    play(scene())
    lines = [line for line in caplog.messages if "does not receive messages from the others" in line]
    assert len(lines) == 2
    assert "no rights to this topic" in lines[0]


def test_fanouts_with_different_topics_do_not_hear_each_other(bench: Bench) -> None:
    async def scene() -> None:
        connector = bench.connector()
        async with (
            bench.node() as here,
            bench.fanout.Fanout(connector, topic="elsewhere") as there,
            there.subscribe("a") as events,
        ):
            await here.publish("a", "not for us")
            await there.publish("a", "for us")
            assert await anext(events) == "for us"

    play(scene())


def test_bounds_and_channels_of_a_wrong_kind_are_refused(bench: Bench) -> None:
    async def scene() -> None:
        async with bench.node() as here:
            with pytest.raises(TypeError, match="channel = 5: must be a str"):
                await here.subscribe(5).__aenter__()

    play(scene())
    connector = bench.connector()
    with pytest.raises(ValueError, match="max_pending = 0: must be at least 1"):
        bench.fanout.Fanout(connector, max_pending=0)


def test_the_server_of_the_guide_runs_as_printed(package: Package, broker: Any, tmp_path: Path) -> None:
    with package.printed(tmp_path, broker, "fanout.md") as programs:
        play(check_that_both_hear(programs))


def test_a_node_subscribes_to_the_shards_that_its_subscribers_need_and_to_no_others(
    package: Package, broker: Any
) -> None:
    bench = Bench(package, broker, shards=8)

    def delivered() -> int:
        return len(broker.ask("PUBSUB CHANNELS", "*fanout*"))

    async def scene() -> None:
        async with bench.node() as node:
            assert delivered() == 0
            async with node.subscribe("a"), node.subscribe("a"):
                assert delivered() == 1
                async with AsyncExitStack() as stack:
                    for number in range(200):
                        await stack.enter_async_context(node.subscribe(f"room {number}"))
                    assert delivered() == 8
                assert delivered() == 1
            assert delivered() == 0

    play(scene())


def test_subscribers_that_come_and_go_miss_nothing_while_they_are_there(bench: Bench) -> None:
    async def come_and_go(here: Any, there: Any, name: int) -> None:
        for number in range(10):
            async with there.subscribe("a") as events:
                await here.publish("a", [name, number])
                while await anext(events) != [name, number]:
                    pass

    async def come_and_be_cancelled(there: Any) -> None:
        for _ in range(30):
            coming = asyncio.create_task(there.subscribe("a").__aenter__())
            await asyncio.sleep(0)
            coming.cancel()
            await asyncio.wait([coming])

    async def scene() -> None:
        async with bench.node() as here, bench.node() as there:
            async with asyncio.TaskGroup() as group:
                for name in range(5):
                    group.create_task(come_and_go(here, there, name))
                group.create_task(come_and_be_cancelled(there))
            if bench.shards > 1:
                assert bench.broker.ask("PUBSUB CHANNELS", "*fanout*") == []

    play(scene())
