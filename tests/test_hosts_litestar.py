"""Litestar's channels over a connector: two plugins in one process, each on a back end of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hosting import PATIENCE, Package, check_that_both_hear, unsent
from litestar.channels import ChannelsPlugin, Subscriber

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]


class Joined:
    """Makes back ends on one broker."""

    def __init__(self, package: Package, broker: Any) -> None:
        self.package = package
        self.broker = broker
        self.errors: Any = package.module().Connector.errors

    def settings(self, **settings: Any) -> Any:
        return self.package.module().Settings(url=self.broker.url, reconnect_delay_max=0.2, **settings)

    def backend(self, *, topic: str = "litestar", missed: bytes | None = None, **settings: Any) -> Any:
        adapter = self.package.module("hosts.litestar")
        return adapter.ConnectorChannelsBackend(self.settings(**settings), topic, missed=missed)

    def plugin(self, **settings: Any) -> ChannelsPlugin:
        return ChannelsPlugin(self.backend(**settings), arbitrary_channels_allowed=True)

    def topics(self) -> int:
        """Return how many topics of back ends the broker delivers to somebody."""
        return len(self.broker.ask("PUBSUB", "CHANNELS", "litestar*"))

    @asynccontextmanager
    async def two(self, **settings: Any) -> AsyncIterator[tuple[ChannelsPlugin, ChannelsPlugin]]:
        async with self.plugin(**settings) as here, self.plugin(**settings) as there:
            yield here, there


@pytest.fixture
def joined(package: Package, own_broker: Any) -> Joined:
    return Joined(package, own_broker)


Event = TypeVar("Event")


async def until(last: Event, stream: AsyncIterator[Event]) -> list[Event]:
    """Return what comes, until the last."""
    found: list[Event] = []
    async with asyncio.timeout(PATIENCE):
        async for event in stream:
            found.append(event)
            if event == last:
                break
    return found


async def heard(subscriber: Subscriber, last: bytes) -> list[bytes]:
    """Return what a subscriber has heard when it hears the last."""
    return await until(last, subscriber.iter_events())


async def events(backend: Any, last: tuple[str, bytes]) -> list[tuple[str, bytes]]:
    """Return what a back end streams, until the last."""
    return await until(last, backend.stream_events())


def numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


async def test_subscribers_of_all_nodes_hear_each_message_once_and_in_order(joined: Joined) -> None:
    async with joined.two() as (here, there):
        mine, other = await here.subscribe("room"), await there.subscribe("room")
        for number in numbers(500):
            here.publish(number, "room")
        for subscriber in (mine, other):
            assert await heard(subscriber, b"499") == numbers(500)
        for number in numbers(100):
            await there.wait_published(number, "room")
        for subscriber in (mine, other):
            assert await heard(subscriber, b"99") == numbers(100)


@pytest.mark.parametrize(
    "data", [b"", b"\x00", bytes(range(256)), "Zoë 北京 \N{RABBIT FACE}".encode(), b"\xff" * 100_000, b'["+/8="]']
)
async def test_bytes_arrive_as_they_are(joined: Joined, data: bytes) -> None:
    async with joined.two() as (here, there):
        mine, other = await here.subscribe("room"), await there.subscribe("room")
        here.publish(data, "room")
        assert await heard(mine, data) == await heard(other, data) == [data]


async def test_a_message_to_several_channels_arrives_once_in_each(joined: Joined) -> None:
    backend = joined.backend()
    await backend.on_startup()
    await backend.subscribe(["a", "b", "c"])
    async with joined.plugin() as there:
        there.publish(b"for two", ["a", "b", "a", "nobody's"])
        there.publish(b"for one", "c")
        assert await events(backend, ("c", b"for one")) == [("a", b"for two"), ("b", b"for two"), ("c", b"for one")]
        await backend.publish(b"own", iter(["b", "c", "b"]))
        assert await events(backend, ("c", b"own")) == [("b", b"own"), ("c", b"own")]
    await backend.on_shutdown()


async def test_nothing_arrives_from_a_channel_that_was_left(joined: Joined) -> None:
    backend = joined.backend()
    await backend.on_startup()
    await backend.subscribe(["left", "kept"])
    await backend.publish(b"waits", ["left"])
    await backend.unsubscribe(["left", "never subscribed"])
    async with joined.plugin() as there:
        there.publish(b"comes", ["left", "kept"])
        assert await events(backend, ("kept", b"comes")) == [("kept", b"comes")]
    await backend.on_shutdown()


@pytest.mark.parametrize("shards", [1, 8])
async def test_each_of_many_channels_gets_its_own(joined: Joined, shards: int) -> None:
    channels = [f"channel {number}" for number in range(1000)]
    async with joined.two(shards=shards) as (here, there):
        subscribers = {channel: await there.subscribe(channel) for channel in channels}
        for channel in channels:
            here.publish(channel, channel)
            here.publish("end", channel)
        for channel, subscriber in subscribers.items():
            assert await heard(subscriber, b"end") == [channel.encode(), b"end"]


async def test_a_node_gets_the_shards_of_the_channels_that_are_subscribed(joined: Joined) -> None:
    topics = joined.topics
    backend = joined.backend(shards=8)
    await backend.on_startup()
    assert topics() == 0
    await backend.subscribe(["a"])
    assert topics() == 1
    await backend.subscribe([f"channel {number}" for number in range(100)])
    assert topics() == 8
    await backend.unsubscribe([f"channel {number}" for number in range(100)])
    assert topics() == 1
    async with joined.plugin(shards=8) as there:
        there.publish(b"still", "a")
        assert await events(backend, ("a", b"still")) == [("a", b"still")]
    await backend.unsubscribe(["a"])
    assert topics() == 0
    await backend.on_shutdown()


@pytest.mark.parametrize("steps", range(1, 4))
@pytest.mark.parametrize("order", [["a", "b"], ["b", "a"]])
async def test_a_channel_that_is_joined_while_it_is_left_with_others_is_heard(
    joined: Joined, order: list[str], steps: int
) -> None:
    backend = joined.backend(shards=8)
    await backend.on_startup()
    await backend.subscribe(order)
    leaving = asyncio.create_task(backend.unsubscribe(order))
    for _ in range(steps):
        await asyncio.sleep(0)
    await backend.subscribe(["b"])
    await leaving
    assert joined.topics() == 1
    await backend.on_shutdown()


async def test_back_ends_with_different_topics_hear_nothing_of_each_other(joined: Joined) -> None:
    async with joined.two() as (here, there), joined.plugin(topic="another") as stranger:
        other = await there.subscribe("room")
        await stranger.wait_published(b"strange", "room")
        here.publish(b"known", "room")
        assert await heard(other, b"known") == [b"known"]


async def test_a_plugin_can_be_started_again(joined: Joined) -> None:
    backend = joined.backend()
    plugin = ChannelsPlugin(backend, arbitrary_channels_allowed=True)
    connectors = set()
    async with joined.plugin() as there:
        for _ in range(3):
            async with plugin:
                connector = backend.connector
                assert connector.is_ready
                connectors.add(connector)
                subscriber = await plugin.subscribe("room")
                there.publish(b"from there", "room")
                assert await heard(subscriber, b"from there") == [b"from there"]
                await plugin.wait_published(b"from here", "room")
                assert await heard(subscriber, b"from here") == [b"from here"]
                await plugin.unsubscribe(subscriber)
            assert backend.connector is None
            assert not connector.is_ready
    assert len(connectors) == 3


async def test_starting_twice_makes_one_connector(joined: Joined) -> None:
    backend = joined.backend()
    await backend.on_startup()
    connector = backend.connector
    await backend.on_startup()
    assert backend.connector is connector
    await backend.on_shutdown()
    await backend.on_shutdown()


async def test_each_start_asks_for_the_settings_anew(joined: Joined) -> None:
    calls = []

    def settings() -> Any:
        calls.append(joined.broker.url)
        return joined.settings()

    backend = joined.package.module("hosts.litestar").ConnectorChannelsBackend(settings)
    for count in (1, 2):
        await backend.on_startup()
        await backend.on_shutdown()
        assert len(calls) == count


async def test_settings_of_a_wrong_kind_are_refused_at_once(joined: Joined) -> None:
    with pytest.raises(TypeError, match="settings must be"):
        joined.package.module("hosts.litestar").ConnectorChannelsBackend(joined.broker.url)


async def test_a_topic_that_is_refused_is_told_and_leaves_nothing(joined: Joined) -> None:
    backend = joined.backend(topic="")
    await backend.on_startup()
    with pytest.raises(joined.errors.SubscribeRefusedError):
        await backend.subscribe(["room"])
    await backend.unsubscribe(["room"])
    await backend.on_shutdown()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_back_end_that_does_not_run_says_so(joined: Joined) -> None:
    backend = joined.backend()
    for _ in ("before the start", "after the end"):
        for call in (backend.publish(b"", ["room"]), backend.subscribe(["room"]), anext(backend.stream_events())):
            with pytest.raises(RuntimeError, match="has not been started"):
                await call
        await backend.unsubscribe(["room"])
        await backend.on_startup()
        await backend.on_shutdown()


async def test_there_is_no_history(joined: Joined) -> None:
    with pytest.raises(NotImplementedError, match="no history"):
        await joined.backend().get_history("room")


async def test_an_application_starts_without_the_broker_and_catches_up(joined: Joined) -> None:
    joined.broker.stop()
    messages = [number * 10_000 for number in numbers(100)]
    async with joined.two(publish_timeout=2 * PATIENCE) as (here, there):
        mine, other = await here.subscribe("room"), await there.subscribe("room")
        for message in messages:
            here.publish(message, "room")
        assert await heard(mine, messages[-1]) == messages
        joined.broker.spawn()
        assert await heard(other, messages[-1]) == messages


async def test_a_channel_that_was_left_in_an_outage_is_not_joined_afterwards(joined: Joined) -> None:
    joined.broker.stop()
    backend = joined.backend(shards=8)
    await backend.on_startup()
    await backend.subscribe(["left", "kept"])
    await backend.unsubscribe(["left"])
    async with joined.plugin(shards=8) as there:
        there.publish(b"waits", ["left", "kept"])
        joined.broker.spawn()
        assert await events(backend, ("kept", b"waits")) == [("kept", b"waits")]
    assert joined.topics() == 1
    await backend.on_shutdown()


async def test_the_end_leaves_nothing_in_an_outage(joined: Joined) -> None:
    joined.broker.stop()
    backend = joined.backend()
    await backend.on_startup()
    await backend.subscribe(["room"])
    await backend.publish(b"for nobody", ["room"])
    await backend.on_shutdown()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_joining_is_tried_again_when_the_broker_did_not_confirm_it(
    joined: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = joined.package.module("transport").BrokerTransport
    subscribe, calls = transport.subscribe, []

    async def late(self: Any, topic: str) -> None:
        if topic == "litestar":
            calls.append(topic)
            await asyncio.sleep(1.0 if len(calls) == 1 else 0.0)
        await subscribe(self, topic)

    monkeypatch.setattr(transport, "subscribe", late)
    monkeypatch.setattr(joined.package.module("hosts.joining"), "RETRY", 0.1)
    async with joined.plugin(publish_timeout=0.2) as there:
        other = await there.subscribe("room")
        assert len(calls) > 1
        async with joined.plugin() as here:
            here.publish(b"heard", "room")
            assert await heard(other, b"heard") == [b"heard"]


async def test_an_outage_costs_no_message(joined: Joined) -> None:
    async with joined.two() as (here, there):
        mine, other = await here.subscribe("room"), await there.subscribe("room")
        for number in numbers(300):
            here.publish(number, "room")
            if number == b"100":
                assert (await heard(other, b"100"))[-1] == b"100"
                joined.broker.stop()
            if number == b"200":
                assert (await heard(mine, b"200"))[-1] == b"200"
                joined.broker.spawn()
        assert await heard(mine, b"299") == numbers(300)[201:]
        assert await heard(other, b"299") == numbers(300)[101:]


async def test_what_was_published_is_sent_before_the_end(joined: Joined) -> None:
    async with joined.plugin() as there:
        other = await there.subscribe("room")
        async with joined.plugin() as here:
            for number in numbers(1000):
                here.publish(number, "room")
        assert await heard(other, b"999") == numbers(1000)


async def test_a_burst_waits_for_the_broker_and_not_in_the_outbox(
    joined: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = joined.package.module("transport").BrokerTransport
    publish = transport.publish

    async def late(self: Any, topic: str, payload: bytes) -> None:
        await asyncio.sleep(0.02)
        await publish(self, topic, payload)

    monkeypatch.setattr(transport, "publish", late)
    async with joined.two(max_outbox_bytes=1024 * 1024) as (here, there):
        other = await there.subscribe("room")
        messages = [b"%04d" % number * 500 for number in range(2000)]
        for message in messages:
            here.publish(message, "room")
        assert await heard(other, messages[-1]) == messages


async def test_a_publisher_does_not_wait_for_a_broker_that_has_gone(
    joined: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(self: Any, topic: str, payload: bytes) -> None:
        await asyncio.Future()

    backend = joined.backend(publish_timeout=2 * PATIENCE)
    await backend.on_startup()
    monkeypatch.setattr(joined.package.module("transport").BrokerTransport, "publish", never)
    publishing = asyncio.create_task(backend.publish(b"x" * 300_000, ["room"]))
    await asyncio.wait([publishing], timeout=0.1)
    assert not publishing.done()
    joined.broker.stop()
    async with asyncio.timeout(PATIENCE):
        await publishing
    await backend.on_shutdown()


async def test_a_stream_that_is_not_read_holds_publishers_and_loses_nothing(joined: Joined) -> None:
    backend, reader = joined.backend(), joined.backend()
    for each in (backend, reader):
        await each.on_startup()
        await each.subscribe(["room"])
    sent = 0

    async def publish() -> None:
        nonlocal sent
        for number in numbers(2000):
            await backend.publish(number * 1000, ["room"])
            sent += 1

    publishing = asyncio.create_task(publish())
    await asyncio.wait([publishing], timeout=0.5)
    assert 0 < sent < 500
    for each in (backend, reader):
        found = await events(each, ("room", b"1999" * 1000))
        assert found == [("room", number * 1000) for number in numbers(2000)]
    await publishing
    for each in (backend, reader):
        await each.on_shutdown()


async def test_the_end_releases_publishers_that_wait(joined: Joined) -> None:
    backend = joined.backend()
    await backend.on_startup()
    await backend.subscribe(["room"])
    publishing = [asyncio.create_task(backend.publish(b"x" * 300_000, ["room"])) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in publishing)
    await backend.on_shutdown()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*publishing)


async def test_a_message_that_cannot_be_sent_is_logged_and_the_next_one_arrives(
    joined: Joined, caplog: pytest.LogCaptureFixture
) -> None:
    hopeless: list[tuple[bytes, Any]] = [
        (b"x" * 2000, "room"),
        (b"no text", ["\ud800", "room"]),
        (b"no channel", [["room"]]),
    ]
    async with joined.two(max_message_bytes=1000) as (here, there):
        mine, other = await here.subscribe("room"), await there.subscribe("room")
        for data, channels in hopeless:
            here.publish(data, channels)
        here.publish(b"good", "room")
        assert await heard(mine, b"good") == [b"no text", b"good"]
        assert await heard(other, b"good") == [b"no text", b"good"]
    told = unsent(caplog.messages)
    assert "the limit is 1000" in told[0][1]
    assert sum(count for count, _ in told) == len(hopeless)


async def test_failures_in_a_long_outage_are_told_once_a_second_with_their_number(
    joined: Joined, caplog: pytest.LogCaptureFixture
) -> None:
    async with joined.plugin(publish_timeout=0.2) as here:
        mine = await here.subscribe("room")
        joined.broker.stop()
        for number in numbers(1000):
            here.publish(number, "room")
        assert await heard(mine, b"999") == numbers(1000)
    told = unsent(caplog.messages)
    assert len(told) <= 3
    assert sum(count for count, _ in told) == 1000


async def lose(joined: Joined, missed: bytes | None) -> list[tuple[str, bytes]]:
    """Let a back end miss messages twice, since its stream is not read in time; return what it streams."""
    backend = joined.backend(missed=missed, max_pending_messages=10)
    await backend.on_startup()
    errors: asyncio.Queue[Exception] = asyncio.Queue()
    backend.connector.on("error", errors.put_nowait)
    await backend.subscribe(["room", "hall"])
    async with joined.plugin() as there:
        for number in numbers(1000):
            await there.wait_published(number * 1000, "room")
        await there.wait_published(b"end", "room")
        async with asyncio.timeout(PATIENCE):
            assert type(await errors.get()) is type(await errors.get()) is joined.errors.SlowListenerError
    found = await events(backend, ("room", b"end"))
    await backend.on_shutdown()
    return found


async def test_each_channel_is_told_once_that_messages_were_lost(joined: Joined) -> None:
    found = await lose(joined, b"missed")
    assert len(found) < 1000
    assert found.count(("room", b"missed")) == found.count(("hall", b"missed")) == 1


async def test_a_loss_is_only_logged_unless_asked_for(joined: Joined, caplog: pytest.LogCaptureFixture) -> None:
    found = await lose(joined, None)
    assert len(found) < 1000
    assert {channel for channel, _ in found} == {"room"}
    assert sum("SlowListenerError" in record.message for record in caplog.records) == 2


async def test_the_server_of_the_guide_runs_as_printed(joined: Joined, tmp_path: Path) -> None:
    with joined.package.printed(tmp_path, joined.broker, "litestar.md") as programs:
        await check_that_both_hear(programs)
