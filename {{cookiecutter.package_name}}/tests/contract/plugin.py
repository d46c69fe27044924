"""The fixtures of the pack."""

import asyncio
import gc
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn, cast
from uuid import uuid4

import hypothesis
import pytest
from hypothesis.configuration import set_hypothesis_home_dir
from pydantic import SecretStr, ValidationError

from ..broker import Broker
from ..subject import BrokerTransport, Connector, Settings
from . import blanks
from .basics import has_trouble, note_trouble
from .blanks import TEST_URL
from .brief import mistake_in, place_of, said, told
from .certificates import Authority
from .nodes import ENOUGH, HASTE, WAITED, Host, Node, Wire, patience
from .proxy import Proxy
from .public import FAST, Change, MakeHost, MakeNode, ProxyFor, Serve
from .report import BROKER, TROUBLE
from .server import Missing, Server
from .verdicts import FOR_BROKER


def pytest_runtest_setup(item: pytest.Item) -> None:
    if {"broker", "given", "serve"} & set(getattr(item, "fixturenames", ())) and has_trouble(item.config):
        pytest.skip(FOR_BROKER)


def give_up(config: pytest.Config, text: str) -> NoReturn:
    """Fail one test for the trouble that all have, and let the others wait."""
    note_trouble(config)
    config.stash[TROUBLE] = text
    raise pytest.fail.Exception(text, pytrace=False) from None


def pytest_configure(config: pytest.Config) -> None:
    """Have Hypothesis keep nothing in the project's folder, which may be read-only."""
    folder = TemporaryDirectory()
    config.add_cleanup(folder.cleanup)
    set_hypothesis_home_dir(folder.name)
    hypothesis.settings.register_profile("pack", database=None, deadline=None)
    hypothesis.settings.load_profile("pack")


class Elsewhere(Broker):
    """A broker that somebody else runs."""

    url = os.environ.get(TEST_URL, "")


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Broker]:
    """The broker: the one that the environment names, or one that is started for the tests."""
    if Elsewhere.url:
        pytestconfig.stash[BROKER] = "elsewhere"
        yield Elsewhere(Path())
        return
    broker = Broker(tmp_path_factory.mktemp("broker"))
    try:
        if not {"command", "url"} & {blank.name for blank in blanks.open_blanks()}:
            try:
                broker.start()
                pytestconfig.stash[BROKER] = f"on {broker.version()}"
            except NotImplementedError:
                pass
            except Missing:
                raise
            except Exception as error:
                reason = f"Broker did not start: {told(error)}{broker.last_lines()}"
                give_up(pytestconfig, f"tests/broker.py: {error if type(error) is RuntimeError else reason}")
        yield broker
    finally:
        broker.stop()


@pytest.fixture
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Starts a server besides the one of all tests, of another kind or with attributes of its own."""
    servers: list[Server] = []

    def serve(kind: type[Server] = Broker, **attributes: Any) -> Server:
        server = kind(tmp_path_factory.mktemp("server"))
        vars(server).update(attributes)
        servers.append(server)
        server.start()
        return server

    yield serve
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Signs certificates for servers and clients."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def given(request: pytest.FixtureRequest, broker: Broker) -> Settings:
    """The settings with which the tests connect: the `settings` fixture's, at the url that the environment names."""
    try:
        if not Elsewhere.url:
            settings = cast(Settings, request.getfixturevalue("settings"))
        elif blanks.is_written("settings"):
            settings = altered(request.getfixturevalue("settings"), url=Elsewhere.url)
        else:
            settings = Settings(url=SecretStr(Elsewhere.url))
    except ValidationError as error:
        source = f"the url in {TEST_URL}" if Elsewhere.url else "tests/settings.py"
        give_up(request.config, f"The settings of the tests cannot be used, because of {source}: {error}")
    except Missing:
        raise
    except Exception as error:
        give_up(request.config, f"The settings of the tests cannot be made: {told(error)}")
    if not (blanks.is_written("publish") and blanks.is_written("subscribe")):
        BrokerTransport.keeps_messages = True  # so that nodes do without the control topic while they must
    if blanks.is_written("connect"):
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, try_to_connect(request.config, altered(settings, **FAST), broker)).result()
        if said := left_open():
            give_up(request.config, f"After `close`, something that `connect` has opened is still open: {said[0]}")
    return settings


