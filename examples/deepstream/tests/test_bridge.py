"""Two real deepstream servers of version 2 on their own wire, a new one, and a Python node, with the bridge between."""

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from conftest import EXAMPLE, Program, World, eventually, settled
from redis.asyncio import Redis

pytestmark = pytest.mark.asyncio

VALUES: list[Any] = [None, True, False, 0, -1.5, "", "Zoë", [], {"a": [{"b": "\N{RABBIT FACE}"}]}]
NO_EVENTS = [
    b"\xff",
    b"[1]",
    b'{"action": "S", "data": ["x"]}',
    b'{"action": "EVT"}',
    b'{"action": "EVT", "data": ["x", "Nx"]}',
    b'{"action": "EVT", "data": ["x", "NNaN"]}',
    b'{"action": "EVT", "data": [["x"], "Sx"]}',
    b'{"action": ' + 100_000 * b"[",
]
NO_MESSAGES: list[Any] = [None, {}, {"message": {"action": 2}}, {"message": {"action": 2, "name": "x", "data": "x"}}]


async def start_bridge(world: World) -> Program:
    """Start the bridge as a user does, and return when it listens on both sides."""
    url, path = world.broker.url, os.pathsep.join(sys.path)
    program = [sys.executable, EXAMPLE / "bridge.py", url]
    bridge = await world.start(*program, DEEPSTREAM_MSG_REDIS_URL=url, PYTHONPATH=path)
    await bridge.until_line("Listening to the channel E.")
    return bridge


async def test_events_cross_the_bridge_both_ways_and_none_is_doubled(world: World) -> None:
    first, second = await world.old_server("first"), await world.old_server("second")
    _, new = await world.server("new")
    node = await world.node()
    python: list[Any] = []
    await node.listen("from old", python.append)
    for client in (first, second, new):
        for name in ("from old", "from new", "from Python", "last"):
            client.tell("subscribe", name)
    await settled(node, new)
    await start_bridge(world)
    for value in VALUES:
        first.tell("emit", "from old", value)
        new.tell("emit", "from new", value)
        await node.emit("from Python", value)
    for client in (first, second, new):
        for name in ("from old", "from new", "from Python"):
            if (client, name) != (first, "from old"):
                await client.until_heard(name, len(VALUES))
    await eventually(lambda: len(python) >= len(VALUES), lambda: python)
    second.tell("emit", "last")
    await node.emit("last")
    for client in (first, new):
        await client.until_heard("last", 2)
    assert python == VALUES
    assert first.heard("from old") == []
    for client in (second, new):
        assert client.heard("from old") == VALUES
    for client in (first, second, new):
        assert client.heard("from Python") == VALUES
    for client in (first, second):
        assert client.heard("from new") == VALUES


async def test_what_is_no_event_of_an_old_server_is_left_out(world: World) -> None:
    _, new = await world.server("new")
    new.tell("subscribe", "x")
    bridge = await start_bridge(world)
    async with Redis(port=world.broker.port) as redis:
        for payload in NO_EVENTS:
            await redis.publish("E", payload)
        await redis.publish("E", json.dumps({"topic": "E", "action": "EVT", "data": ["x", "Sgood"], "_s": "other"}))
    await new.until_heard("x", 1)
    assert new.heard("x") == ["good"]
    assert len([line for line in bridge.lines if "WARNING" in line]) == len(NO_EVENTS) - 1


async def test_the_bridge_is_there_again_after_the_broker(world: World) -> None:
    _, new = await world.server("new")
    new.tell("subscribe", "from old")
    bridge = await start_bridge(world)
    await world.broker.restart()
    await bridge.until(lambda: sum("Listening" in line for line in bridge.lines) == 2, "listening again")
    async with Redis(port=world.broker.port) as redis:
        await redis.publish("E", json.dumps({"topic": "E", "action": "EVT", "data": ["from old", "N1"], "_s": "other"}))
    await new.until_heard("from old", 1)
    assert new.heard("from old") == [1]


async def test_what_is_no_event_of_a_new_server_is_left_out(world: World) -> None:
    old = await world.old_server("old")
    old.tell("subscribe", "x")
    await old.until(lambda: any(what["is"] == "subscribed" for what in old.said), "the subscription")
    node = await world.node()
    bridge = await start_bridge(world)
    for message in NO_MESSAGES:
        await node.connector.publish("EVENT", message)
    await node.emit("x", "good")
    await old.until_heard("x", 1)
    assert old.heard("x") == ["good"]
    assert len([line for line in bridge.lines if "WARNING" in line]) == len(NO_MESSAGES)


async def test_a_message_that_the_old_redis_refuses_stops_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    from bridge import OldWire

    world.broker.ask("ACL SETUSER", "bridge", "on", ">secret", "+@all", "&EVENT")
    async with aclosing(OldWire(world.broker.url.replace("//", "//bridge:secret@"))) as old:
        await old.publish("E", {})
    assert "The old Redis refuses a message: " in caplog.text


@asynccontextmanager
async def reading(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Read an event from the old Redis, over a connection that counts as lost when it has been silent for 0.2 s.

    The event is published when the block is left.
    """
    import bridge

    monkeypatch.setattr(bridge, "SILENCE", 0.2)
    async with aclosing(bridge.OldWire(world.broker.url)) as old, aclosing(old.messages("E")) as messages:
        message = asyncio.ensure_future(anext(messages))
        yield
        world.broker.ask("PUBLISH", "E", '{"action": "EVT"}')
        assert await message == {"action": "EVT"}


async def test_a_silent_connection_to_the_old_redis_is_noticed(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with reading(world, monkeypatch):
        await eventually(lambda: "Listening" in caplog.text, lambda: caplog.text)
        world.broker.freeze()
        await eventually(lambda: "does not answer" in caplog.text, lambda: caplog.text)
        world.broker.thaw()
        await eventually(lambda: caplog.text.count("Listening") == 2, lambda: caplog.text)


async def test_a_quiet_connection_to_the_old_redis_is_kept(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def pings() -> int:
        found = world.broker.ask("INFO", "commandstats").get("cmdstat_ping", {"calls": 0})
        return int(found["calls"])

    caplog.set_level(logging.INFO)
    async with reading(world, monkeypatch):
        before = pings()
        await eventually(lambda: pings() > before + 4, pings)
    assert caplog.text.count("Listening") == 1
