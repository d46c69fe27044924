"""Servers of python-socketio in one process, joined through a broker: rooms, answers, binary data, and outages."""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest
import socketio
from aiohttp import web
from baking import blocks
from hosting import PATIENCE, Package, unsent

pytestmark = pytest.mark.timeout(2 * PATIENCE)  # also where a loop never ends, and nothing on it can time out


class Joined:
    """Makes servers that are joined, and clients of them."""

    def __init__(self, package: Package, broker: Any) -> None:
        self.package = package
        self.broker = broker
        self.adapter: Any = package.module("hosts.socketio")
        self._logs: list[Log] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for log in self._logs:
            logging.getLogger(self.package.name).removeHandler(log)

    def log(self) -> "Log":
        """Return what is logged by the connectors from now on, and to its own `logger`."""
        log = Log()
        self._logs.append(log)
        logging.getLogger(self.package.name).addHandler(log)
        return log

    def settings(self, **settings: Any) -> Any:
        return self.package.module().Settings(url=self.broker.url, reconnect_delay_max=0.5, **settings)

    def manager(self, channel: str = "socketio", **settings: Any) -> Any:
        return self.adapter.ConnectorManager(self.package.module().Connector(self.settings(**settings)), channel)

    @asynccontextmanager
    async def server(self, manager: Any = None, **options: Any) -> AsyncIterator["Server"]:
        """Serve, with a manager of its own unless it is given."""
        manager = manager or self.manager()
        server = Server(async_mode="aiohttp", client_manager=manager, **options)
        application = web.Application()
        server.attach(application)
        runner = web.AppRunner(application, shutdown_timeout=1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            server.port = runner.addresses[0][1]
            yield server
        finally:
            await server.shutdown()
            await runner.cleanup()
            await manager.connector.close()

    @asynccontextmanager
    async def two(self, *managers: Any, **options: Any) -> AsyncIterator[tuple["Server", "Server", "Client", "Client"]]:
        """Lend two servers, with these managers, and a client of each; both clients hear the first server."""
        here, there = managers or (None, None)
        async with (
            self.server(here, **options) as first,
            self.server(there) as second,
            client(first.port) as mine,
            client(second.port) as other,
        ):
            await both_hear(first, mine, other)
            yield first, second, mine, other

    @contextmanager
    def blocking(self) -> Iterator[Any]:
        with self.package.module().BlockingConnector(self.settings()) as connector:
            yield connector


class Server(socketio.AsyncServer):  # type: ignore[misc]
    """A server, and where it is."""

    port: int


class Client:
    """A client that takes down what it hears, and answers a question."""

    def __init__(self, namespace: str, news: str) -> None:
        self.namespace = namespace
        self.heard: list[Any] = []
        self.left = asyncio.Event()
        self._news = asyncio.Event()
        self.client = socketio.AsyncClient(reconnection=False)
        for event, handler in ((news, self._hear), ("question", self._answer), ("disconnect", self._leave)):
            self.client.on(event, handler, namespace=namespace)

    @property
    def sid(self) -> str:
        found: str = self.client.get_sid(self.namespace)
        return found

    def _hear(self, data: Any) -> None:
        self.heard.append(data)
        self._news.set()

    def _answer(self, first: Any, second: Any) -> Any:
        return [second, first], self.sid

    def _leave(self, reason: str) -> None:
        self.left.set()

    async def until(self, data: Any) -> list[Any]:
        """Return what it has heard, when it has heard this."""
        while data not in self.heard:
            self._news.clear()
            await self._news.wait()
        return self.heard


@asynccontextmanager
async def client(port: int, namespace: str = "/", news: str = "news", **options: Any) -> AsyncIterator[Client]:
    client = Client(namespace, news)
    options = {"transports": ["websocket"], **options}
    await client.client.connect(f"http://127.0.0.1:{port}", namespaces=[namespace], **options)
    try:
        yield client
    finally:
        await client.client.disconnect()


def run(scene: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
    """Run a scene within a time."""
    asyncio.run(asyncio.wait_for(scene(*arguments), PATIENCE))


def alone(scene: Callable[["Joined"], Coroutine[Any, Any, None]]) -> Callable[[Package, Any], None]:
    """Make a test of a scene, on a broker."""

    def test(package: Package, own_broker: Any) -> None:
        with Joined(package, own_broker) as joined:
            run(scene, joined)

    test.__doc__ = scene.__doc__
    return test


Two = Callable[[Server, Server, Client, Client], Awaitable[None]]


def of_two(scene: Two) -> Callable[[Package, Any], None]:
    """Make a test of a scene with two servers and a client of each."""

    async def with_clients(joined: Joined) -> None:
        async with joined.two() as two:
            await scene(*two)

    return alone(with_clients)


async def both_hear(here: Server, mine: Client, other: Client) -> None:
    """Return when what a server emits reaches both clients."""
    await here.emit("news", "ready")
    await asyncio.gather(mine.until("ready"), other.until("ready"))
    mine.heard.clear()
    other.heard.clear()


@of_two
async def test_all_clients_hear_what_is_emitted_in_order_and_once(
    here: Server, there: Server, mine: Client, other: Client
) -> None:
    for number in range(200):
        await here.emit("news", number)
    for each in (mine, other):
        assert await each.until(199) == list(range(200))


@of_two
async def test_a_room_hears_what_is_emitted_to_it(here: Server, there: Server, mine: Client, other: Client) -> None:
    await there.enter_room(other.sid, "room")
    await here.emit("news", "for the room", to="room")
    await here.emit("news", "for two rooms", to=["another", "room"])
    await here.emit("news", "for all")
    assert await mine.until("for all") == ["for all"]
    assert await other.until("for all") == ["for the room", "for two rooms", "for all"]


@of_two
async def test_a_client_that_is_skipped_hears_nothing(here: Server, there: Server, mine: Client, other: Client) -> None:
    await here.emit("news", "not for the other", skip_sid=other.sid)
    await here.emit("news", "for none of them", skip_sid=[mine.sid, other.sid])
    await here.emit("news", "for all")
    assert await mine.until("for all") == ["not for the other", "for all"]
    assert await other.until("for all") == ["for all"]


@of_two
async def test_one_client_of_another_server_is_reached(
    here: Server, there: Server, mine: Client, other: Client
) -> None:
    await here.emit("news", "for one", to=other.sid)
    await here.emit("news", "for all")
    assert await mine.until("for all") == ["for all"]
    assert await other.until("for all") == ["for one", "for all"]


@of_two
async def test_bytes_arrive_as_bytes(here: Server, there: Server, mine: Client, other: Client) -> None:
    data = {"bytes": [b"\x00\xff", {"more": bytearray(b"")}], "text": "ä\ud800"}
    await here.emit("news", data)
    await here.emit("news", "after")
    for each in (mine, other):
        assert await each.until("after") == [{**data, "bytes": [b"\x00\xff", {"more": b""}]}, "after"]


@of_two
async def test_a_client_of_another_server_answers(here: Server, there: Server, mine: Client, other: Client) -> None:
    assert await here.call("question", (1, {"two": 2}), to=other.sid) == ([{"two": 2}, 1], other.sid)
    assert await there.call("question", ("a", "b"), to=other.sid) == (["b", "a"], other.sid)


@of_two
async def test_another_servers_clients_are_moved_between_rooms(
    here: Server, there: Server, mine: Client, other: Client
) -> None:
    await here.enter_room(other.sid, "room")
    await here.emit("news", "entered", to="room")
    await here.leave_room(other.sid, "room")
    await here.emit("news", "left", to="room")
    await here.enter_room(other.sid, "room")
    await here.emit("news", "entered again", to="room")
    await here.close_room("room")
    await here.emit("news", "closed", to="room")
    await here.emit("news", "for all")
    assert await other.until("for all") == ["entered", "entered again", "for all"]
    assert mine.heard == ["for all"]


@of_two
async def test_another_servers_client_is_disconnected(here: Server, there: Server, mine: Client, other: Client) -> None:
    await here.disconnect(other.sid)
    await other.left.wait()
    assert not mine.left.is_set()


@alone
async def test_namespaces_are_apart(joined: Joined) -> None:
    async with joined.server() as here, joined.server() as there:
        for server in (here, there):
            server.on("connect", lambda sid, environ: None, namespace="/apart")
        async with (
            client(here.port, "/apart") as mine,
            client(there.port, "/apart") as other,
            client(there.port) as stranger,
        ):
            await here.emit("news", "apart", namespace="/apart")
            await asyncio.gather(mine.until("apart"), other.until("apart"))
            await here.emit("news", "not apart")
            assert await stranger.until("not apart") == ["not apart"]


@alone
async def test_channels_are_apart(joined: Joined) -> None:
    one, another, third = joined.manager("one"), joined.manager("another"), joined.manager("another")
    async with (
        joined.two(another, third) as (here, _, _, other),
        joined.server(one) as apart,
        client(apart.port) as stranger,
    ):
        await apart.emit("news", "one")
        await stranger.until("one")
        await here.emit("news", "another")
        assert await other.until("another") == ["another"]
        await apart.emit("news", "done")
        assert await stranger.until("done") == ["one", "done"]


@alone
async def test_the_json_of_the_server_is_used(joined: Joined) -> None:
    """What a server can send to its own clients, it can send to those of the others."""
    async with joined.two() as (here, _, mine, other):
        for number in (2**70, 1.5, float("inf")):
            await here.emit("news", {"number": number})
            for each in (mine, other):
                await each.until({"number": number})


FORKED = """
import os, signal, socket, socketio, uvicorn
from deepstream_msg_redis import Connector, Settings
from deepstream_msg_redis.hosts.socketio import ConnectorManager

server = socketio.AsyncServer(async_mode="asgi", client_manager=ConnectorManager(Connector(Settings())))

@server.on("say")
async def say(sid, data):
    await server.emit("news", data)

places = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(place.getsockname()[1] for place in places), flush=True)
place = places[os.fork() == 0]
signal.alarm(60)
uvicorn.Server(uvicorn.Config(socketio.ASGIApp(server), log_level="warning")).run([place])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@alone
async def test_servers_that_were_forked_from_one_hear_each_other(joined: Joined) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        FORKED,
        env=environment(joined.package, joined.broker),
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout
    try:
        here, there = (await process.stdout.readline()).split()
        async with client(int(here)) as mine, client(int(there)) as other:
            await mine.client.emit("say", "hello")
            await asyncio.gather(mine.until("hello"), other.until("hello"))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


@alone
async def test_servers_come_up_before_the_broker(joined: Joined) -> None:
    joined.broker.stop()
    async with (
        joined.server() as here,
        joined.server() as there,
        client(here.port) as mine,
        client(there.port) as other,
    ):
        await here.emit("news", "early")
        await mine.until("early")
        joined.broker.spawn()
        await asyncio.to_thread(joined.broker.wait_until_ready)
        await here.emit("news", "late")
        assert await other.until("late") == ["early", "late"]
        assert mine.heard == ["early", "late"]


@alone
async def test_nothing_is_lost_in_an_outage(joined: Joined) -> None:
    async with joined.two() as (here, _, mine, other):
        await asyncio.to_thread(joined.broker.stop)
        for number in range(100):
            await here.emit("news", number)
        await mine.until(99)
        joined.broker.spawn()
        for each in (mine, other):
            assert await each.until(99) == list(range(100))


@alone
async def test_a_loss_is_told_and_logged(joined: Joined) -> None:
    log = joined.log()
    sending, hearing = joined.manager(publish_timeout=0.5, heartbeat=0.5), joined.manager(heartbeat=0.5)
    async with joined.two(sending, hearing, logger=log.logger) as (here, there, _, other):

        def missed() -> None:
            there.start_background_task(there.emit, "news", "missed", ignore_queue=True)

        joined.package.module("hosts.losses").watch(hearing.connector, "socketio", missed)
        await asyncio.to_thread(joined.broker.stop)
        await here.emit("news", "lost")
        await log.until("of this node may be lost")
        joined.broker.spawn()
        await other.until("missed")
        await here.emit("news", "not lost")
        assert await other.until("not lost") == ["missed", "not lost"]


@alone
async def test_an_event_that_is_too_large_is_refused(joined: Joined) -> None:
    async with joined.two(joined.manager(max_message_bytes=1000), joined.manager()) as (here, _, _, other):
        with pytest.raises(joined.package.module().Connector.errors.MessageTooLargeError):
            await here.emit("news", "x" * 1000)
        await here.emit("news", "small")
        assert await other.until("small") == ["small"]


@alone
async def test_a_server_that_may_not_listen_says_so_and_serves(joined: Joined) -> None:
    log = joined.log()
    async with joined.server(joined.manager("CONTROL"), logger=log.logger) as here, client(here.port) as mine:
        await log.until(
            "does not receive messages from the others; while it runs, it tries again every 5 s: topic = 'CONTROL'"
        )
        await here.emit("news", "served", ignore_queue=True)
        await mine.until("served")


@alone
async def test_a_server_whose_connector_is_another_loops_says_so_and_serves(joined: Joined) -> None:
    async def itself(connector: Any) -> Any:
        return connector

    log = joined.log()
    with joined.blocking() as elsewhere:
        manager = joined.adapter.ConnectorManager(elsewhere.submit(itself).result())
        async with joined.server(manager, logger=log.logger) as here, client(here.port) as mine:
            await log.until("BlockingConnector")
            await here.emit("news", "served", ignore_queue=True)
            await mine.until("served")
            elsewhere.close()


@alone
async def test_a_server_goes_on_for_its_own_clients_when_its_connector_is_closed(joined: Joined) -> None:
    log = joined.log()
    manager = joined.manager()
    async with joined.two(manager, joined.manager(), logger=log.logger) as (here, _, mine, _):
        await manager.connector.close()
        await asyncio.wait([manager.thread])
        assert not log.lines
        await here.emit("news", "closed")
        await mine.until("closed")
        await log.until("of this node may be lost")


@alone
async def test_a_connector_is_closed_before_it_has_found_its_broker(joined: Joined) -> None:
    log = joined.log()
    joined.broker.stop()
    manager = joined.manager()
    async with joined.server(manager, logger=log.logger) as here, client(here.port):
        await manager.connector.close()
        await asyncio.wait([manager.thread])
        assert not any("hear the others" in line or "unexpected" in line for line in log.lines)


@alone
async def test_the_first_emit_starts_a_server_that_has_no_clients(joined: Joined) -> None:
    async with joined.server() as here, joined.server() as there, client(there.port) as other:
        await here.emit("news", "first")
        assert await other.until("first") == ["first"]


@alone
async def test_a_server_that_emits_without_end_lets_others_run(joined: Joined) -> None:
    async with joined.server() as here:
        turn = asyncio.create_task(asyncio.sleep(0))
        for _ in range(10):
            await here.emit("news", "on and on")
        assert turn.done()


@alone
async def test_a_worker_emits_without_a_server(joined: Joined) -> None:
    async with joined.two() as (_, _, mine, other):
        async with joined.manager().connector as connector:
            manager = joined.adapter.ConnectorManager(connector, write_only=True)
            await manager.emit("news", {"from": "a worker"}, room=other.sid)
            await manager.emit("news", "done")
        assert await mine.until("done") == ["done"]
        assert await other.until("done") == [{"from": "a worker"}, "done"]


@alone
async def test_threads_emit_without_an_event_loop(joined: Joined) -> None:
    async with joined.two() as (_, _, mine, other):
        await asyncio.to_thread(emit_in_threads, joined, other.sid)
        *numbers, last = await mine.until("done")
        assert sorted(numbers) == list(range(16))
        assert await other.until("done") == [*numbers, {"bytes": b"\x00", "number": 2**70}, last]


def emit_in_threads(joined: Joined, room: str) -> None:
    with joined.blocking() as connector:
        manager = joined.adapter.BlockingConnectorManager(connector, write_only=True)
        threads = [threading.Thread(target=manager.emit, args=("news", number)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        manager.emit("news", {"bytes": b"\x00", "number": 2**70}, room=room)
        manager.emit("news", "done")


@alone
async def test_a_thread_does_not_wait_for_a_broker_that_is_away(joined: Joined) -> None:
    async with joined.two() as (_, _, mine, other):
        await asyncio.to_thread(joined.broker.stop)
        with joined.blocking() as connector:
            manager = joined.adapter.BlockingConnectorManager(connector, write_only=True)
            for number in range(10):
                await asyncio.to_thread(manager.emit, "news", number)
            joined.broker.spawn()
            for each in (mine, other):
                assert await each.until(9) == list(range(10))


@alone
async def test_a_thread_that_emits_is_told_that_its_connector_is_closed(joined: Joined) -> None:
    with joined.blocking() as connector:
        manager = joined.adapter.BlockingConnectorManager(connector, write_only=True)
    with pytest.raises(joined.package.module().Connector.errors.ClosedError):
        await asyncio.to_thread(manager.emit, "news", "closed")


@alone
async def test_what_waits_for_the_broker_is_bounded_and_the_rest_is_logged(joined: Joined) -> None:
    log = joined.log()
    joined.broker.stop()
    async with joined.server(joined.manager(max_outbox_bytes=1000)) as here:
        for _ in range(20):
            await here.emit("news", "x" * 100)
        await log.until("would exceed max_outbox_bytes = 1000")
    told = unsent(log.lines)
    assert sum(count for count, _ in told) == 20
    assert len(told) < 5


@alone
async def test_what_waits_for_the_broker_of_a_thread_is_bounded_and_the_rest_is_logged(joined: Joined) -> None:
    log = joined.log()
    joined.broker.stop()
    connector = joined.package.module().BlockingConnector(
        joined.settings(max_outbox_bytes=1000, publish_timeout=1, connect_timeout=1)
    )
    with connector:
        manager = joined.adapter.BlockingConnectorManager(connector, write_only=True)
        for _ in range(20):
            await asyncio.to_thread(manager.emit, "news", "x" * 100)
        await log.until("would exceed max_outbox_bytes = 1000")


@alone
async def test_a_server_of_threads_is_joined_with_the_others(joined: Joined) -> None:
    with joined.blocking() as connector:
        manager = joined.adapter.BlockingConnectorManager(connector)
        server = socketio.Server(async_mode="threading", client_manager=manager, ping_interval=5)
        with threaded(socketio.WSGIApp(server)) as port:
            async with (
                joined.server() as here,
                client(here.port) as mine,
                client(port, transports=["polling"]) as other,
            ):
                while not other.heard:  # unlike the others, this server has clients before it hears the rest
                    await here.emit("news", "ready")
                    await asyncio.sleep(0.05)
                await asyncio.to_thread(server.emit, "news", b"from a thread")
                await asyncio.to_thread(server.emit, "news", "done")
                assert (await mine.until("done"))[-2:] == [b"from a thread", "done"]
                assert await here.call("question", (1, 2), to=other.sid) == ([2, 1], other.sid)
                assert await asyncio.to_thread(server.call, "question", (1, 2), to=mine.sid) == ([2, 1], mine.sid)


@alone
async def test_a_server_of_threads_that_may_not_listen_says_so_and_serves(joined: Joined) -> None:
    log = joined.log()
    with joined.blocking() as connector, pytest.MonkeyPatch.context() as patch:
        patch.setattr(joined.package.module("hosts.joining"), "RETRY", 0.1)
        manager = joined.adapter.BlockingConnectorManager(connector, "CONTROL")
        server = socketio.Server(async_mode="threading", client_manager=manager, logger=log.logger, ping_interval=5)
        with threaded(socketio.WSGIApp(server)) as port:
            async with client(port, transports=["polling"]) as mine:
                await log.until("does not receive messages from the others")
                await asyncio.to_thread(server.emit, "news", "served", ignore_queue=True)
                await mine.until("served")
        await asyncio.to_thread(connector.close)
        await asyncio.to_thread(manager.thread.join)


def test_the_code_of_the_guide_runs_as_printed(package: Package, own_broker: Any, tmp_path: Path) -> None:
    _, worker = blocks("docs/socketio.md", "python")

    async def scene(programs: list[Any]) -> None:
        here, there = (program.port for program in programs)
        async with client(here, news="chat") as mine, client(there, news="chat") as other:
            for number in range(100):
                await mine.client.emit("chat", number)
            for each in (mine, other):
                assert await each.until(99) == list(range(100))
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", worker, env=environment(package, own_broker)
            )
            assert await process.wait() == 0
            for each in (mine, other):
                assert (await each.until("from a worker"))[100:] == ["from a worker"]

    with package.printed(tmp_path, own_broker, "socketio.md") as programs:
        run(scene, programs)


def environment(package: Package, broker: Any) -> dict[str, str]:
    """The environment of a program that finds the package and the broker."""
    return {**os.environ, "PYTHONPATH": str(package.source), "DEEPSTREAM_MSG_REDIS_URL": broker.url}


class Log(logging.Handler):
    """Takes down what is logged, also to its own `logger`."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.logger = logging.Logger("log")
        self.logger.addHandler(self)
        self.lines: list[str] = []
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self._loop.call_soon_threadsafe(self._news.set)

    async def until(self, text: str) -> None:
        """Return when a line was logged that holds a text."""
        while not any(text in line for line in self.lines):
            self._news.clear()
            await self._news.wait()


class ThreadedServer(ThreadingMixIn, WSGIServer):
    """A thread for each request."""

    daemon_threads = True


class Silent(WSGIRequestHandler):
    """Logs no requests."""

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def threaded(application: Any) -> Iterator[int]:
    """Serve with threads; lend the port."""
    server = make_server("127.0.0.1", 0, application, ThreadedServer, Silent)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
