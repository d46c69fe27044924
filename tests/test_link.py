"""How a connector comes to a connection, and comes back to one, on a clock that jumps: hosts, shares of time, pauses, texts."""

import asyncio
import importlib
import socket
from collections.abc import Awaitable, Callable, Coroutine
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import pytest
from pure import load
from simulation.clock import VirtualLoop, seeded

load("linked")
CONTRACT: Any = importlib.import_module("linked.connector")
ERRORS: Any = importlib.import_module("linked.errors")
SETTINGS: Any = importlib.import_module("linked.settings")
TRANSPORT: Any = importlib.import_module("linked.transport")

FOREVER = 1e6


class Attempt(NamedTuple):
    """One call of a transport's `connect`."""

    at: float
    host: str
    within: float


class Broker:
    """Some hosts, and what each does to who connects: nothing for one that lets in."""

    def __init__(self, **hosts: str) -> None:
        self.hosts = hosts
        self.attempts: list[Attempt] = []
        self.open: list[Any] = []
        self.opened = asyncio.Queue[None]()
        self.names: dict[str, list[str]] = {}
        """The addresses of a name; every other name is its own address."""

    async def connect(self, transport: Any) -> None:
        settings = transport.settings
        host = settings.targets()[0].host
        self.attempts.append(Attempt(asyncio.get_running_loop().time(), host, settings.connect_timeout))
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

    def lose(self) -> None:
        """End the connection that was made last."""
        self.open.pop().inbox.lost(ConnectionResetError("cut"))

    @property
    def tried(self) -> list[str]:
        return [attempt.host for attempt in self.attempts]

    @property
    def pauses(self) -> list[float]:
        return [later.at - earlier.at for earlier, later in pairwise(self.attempts)]


class Transport(TRANSPORT.Transport):  # type: ignore[misc]
    """It leads to `broker`, to which nothing but connections matters."""

    broker: ClassVar[Broker]

    async def connect(self) -> None:
        await self.broker.connect(self)

    async def publish(self, topic: str, payload: bytes) -> None: ...

    async def subscribe(self, topic: str) -> None: ...

    async def unsubscribe(self, topic: str) -> None: ...

    async def close(self) -> None: ...


class Loop(VirtualLoop):
    """A loop that knows the names of a broker."""

    broker: Broker

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> list[Any]:
        assert (port, options) == (None, {"type": socket.SOCK_STREAM})
        does = self.broker.hosts.get(f"{host} is looked up", "")
        if does == "silent":
            await asyncio.sleep(FOREVER)
        if does == "unknown":
            raise socket.gaierror(-2, "Name or service not known")
        found = self.broker.names.get(host, [host])
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in found]


def settings(hosts: str, **values: Any) -> Any:
    return SETTINGS.ConnectorSettings(url=f"a://{hosts}", **values)


def play(
    broker: Broker, source: Any, scene: Callable[[Any, list[Exception]], Coroutine[Any, Any, None]], **attributes: Any
) -> None:
    """Run a scene with a connector, and the errors that it has told; then close it."""
    kind = type("Kind", (Transport,), {"broker": broker, **attributes})
    connector_class = type(
        "Connector", (CONTRACT.MessageConnector,), {"transport_class": kind, "name": "Linked", "version": "1"}
    )

    async def run() -> None:
        connector = connector_class(source)
        told: list[Exception] = []
        connector.on("error", told.append)
        try:
            await scene(connector, told)
        finally:
            await connector.close()

    with seeded("link"):
        loop = Loop()
        loop.broker = broker
        try:
            loop.run_until_complete(run())
        finally:
            loop.close()


def reconnect_errors(told: list[Exception]) -> list[Any]:
    return [error for error in told if isinstance(error, ERRORS.ReconnectError)]


async def refusal(connecting: Awaitable[None]) -> Any:
    with pytest.raises(ERRORS.ConnectError) as raised:
        await connecting
    return raised.value


def test_each_host_has_an_equal_share_of_what_is_left() -> None:
    broker = Broker(a="silent", b="dead", c="silent", d="")

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()

    play(broker, settings("a,b,c,d", connect_timeout=8), scene)
    assert broker.tried == ["a", "b", "c", "d"]
    assert [attempt.within for attempt in broker.attempts] == pytest.approx([2, 2, 3, 3], abs=0.01)
    assert broker.pauses == pytest.approx([2, 0, 3], abs=0.01)


