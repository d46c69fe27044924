"""Two real deepstream servers, their clients, and a Python node on one Valkey."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from conftest import PATIENCE, World, eventually, settled, until_known
from redis.asyncio import Redis

pytestmark = pytest.mark.asyncio

SECONDS_AWAY = 3.0
EVERY = 0.02
QUIET = 4 * PATIENCE
"""A heartbeat within which no number is announced unasked."""
KINDS = ("", "messages", "again", "answer", "control")


@pytest.mark.parametrize("serialization", ["json", "msgpack"])
async def test_events_go_both_ways_and_none_is_doubled(world: World, serialization: str) -> None:
    _, a = await world.server("a")
    _, b = await world.server("b")
    node = await world.node(serialization=serialization)
    from_js: list[Any] = []
    await node.listen("from JavaScript", from_js.append)
    for client in (a, b):
        client.tell("subscribe", "from Python")
        client.tell("subscribe", "from JavaScript")
    await settled(node, a, b)
    values: list[Any] = [None, True, 0, -1.5, "Zoë \u2028", [], {"a": [{"b": "\N{RABBIT FACE}"}]}]
    for value in values:
        await node.emit("from Python", value)
        a.tell("emit", "from JavaScript", value)
    for client in (a, b):
        for name in ("from Python", "from JavaScript"):
            await client.until_heard(name, len(values))
    await eventually(lambda: len(from_js) >= len(values), lambda: from_js)
    await settled(node, a, b)
    assert from_js == a.heard("from JavaScript") == b.heard("from JavaScript") == values
    assert a.heard("from Python") == b.heard("from Python") == values
    assert not world.errors


async def test_large_events_cross_in_both_directions(world: World) -> None:
    _, client = await world.server("a")
    node = await world.node()
    numbers: list[str] = []
    await node.listen("from JavaScript", numbers.append)
    client.tell("subscribe", "from Python")
    await settled(node, client)
    texts = [str(number) + 100_000 * "\N{EURO SIGN}" for number in range(10)]
    for text in texts:
        await node.emit("from Python", text)
        client.tell("emit", "from JavaScript", text)
    await client.until_heard("from Python", len(texts))
    await eventually(lambda: len(numbers) >= len(texts), lambda: list(map(len, numbers)))
    assert numbers == client.heard("from Python") == texts
    assert not world.errors


async def test_a_node_does_not_hear_its_own_events(world: World) -> None:
    _, client = await world.server("a")
    node = await world.node()
    heard: list[Any] = []
    await node.listen("both", heard.append)
    client.tell("subscribe", "both")
    await settled(node, client)
    await node.emit("both", "from Python")
    client.tell("emit", "both", "from JavaScript")
    await client.until_heard("both", 2)
    await settled(node, client)
    assert heard == ["from JavaScript"]


async def test_clients_of_all_servers_call_what_python_provides(world: World) -> None:
    _, a = await world.server("a")
    node = await world.node()

    async def shout(text: str) -> dict[str, str]:
        await asyncio.sleep(1.2)  # longer than a server waits for a procedure that was not accepted
        return {"shouted": text.upper()}

    await node.provide("shout", shout)
    await node.provide("add", lambda numbers: sum(numbers))
    await settled(node, a)
    assert (await a.call("shout", "hello"))["data"] == {"shouted": "HELLO"}
    _, late = await world.server("late")
    await until_known(node, late)
    assert (await late.call("add", [1, 2.5]))["data"] == 3.5
    failed = await late.call("add", "abc")
    assert failed["is"] == "error"
    assert "unsupported operand" in failed["data"]
    await node.unprovide("add")
    await settled(node, a)
    assert (await a.call("add", []))["data"] == "NO_RPC_PROVIDER"
    assert not world.errors


async def test_nothing_is_lost_when_the_broker_restarts_under_load(world: World) -> None:
    server_a, a = await world.server("a")
    server_b, b = await world.server("b")
    node = await world.node()
    heard: dict[str, list[int]] = {"a": [], "b": []}
    for name, numbers in heard.items():
        await node.listen(f"from {name}", numbers.append)
    for client in (a, b):
        for name in ("a", "b", "python"):
            client.tell("subscribe", f"from {name}")
    await settled(node, a, b)
    count = 0

    async def emit_for(seconds: float) -> None:
        nonlocal count
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            a.tell("emit", "from a", count)
            b.tell("emit", "from b", count)
            node.connector.publish_nowait("EVENT", event(node.name, "from python", count))
            count += 1
            await asyncio.sleep(EVERY)

    await emit_for(0.5)
    world.broker.freeze()  # so that it dies with something in flight
    await emit_for(0.2)
    await asyncio.to_thread(world.broker.stop)
    await emit_for(SECONDS_AWAY)
    world.broker.spawn()
    await emit_for(3.0)
    sent = list(range(count))
    for client in (a, b):
        for name in ("from a", "from b", "from python"):
            await client.until_heard(name, count)
            assert client.heard(name) == sent, name
    await eventually(lambda: min(map(len, heard.values())) >= count, lambda: heard)
    assert heard == {"a": sent, "b": sent}
    assert {type(error).__name__ for error in world.errors} == {"ConnectionLostError", "ReconnectError"}
    assert node.connector.stats()["lost"] == 0
    assert not [line for server in (server_a, server_b) for line in server.lines if "were lost" in line]


async def test_what_a_server_misses_python_sends_again(world: World) -> None:
    server, client = await world.server("a")
    node = await world.node()
    client.tell("subscribe", "numbers")
    await settled(node, client)
    async with frames_on(world, "EVENT") as seen:
        for number in range(300):
            if number in (50, 150):
                await drop(world, resp=2)
            await node.emit("numbers", number)
        await client.until_heard("numbers", 300)
    assert client.heard("numbers") == list(range(300))
    assert {kind for kind, _ in seen} == {"messages", "again", "answer"}
    assert not [line for line in server.lines if "were lost" in line]
    assert not world.errors


async def test_what_python_misses_a_server_sends_again(world: World) -> None:
    _, client = await world.server("a")
    node = await world.node()
    numbers: list[int] = []
    await node.listen("numbers", numbers.append)
    await settled(node, client)
    for number in range(300):
        if number in (50, 150):
            await drop(world, resp=3)
        client.tell("emit", "numbers", number)
        await asyncio.sleep(0.001)
    await eventually(lambda: len(numbers) >= 300, lambda: numbers)
    assert numbers == list(range(300))
    assert {type(error).__name__ for error in world.errors} == {"ConnectionLostError"}
    assert node.connector.stats()["repaired"] > 0
    assert node.connector.stats()["lost"] == 0


async def test_a_server_asks_for_what_it_has_missed_last(world: World) -> None:
    _, client = await world.server("a")
    node = await world.node(heartbeat=QUIET)
    client.tell("subscribe", "numbers")
    await settled(node, client)
    await drop(world, resp=2)
    await node.emit("numbers", 1)
    await client.until_heard("numbers", 1)


async def test_a_server_tells_python_what_it_has_missed_last(world: World) -> None:
    _, client = await world.server("a", heartbeat=QUIET * 1000)
    node = await world.node(reconnect_delay_min=1, reconnect_delay_max=1)
    numbers: list[int] = []
    await node.listen("numbers", numbers.append)
    await settled(node, client)
    await drop(world, resp=3)
    client.tell("emit", "numbers", 1)
    await eventually(lambda: numbers, lambda: numbers)


async def test_a_frame_that_comes_twice_is_delivered_once(world: World) -> None:
    _, a = await world.server("a")
    _, b = await world.server("b")
    node = await world.node()
    numbers: list[int] = []
    await node.listen("numbers", numbers.append)
    b.tell("subscribe", "numbers")
    await settled(node, a, b)
    async with frames_on(world, "EVENT") as seen, Redis(port=world.broker.port) as redis:
        a.tell("emit", "numbers", 1)
        await b.until_heard("numbers", 1)
        await redis.publish("EVENT", seen[-1][1])
        a.tell("emit", "numbers", 2)
        await b.until(lambda: 2 in b.heard("numbers"), "the next event")
    await eventually(lambda: 2 in numbers, lambda: numbers)
    assert numbers == b.heard("numbers") == [1, 2]
    assert node.connector.stats()["duplicates"] == 1
    assert not world.errors


async def test_what_is_no_frame_is_reported_and_the_next_is_fine(world: World) -> None:
    server, client = await world.server("a")
    node = await world.node()
    client.tell("subscribe", "numbers")
    await settled(node, client)
    async with Redis(port=world.broker.port) as redis:
        await redis.publish("EVENT", b'{"topic": "E", "action": "EVT"}')
    await server.until_line("is not a connector's frame: ")
    await node.emit("numbers", 1)
    await client.until_heard("numbers", 1)


async def test_servers_know_who_is_there_and_forget_who_has_left(world: World) -> None:
    from deepstream_msg_redis import Connector, Settings
    from node import Node

    server, _ = await world.server("a")
    async with Node(Connector(Settings(url=world.broker.url, node_name="visitor"))):
        await server.until_line("CLUSTER_JOIN | visitor")
    await server.until_line("CLUSTER_LEAVE | visitor")


async def test_a_server_asks_a_node_that_comes_back_later_than_itself(world: World) -> None:
    server, client = await world.server("a")
    node = await world.node(heartbeat=QUIET, reconnect_delay_min=1, reconnect_delay_max=1)
    client.tell("subscribe", "numbers")
    await settled(node, client)
    await drop(world, resp=2)
    await node.emit("numbers", 1)
    await drop(world, resp=3)
    await client.until_heard("numbers", 1)
    assert "the connection to Redis is lost" in "".join(server.lines)


async def test_a_message_that_is_not_deepstreams_harms_no_other(world: World) -> None:
    server, client = await world.server("a")
    node = await world.node()
    client.tell("subscribe", "numbers")
    await settled(node, client)
    for message in (None, {}, {"message": None}, {"message": {"topic": "E"}}, event(node.name, "numbers", 1)):
        node.connector.publish_nowait("EVENT", message)
    await client.until_heard("numbers", 1)
    await server.until_line("a message is for none of deepstream's topics")
    assert not [line for line in server.lines if "is not a connector's frame" in line]


async def test_a_server_logs_each_loss(world: World) -> None:
    from deepstream_msg_redis.contract import wire

    server, _ = await world.server("a")
    async with Redis(port=world.broker.port) as redis, redis.pipeline() as pipeline:
        for sender in (b"1" * 16, b"2" * 16):
            for number in (0, 5):
                pipeline.publish("EVENT", wire.pack(1, wire.MESSAGES, sender, number, 0, 1, 0, b"[{}]"))
        await pipeline.execute()
    for sender in ("31" * 16, "32" * 16):
        await server.until_line(f"4 messages of {sender} on topic EVENT were lost")


async def test_a_listener_that_raises_harms_no_other(world: World, caplog: pytest.LogCaptureFixture) -> None:
    _, client = await world.server("a")
    node = await world.node()
    heard: list[Any] = []

    def fail(data: Any) -> None:
        raise LookupError(data)

    await node.listen("numbers", fail)
    await node.listen("numbers", heard.append)
    client.tell("emit", "numbers", 1)
    await eventually(lambda: heard, lambda: heard)
    assert "A listener did not take an event 'numbers'." in caplog.text


async def test_a_node_goes_on_telling_that_it_is_there_after_its_outbox_was_full(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.STATUS_SECONDS", 0.05)
    node = await world.node(max_outbox_bytes=2000)
    full = 0
    publish = node.connector.publish

    async def counted(*arguments: Any) -> None:
        nonlocal full
        try:
            await publish(*arguments)
        except node.connector.errors.OutboxFullError:
            full += 1
            raise

    monkeypatch.setattr(node.connector, "publish", counted)
    world.broker.freeze()
    with suppress(node.connector.errors.OutboxFullError):
        while True:
            node.connector.publish_nowait("EVENT", event(node.name, "numbers", 1))
    await eventually(lambda: full, lambda: full)
    world.broker.thaw()
    async with frames_on(world, "CLUSTER") as seen:
        await eventually(lambda: seen, lambda: node.connector.stats())


async def test_a_client_learns_that_an_answer_is_too_large(world: World) -> None:
    _, client = await world.server("a")
    node = await world.node(max_message_bytes=2000)
    await node.provide("much", lambda count: count * "x")
    await settled(node, client)
    assert (await client.call("much", 10))["data"] == 10 * "x"
    failed = await client.call("much", 3000)
    assert failed["is"] == "error"
    assert "the limit is 2000" in failed["data"]


def event(sender: str, name: str, data: Any) -> dict[str, Any]:
    return {"fromServer": sender, "message": {"topic": 4, "action": 2, "name": name, "data": str(data)}}


@asynccontextmanager
async def frames_on(world: World, topic: str) -> AsyncIterator[list[tuple[str, bytes]]]:
    """Collect all frames on a topic during the block, each with the name of its kind."""
    seen: list[tuple[str, bytes]] = []

    async def read(subscription: Any) -> None:
        async for got in subscription.listen():
            seen.append((KINDS[got["data"][2]], got["data"]))

    async with Redis(port=world.broker.port) as redis, redis.pubsub(ignore_subscribe_messages=True) as subscription:
        await subscription.subscribe(topic)
        reading = asyncio.create_task(read(subscription))
        try:
            yield seen
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading


async def drop(world: World, resp: int) -> None:
    """Have the broker end the connections on which others listen: those of Node speak RESP 2, those of Python RESP 3."""
    async with Redis(port=world.broker.port) as redis:
        for client in await redis.client_list(_type="pubsub"):
            if client["resp"] == str(resp) and client["lib-name"] != "redis-py":
                await redis.client_kill_filter(_id=client["id"])
