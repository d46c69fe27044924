"""The fixtures of the pack."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
from pydantic import SecretStr

from ..broker import Broker
from ..subject import Settings
from . import blanks
from .blanks import TEST_URL
from .nodes import PATIENCE, Host, Node, Wire
from .proxy import Proxy
from .server import Missing, Server

FAST = {"heartbeat": 1.2, "reconnect_delay_min": 0.02, "reconnect_delay_max": 0.2, "connect_timeout": 10.0}
"""Settings under which recovery takes no longer than a busy machine needs to be told from a dead one."""

MakeNode = Callable[..., Awaitable[Any]]

Serve = Callable[..., Any]

MakeHost = Callable[[], Awaitable[Host]]


class Elsewhere(Broker):
    """A broker that somebody else runs."""

    url = os.environ.get(TEST_URL, "")


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The broker: the one that the environment names, or one that is started for the tests."""
    if Elsewhere.url:
        Server.used = "elsewhere"
        yield Elsewhere(Path())
        return
    broker = Broker(tmp_path_factory.mktemp("broker"))
    try:
        start(broker)
        Server.used = f"on {broker.version()}"
    except NotImplementedError:
        pass
    try:
        yield broker
    finally:
        broker.stop()


def start(server: Server) -> None:
    """Start a server; where it is missing, skip the test, or fail it if REQUIRE_BROKERS=1 asks for it."""
    try:
        server.start()
    except Missing as missing:
        if os.environ.get("REQUIRE_BROKERS") == "1":
            pytest.fail(f"{missing}; REQUIRE_BROKERS=1 asks for it", pytrace=False)
        pytest.skip(f"{missing}; or set {TEST_URL}")


@pytest.fixture
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Starts a server besides the one of all tests, of another kind or with attributes of its own."""
    servers: list[Server] = []

    def serve(kind: type[Server] = Broker, **attributes: Any) -> Server:
        server = kind(tmp_path_factory.mktemp("server"))
        vars(server).update(attributes)
        servers.append(server)
        start(server)
        return server

    yield serve
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def given(request: pytest.FixtureRequest) -> Settings:
    """The settings with which the tests connect: the `settings` fixture's, at the url that the environment names."""
    if not Elsewhere.url:
        return cast(Settings, request.getfixturevalue("settings"))
    if blanks.is_written("settings"):
        return altered(request.getfixturevalue("settings"), url=Elsewhere.url)
    return Settings(url=SecretStr(Elsewhere.url))


def altered(settings: Settings, **changes: Any) -> Settings:
    """Return settings with changes, for another node."""
    return type(settings)(**{**settings.model_dump(exclude={"node_name"}), **changes})


@pytest.fixture
def change(given: Settings) -> Callable[..., Settings]:
    """The settings of the tests, with changes; each time with another node's name."""

    def change(**changes: Any) -> Settings:
        return altered(given, **{**FAST, **changes})

    return change


@pytest.fixture
async def node(change: Callable[..., Settings], proxy: Proxy) -> AsyncIterator[MakeNode]:
    """Makes a connected node; `kind=` is another class than `Node`, `connect=False` leaves that to the test.

    At the end each is closed, and those that were not declared `noisy=True` must have emitted no error.
    """
    nodes: list[tuple[Node, bool]] = []

    async def make(kind: type[Node] = Node, connect: bool = True, noisy: bool = False, **changes: Any) -> Node:
        made = kind(change(**changes))
        nodes.append((made, noisy))
        if connect:
            await made.connect()
        return made

    yield make
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(made.close() for made, _ in nodes))
    for made, noisy in nodes:
        assert noisy or not made.errors.items, f"unexpected error events: {made.errors.items}"


@pytest.fixture
async def host(given: Settings) -> AsyncIterator[MakeHost]:
    """Starts hosts, each a process of its own, which have ended or are killed when the test is over."""
    hosts: list[Host] = []

    async def make() -> Host:
        hosts.append(host := Host())
        await host.start(given)
        return host

    yield make
    for host in hosts:
        await host.kill()


@pytest.fixture
async def proxy(given: Settings, broker: Broker) -> AsyncIterator[Proxy]:
    """A proxy in front of the broker; `through` has the settings for it."""
    proxy = Proxy(broker.target(given.url.get_secret_value()), broker.proxy_port)
    await proxy.start()
    yield proxy
    await proxy.close()


@pytest.fixture
def through(given: Settings, broker: Broker, proxy: Proxy) -> str:
    """The url of the broker by way of the proxy."""
    return broker.through(given.url.get_secret_value(), proxy.port)


@pytest.fixture
async def wire(change: Callable[..., Settings]) -> AsyncIterator[Wire]:
    """A connected bare transport."""
    wire = Wire(change())
    await wire.transport.connect()
    yield wire
    await wire.transport.close()


@pytest.fixture
def topic() -> str:
    """A topic that no other test uses."""
    return f"topic-{uuid4().hex}"