def test_one_host_has_all_the_time() -> None:
    broker = Broker(a="silent")

    async def scene(connector: Any, told: list[Exception]) -> None:
        error = await refusal(connector.connect())
        assert str(error).startswith(
            "Cannot connect to a://a within connect_timeout = 3 s: TimeoutError: no answer in time. "
        )
        assert not error.refused
        assert isinstance(error.__cause__, TimeoutError)

    play(broker, settings("a", connect_timeout=3), scene)
    assert [attempt.within for attempt in broker.attempts] == [3]


def test_what_the_client_gives_up_is_told_in_its_words_and_not_as_our_time_out() -> None:
    async def scene(connector: Any, told: list[Exception]) -> None:
        error = await refusal(connector.connect())
        assert str(error).startswith("Cannot connect to a://a: TimeoutError: a gave up. ")

    play(Broker(a="gives up"), settings("a"), scene)


def test_of_several_failures_each_is_told_and_a_refusal_counts() -> None:
    async def scene(connector: Any, told: list[Exception]) -> None:
        error = await refusal(connector.connect())
        assert (
            "a://a: ConnectionRefusedError: nobody is at a; a://b: ConnectError: not at b; a://c: ConnectionResetError: c hung up. "
            in str(error)
        )
        assert str(error).endswith("The broker refuses: check user, password and rights.")
        assert error.refused
        assert isinstance(error.__cause__, ERRORS.ConnectError)

    play(Broker(a="dead", b="refuses", c="loses"), settings("a,b,c"), scene)


def test_without_a_refusal_the_last_failure_is_the_cause() -> None:
    async def scene(connector: Any, told: list[Exception]) -> None:
        error = await refusal(connector.connect())
        assert not error.refused
        assert isinstance(error.__cause__, ConnectionResetError)

    play(Broker(a="dead", b="loses"), settings("a,b"), scene)


def test_the_next_attempt_begins_with_the_next_host() -> None:
    broker = Broker()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        for _ in range(3):
            broker.lose()
            await asyncio.sleep(20)

    play(broker, settings("a,b,c"), scene)
    assert broker.tried == ["a", "b", "c", "a"]


def test_a_client_that_takes_all_hosts_gets_the_url_as_it_is() -> None:
    broker = Broker()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        assert [str(target) for target in broker.open[0].settings.targets()] == ["a", "b"]

    play(broker, settings("a,b", connect_timeout=4), scene, takes_all_hosts=True)
    assert [attempt.within for attempt in broker.attempts] == [4]


def test_all_addresses_of_a_name_are_tried() -> None:
    broker = Broker(**{"10.0.0.1": "silent", "10.0.0.2": "dead"})
    broker.names = {"n": ["10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.3"], "m": ["10.0.0.9"]}

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        assert connector.is_ready

    play(broker, settings("n:5,m", connect_timeout=4), scene)
    assert broker.tried == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert broker.attempts[0].within == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("host", ["10.0.0.1", "[::1]"])
def test_an_address_is_not_looked_up(host: str) -> None:
    broker = Broker(**{f"{host.strip('[]')} is looked up": "silent"})

    async def scene(connector: Any, told: list[Exception]) -> None:
        began = asyncio.get_running_loop().time()
        await connector.connect()
        assert asyncio.get_running_loop().time() - began < 0.1

    play(broker, settings(f"{host},other"), scene)


@pytest.mark.parametrize("does", ["silent", "unknown"])
def test_a_name_that_is_not_found_is_left_to_the_client_and_takes_at_most_half_the_time(does: str) -> None:
    broker = Broker(**{"n is looked up": does, "n": "dead"})

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()

    play(broker, settings("n,m", connect_timeout=4), scene)
    assert broker.tried == ["n", "m"]
    assert broker.attempts[0].within == pytest.approx(1 if does == "silent" else 2, abs=0.01)


def test_the_pause_doubles_up_to_the_longest_and_is_drawn_between_half_of_it_and_all() -> None:
    broker = Broker()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        broker.hosts["a"] = "dead"
        broker.lose()
        await asyncio.sleep(300)

    play(broker, settings("a", reconnect_delay_min=0.1, reconnect_delay_max=5), scene)
    pauses = broker.pauses[1:]
    for number, pause in enumerate(pauses, 1):
        longest = min(0.1 * 2**number, 5)
        assert longest / 2 <= pause <= longest + 0.01
    assert max(pauses) > 4
    assert min(pauses[10:]) < 3


