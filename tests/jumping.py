"""Connectors and parts of the shell on a clock that jumps, over brokers that a test makes."""

import asyncio
import importlib
import socket
from collections.abc import Awaitable, Callable, Coroutine
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import pytest
from pure import load
from simulation.clock import VirtualLoop, seeded

PACKAGE: Any = load("jumping_package")


def module(name: str) -> Any:
    """Return a module of the contract."""
    return importlib.import_module(f"{PACKAGE.__name__}.{name}")


CONNECTOR = module("connector")
ERRORS = module("errors")
SETTINGS = module("settings")
WIRE = module("wire")

CONTROL = "CONTROL"
FOREVER = 1e6

Scene = Callable[[Any, list[Exception]], Coroutine[Any, Any, None]]
"""What is done with a connector; the list is of the errors that it has told."""


def now() -> float:
    return asyncio.get_running_loop().time()


def block(seconds: float) -> None:
    """Let time pass as a host does that computes and does not return to the loop."""
    loop: Any = asyncio.get_running_loop()
    loop.block(seconds)


async def raising(error: BaseException) -> Any:
    raise error


def settings(hosts: str = "a", **values: Any) -> Any:
    return SETTINGS.ConnectorSettings(url=f"a://{hosts}", **values)


class Attempt(NamedTuple):
    """One call of a transport's `connect`."""

    at: float
    host: str
    within: float


class Sent(NamedTuple):
    """A frame that a node has published."""

    at: float
    topic: str
    frame: Any


class Broker:
    """Some hosts, and what each does to who connects: nothing for one that lets in. It hands on what is published."""

    def __init__(self, **hosts: str) -> None:
        self.hosts = hosts
        self.attempts: list[Attempt] = []
        self.open: list[Any] = []
        self.opened = asyncio.Queue[None]()
        self.names: dict[str, list[str]] = {}
        """The addresses of a name; every other name is its own address."""
        self.sent: list[Sent] = []
        self.topics: dict[str, list[Any]] = {}
        """By topic: the transports that are subscribed to it."""

    async def connect(self, transport: Any) -> None:
        host = transport.settings.targets()[0].host
        self.attempts.append(Attempt(now(), host, transport.settings.connect_timeout))
        does = self.hosts.get(host, "")
        if does == "silent":
            await asyncio.sleep(FOREVER)
        if does == "dead":
            raise ConnectionRefusedError(f"nobody is at {host}")
        if does == "refuses":
            raise ERRORS.ConnectError(f"not at {host}", refused=True)
        if does == "gives up":
            raise TimeoutError(f"{host} gave up")
        if does == "loses":
            transport.inbox.lost(ConnectionResetError(f"{host} hung up"))
            return
        self.open.append(transport)
        self.opened.put_nowait(None)

    async def publish(self, transport: Any, topic: str, payload: bytes) -> None:
        self.note(topic, payload)
        self.hand(topic, payload)

    async def subscribe(self, transport: Any, topic: str) -> None:
        self.topics.setdefault(topic, []).append(transport)

    async def unsubscribe(self, transport: Any, topic: str) -> None:
        if transport in self.topics.get(topic, []):
            self.topics[topic].remove(transport)

    async def ping(self, transport: Any) -> None: ...

    async def close(self, transport: Any) -> None:
        for topic in self.topics:
            await Broker.unsubscribe(self, transport, topic)

    def note(self, topic: str, payload: bytes) -> None:
        self.sent.append(Sent(now(), topic, WIRE.unpack(payload)))

    def hand(self, topic: str, payload: bytes) -> None:
        """Hand a payload to all who are subscribed to its topic."""
        for transport in list(self.topics.get(topic, [])):
            transport.inbox.received(topic, payload)

    def frames(self, topic: str) -> list[Any]:
        return [sent.frame for sent in self.sent if sent.topic == topic]

    @property
    def words(self) -> list[Any]:
        """What the nodes have said on the control topic."""
        return [WIRE.unpack_control(frame) for frame in self.frames(CONTROL)]

    @property
    def questions(self) -> list[Any]:
        return [question for word in self.words for question in word.questions]

    async def look_up(self, name: str) -> list[str]:
        does = self.hosts.get(f"{name} is looked up", "")
        if does == "silent":
            await asyncio.sleep(FOREVER)
        if does == "unknown":
            raise socket.gaierror(-2, "Name or service not known")
        return self.names.get(name, [name])

    def lose(self) -> None:
        """End the connection that was made last."""
        self.open.pop().inbox.lost(ConnectionResetError("cut"))

    @property
    def tried(self) -> list[str]:
        return [attempt.host for attempt in self.attempts]

    @property
    def pauses(self) -> list[float]:
        return [later.at - earlier.at for earlier, later in pairwise(self.attempts)]


class Transport(module("transport").Transport):  # type: ignore[misc]
    """It leads to `broker`."""

    broker: ClassVar[Broker]

    async def connect(self) -> None:
        await self.broker.connect(self)

    async def publish(self, topic: str, payload: bytes) -> None:
        await self.broker.publish(self, topic, payload)

    async def subscribe(self, topic: str) -> None:
        await self.broker.subscribe(self, topic)

    async def unsubscribe(self, topic: str) -> None:
        await self.broker.unsubscribe(self, topic)

    async def ping(self) -> None:
        await self.broker.ping(self)

    async def close(self) -> None:
        await self.broker.close(self)


class Loop(VirtualLoop):
    """A loop that has names looked up by a broker."""

    def __init__(self, broker: Broker) -> None:
        super().__init__()
        self._broker = broker

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> list[Any]:
        assert (port, options) == (None, {"type": socket.SOCK_STREAM})
        found = await self._broker.look_up(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in found]


def jump(scene: Callable[[], Coroutine[Any, Any, None]], loop: VirtualLoop | None = None) -> None:
    """Run a scene on a clock that jumps; nothing may raise where nobody awaits it."""
    unseen: list[dict[str, Any]] = []
    with seeded("jumping"):
        loop = loop or VirtualLoop()
        loop.set_exception_handler(lambda _, context: unseen.append(context))
        try:
            loop.run_until_complete(scene())
        finally:
            loop.close()
    assert not unseen


def play(broker: Broker, source: Any, scene: Scene, **attributes: Any) -> None:
    """Run a scene with a connector, whose transport has these attributes in place of its own; then close it."""
    kind = type("Kind", (Transport,), {"broker": broker, **attributes})
    facts = {"transport_class": kind, "Settings": SETTINGS.ConnectorSettings, "name": "Example", "version": "1"}
    connector_class = type("Connector", (CONNECTOR.MessageConnector,), facts)

    async def run() -> None:
        connector = connector_class(source)
        told: list[Exception] = []
        connector.on("error", told.append)
        try:
            await scene(connector, told)
        finally:
            await connector.close()

    jump(run, Loop(broker))


def of(kind: str, told: list[Exception]) -> list[Any]:
    """Return the errors of a kind."""
    return [error for error in told if isinstance(error, getattr(ERRORS, kind))]


async def refusal(connecting: Awaitable[None]) -> Any:
    """Return the error with which connecting fails."""
    with pytest.raises(ERRORS.ConnectError) as raised:
        await connecting
    return raised.value