async def try_to_connect(config: pytest.Config, settings: Settings, broker: Broker) -> None:
    """Let all tests wait if the broker cannot be reached."""
    connector = Connector(settings)
    try:
        await connector.connect()
    except Exception as error:
        if mistake_in(error):
            give_up(config, f"The tests cannot connect: {told(error)}")
        place = place_of(error.__cause__) if error.__cause__ else ""
        where = f" Raised at {place}." if place else ""
        give_up(
            config,
            "The tests cannot connect, with the settings of tests/settings.py and the `connect` that is there. "
            f"{error}{where}{broker.last_lines()}",
        )
    finally:
        await connector.close()


def left_open() -> list[str]:
    """Return what finalizers say about what nobody has closed."""
    said: list[str] = []
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: said.append(str(unraisable.exc_value))
    try:
        gc.collect()
    finally:
        sys.unraisablehook = hook
    return said


def altered(settings: Settings, **changes: Any) -> Settings:
    """Return settings with changes."""
    return type(settings)(**{**settings.model_dump(exclude_unset=True), **changes})


@pytest.fixture
def change(given: Settings, pytestconfig: pytest.Config) -> Change:
    """The settings of the tests, with changes; once too many waits were in vain, no wait for a broker is long."""
    is_hasty = len(pytestconfig.stash[WAITED]) >= ENOUGH

    def change(**changes: Any) -> Settings:
        changed = {**FAST, **changes}
        if is_hasty:
            changed["publish_timeout"] = min(HASTE, changed.get("publish_timeout", HASTE))
        return altered(given, **changed)

    return change


@pytest.fixture
async def node(change: Change, proxy: Proxy, serve: Serve, proxy_for: ProxyFor) -> AsyncIterator[MakeNode]:
    """Makes a connected node; `kind=` is another class than `Node`, `connect=False` leaves that to the test.

    At the end each is closed, before the servers and proxies that it may talk to, and those that were not declared `noisy=True` must have emitted no error.
    """
    nodes: list[tuple[Node, bool]] = []

    async def make(kind: type[Node] = Node, connect: bool = True, noisy: bool = False, **changes: Any) -> Node:
        made = kind(change(**changes))
        nodes.append((made, noisy))
        if connect:
            await made.connect()
        return made

    yield make
    async with patience():
        await asyncio.gather(*(made.close() for made, _ in nodes))
    for made, noisy in nodes:
        if made.errors.items and not noisy:
            counts = Counter(map(said, made.errors.items))
            pytest.fail(
                "unexpected error events: " + "; ".join(f"{count} times {text}" for text, count in counts.items())
            )


@pytest.fixture
async def host(given: Settings) -> AsyncIterator[MakeHost]:
    """Starts hosts, each in a process of its own; those still running when the test is over are killed."""
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
    proxy = Proxy(broker.targets(given), broker.proxy_ports)
    await proxy.start()
    yield proxy
    await proxy.close()


@pytest.fixture
def through(given: Settings, broker: Broker, proxy: Proxy) -> dict[str, Any]:
    """The changes of the settings that lead a node's connections through the proxy."""
    return broker.through(given, proxy.ports)


@pytest.fixture
async def proxy_for() -> AsyncIterator[ProxyFor]:
    """Puts a proxy in front of a server that `serve` has started; `at_port(server.url, proxy.port)` leads through it."""
    proxies: list[Proxy] = []

    async def proxy_for(server: Server) -> Proxy:
        proxies.append(proxy := Proxy({"url": ("127.0.0.1", server.port)}, {"url": 0}))
        await proxy.start()
        return proxy

    yield proxy_for
    for proxy in proxies:
        await proxy.close()


@pytest.fixture
async def wire(change: Change) -> AsyncIterator[Wire]:
    """A connected bare transport."""
    wire = Wire(change())
    await wire.transport.connect()
    yield wire
    await wire.transport.close()


@pytest.fixture
def topic() -> str:
    """A topic that no other test uses."""
    return f"topic-{uuid4().hex}"