def test_a_connection_that_lasted_a_heartbeat_sets_the_pause_back_and_a_shorter_one_does_not() -> None:
    broker = Broker()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        await broker.opened.get()
        for lasted in [0.5] * 6 + [2.5, 0.5]:
            await asyncio.sleep(lasted)
            lost_at = asyncio.get_running_loop().time()
            broker.lose()
            await broker.opened.get()
            pauses.append(broker.attempts[-1].at - lost_at)

    pauses: list[float] = []
    play(broker, settings("a", heartbeat=2, reconnect_delay_min=1, reconnect_delay_max=100), scene)
    longest = [1, 2, 4, 8, 16, 32, 1, 2]
    assert all(most / 2 <= pause <= most + 0.01 for pause, most in zip(pauses, longest, strict=True)), pauses


def test_a_reason_is_told_once_a_minute_and_a_new_one_at_once() -> None:
    broker = Broker()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        broker.hosts["a"] = "dead"
        broker.lose()
        await asyncio.sleep(50)
        (first,) = reconnect_errors(told)
        assert str(first).startswith("Cannot connect to a://a: ConnectionRefusedError: nobody is at a. ")
        assert str(first).endswith("Until it succeeds, it is tried again, and publishing waits.")
        assert not first.refused
        assert isinstance(first.__cause__, ConnectionRefusedError)
        broker.hosts["a"] = "refuses"
        await asyncio.sleep(5)
        (_, second) = reconnect_errors(told)
        assert "ConnectError: not at a" in str(second)
        assert second.refused
        await asyncio.sleep(50)
        assert len(reconnect_errors(told)) == 2
        await asyncio.sleep(15)
        assert len(reconnect_errors(told)) == 3
        broker.hosts["a"] = "dead"
        await asyncio.sleep(6)
        assert len(reconnect_errors(told)) == 4

    play(broker, settings("a"), scene)


def test_a_good_connection_makes_an_old_reason_new() -> None:
    broker = Broker()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        for count in (1, 2):
            broker.hosts["a"] = "dead"
            broker.lose()
            await asyncio.sleep(5)
            assert len(reconnect_errors(told)) == count
            broker.hosts["a"] = ""
            await asyncio.sleep(20)
            assert connector.is_ready

    play(broker, settings("a"), scene)


def test_a_publish_in_an_outage_is_told_why_there_is_no_connection() -> None:
    broker = Broker()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        broker.hosts["a"] = "dead"
        broker.lose()
        with pytest.raises(ERRORS.PublishUnconfirmedError, match="nobody is at a"):
            await connector.publish("topic", 1)

    play(broker, settings("a", publish_timeout=3), scene)


def test_the_settings_function_is_called_before_each_attempt() -> None:
    broker, hosts = Broker(), iter("abc")

    async def source() -> Any:
        await asyncio.sleep(0.5)
        return settings(next(hosts))

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        for _ in range(2):
            broker.lose()
            await asyncio.sleep(20)

    play(broker, source, scene)
    assert broker.tried == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (lambda: dict[str, str]()["key"], r"the settings function raised KeyError \(test_link.py, line \d+\)\. "),
        (lambda: "text", r"the settings function returned str, not Settings\. "),
        (lambda: settings("a", heartbeat="x", node_name=1), r"raised ValidationError for node_name, heartbeat\. "),
        (lambda: asyncio.sleep(FOREVER), r"the settings function did not return within 5 s\. "),
        (lambda: settings("a", password_file="/no/such/file"), r"password_file"),
    ],
)
def test_what_is_wrong_with_the_settings_is_told(source: Callable[[], Any], text: str) -> None:
    async def scene(connector: Any, told: list[Exception]) -> None:
        with pytest.raises(ERRORS.ConnectError, match=text) as raised:
            await connector.connect()
        assert not raised.value.refused

    play(Broker(), source, scene)


def test_connecting_can_be_cancelled_and_begun_again() -> None:
    broker = Broker(a="silent")

    async def scene(connector: Any, told: list[Exception]) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await connector.connect()
        broker.hosts["a"] = ""
        await connector.connect()
        assert connector.is_ready

    play(broker, settings("a"), scene)
    assert broker.tried == ["a", "a"]


def test_closing_ends_an_attempt() -> None:
    broker = Broker(a="silent")

    async def scene(connector: Any, told: list[Exception]) -> None:
        connecting = asyncio.ensure_future(connector.connect())
        await asyncio.sleep(1)
        await connector.close()
        with pytest.raises(ERRORS.ClosedError, match=r"a://a (is|was) closed"):
            await connecting

    play(broker, settings("a"), scene)
