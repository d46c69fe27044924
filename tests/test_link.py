"""How a connector comes to a connection, and comes back to one, on a clock that jumps: hosts, shares of time, pauses, texts."""

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from jumping import ERRORS, FOREVER, Broker, block, module, now, of, play, raising, refusal, settings


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
            "a://a: ConnectionRefusedError: nobody is at a; a://b: not at b; a://c: ConnectionResetError: c hung up. "
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


def test_the_attempt_after_a_loss_begins_with_the_host_after_the_one_that_was_lost() -> None:
    broker = Broker(a="dead")

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        broker.lose()
        await asyncio.sleep(20)

    play(broker, settings("a,b,c"), scene)
    assert broker.tried == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("hosts", "announced", "tried"),
    [
        ("a,b", [("b", 5), ("c", None)], ["a://a", "a://b", "a://b:5", "a://c", "a://a"]),
        ("a", [("10.0.0.2", 5)], ["a://a", "a://a:5 (10.0.0.2)", "a://a"]),  # a certificate for `a` will do
        ("10.0.0.1", [("10.0.0.2", 5)], ["a://10.0.0.1", "a://10.0.0.2:5", "a://10.0.0.1"]),
    ],
)
def test_hosts_that_the_broker_announces_are_tried_after_a_loss(
    hosts: str, announced: list[Any], tried: list[str]
) -> None:
    broker, known, seen = Broker(), [module("addresses").Target(*each) for each in announced], list[str]()

    async def connect(transport: Any) -> None:
        seen.append(transport.settings.where)
        if 1 < len(seen) < len(tried):
            raise ConnectionRefusedError
        await broker.connect(transport)

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        broker.lose()
        await asyncio.sleep(0.5)
        assert connector.is_ready

    play(broker, settings(hosts), scene, announced=known, connect=connect)
    assert seen == tried


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
        began = now()
        await connector.connect()
        assert now() - began < 0.1

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
            lost_at = now()
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
        (first,) = of("ReconnectError", told)
        assert str(first).startswith("Cannot connect to a://a: ConnectionRefusedError: nobody is at a. ")
        assert str(first).endswith("The connector keeps trying; publishing waits.")
        assert not first.refused
        assert isinstance(first.__cause__, ConnectionRefusedError)
        broker.hosts["a"] = "refuses"
        await asyncio.sleep(5)
        (_, second) = of("ReconnectError", told)
        assert "//a: not at a. " in str(second)
        assert second.refused
        await asyncio.sleep(50)
        assert len(of("ReconnectError", told)) == 2
        await asyncio.sleep(15)
        assert len(of("ReconnectError", told)) == 3
        broker.hosts["a"] = "dead"
        await asyncio.sleep(6)
        assert len(of("ReconnectError", told)) == 4

    play(broker, settings("a"), scene)


def test_a_good_connection_makes_an_old_reason_new() -> None:
    broker = Broker()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        for count in (1, 2):
            broker.hosts["a"] = "dead"
            broker.lose()
            await asyncio.sleep(5)
            assert len(of("ReconnectError", told)) == count
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


def test_a_connector_says_what_it_is() -> None:
    broker = Broker()

    async def scene(connector: Any, told: list[Exception]) -> None:
        name = connector.node_name
        assert repr(connector) == f"<Example connector {name!r} at a://a, not ready>"
        await connector.connect()
        assert repr(connector) == f"<Example connector {name!r} at a://a, ready>"
        broker.hosts["a"] = "dead"
        broker.lose()
        await asyncio.sleep(1)
        assert repr(connector) == f"<Example connector {name!r} at a://a, not ready>"
        await connector.close()
        assert repr(connector) == f"<Example connector {name!r} at a://a, closed>"

    play(broker, settings("a"), scene)


def test_a_started_connector_has_the_limits_of_what_a_function_returns_at_once() -> None:
    broker, asked = Broker(a="dead"), list[float]()

    def source() -> Any:
        asked.append(now())
        return settings("a", publish_timeout=2, reconnect_delay_min=3, reconnect_delay_max=3)

    async def scene(connector: Any, told: list[Exception]) -> None:
        connector.start()
        began = now()
        assert asked == pytest.approx([began], abs=0.01)
        with pytest.raises(ERRORS.PublishUnconfirmedError):
            await connector.publish("topic", 1)
        assert now() - began == pytest.approx(2, abs=0.1)
        broker.hosts["a"] = ""
        await connector.connect()
        assert len(asked) == len(broker.attempts) == 2
        connector.start()
        assert len(asked) == 2

    play(broker, source, scene)


@pytest.mark.parametrize("is_async", [True, False])
def test_a_started_connector_that_has_to_wait_for_its_settings_has_the_default_limits(is_async: bool) -> None:
    broker, answers = Broker(), iter([OSError("not yet"), settings("a", publish_timeout=2)])

    def answer() -> Any:
        if isinstance(found := next(answers), Exception):
            raise found
        return found

    async def slow() -> Any:
        await asyncio.sleep(1)
        return settings("a", publish_timeout=2)

    async def never(self: Any, topic: str, payload: bytes) -> None:
        await asyncio.sleep(FOREVER)

    async def scene(connector: Any, told: list[Exception]) -> None:
        began = now()
        connector.start()
        with pytest.raises(ERRORS.NotReadyError, match="not known before the first attempt"):
            _ = connector.settings
        with pytest.raises(ERRORS.PublishUnconfirmedError):
            await connector.publish("topic", 1)
        assert now() - began == pytest.approx(10, abs=0.1)
        assert connector.settings.publish_timeout == 2

    play(broker, slow if is_async else answer, scene, publish=never)


def test_starting_while_it_connects_does_nothing() -> None:
    broker = Broker(a="silent")

    async def scene(connector: Any, told: list[Exception]) -> None:
        connecting = asyncio.ensure_future(refusal(connector.connect()))
        await asyncio.sleep(1)
        connector.start()
        await connecting
        broker.hosts["a"] = ""
        await connector.connect()
        connector.start()
        await asyncio.sleep(20)

    play(broker, settings("a"), scene)
    assert broker.tried == ["a", "a"]


def test_one_of_two_that_connect_may_be_cancelled_and_the_last_ends_the_attempt() -> None:
    broker = Broker(a="silent")

    async def scene(connector: Any, told: list[Exception]) -> None:
        for _ in range(2):
            one, other = (asyncio.ensure_future(connector.connect()) for _ in range(2))
            await asyncio.sleep(1)
            one.cancel()
            await asyncio.sleep(1)
            assert not other.done()
            other.cancel()
            await asyncio.wait((one, other))
        with pytest.raises(ERRORS.NotReadyError, match="is not connected: await connect"):
            connector.publish_nowait("topic", 1)
        broker.hosts["a"] = ""
        await connector.connect()

    play(broker, settings("a"), scene)
    assert broker.tried == ["a", "a", "a"]


def test_waiting_for_a_connection_ends_with_the_time_and_the_reason() -> None:
    broker = Broker()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        broker.hosts["a"] = "dead"
        broker.lose()
        await asyncio.sleep(0)
        began = now()
        error = await refusal(connector.connect())
        assert str(error).startswith("Could not connect to a://a within connect_timeout = 3 s: ")
        assert "nobody is at a" in str(error)
        assert now() - began == pytest.approx(3, abs=0.01)

    play(broker, settings("a", connect_timeout=3), scene)


def test_a_topic_that_is_no_text_is_refused_by_an_error_without_a_topic() -> None:
    class Text(str):
        """A text that shows itself as another."""

        def __str__(self) -> str:
            return "other"

    sent: list[str] = []

    async def publish(self: Any, topic: str, payload: bytes) -> None:
        assert type(topic) is str
        sent.append(topic)

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        with pytest.raises(ERRORS.PublishRefusedError, match="must be a str") as raised:
            await connector.publish(5, 1)
        assert raised.value.topic == ""
        with pytest.raises(ERRORS.SubscribeRefusedError, match="must be a str") as refused:
            await connector.subscribe(5, print)
        assert refused.value.topic == ""
        with pytest.raises(ERRORS.PublishRefusedError, match="must not be empty"):
            await connector.publish("", 1)
        for topic in ("\udc80", "CONTROL"):
            with pytest.raises(ERRORS.PublishRefusedError) as raised:
                await connector.publish(topic, 1)
            assert raised.value.topic == topic
        for _ in range(2):
            await connector.publish(Text("topic"), 1)
            await connector.publish("topic", 1)

    play(Broker(), settings("a"), scene, publish=publish)
    assert set(sent) - {"CONTROL"} == {"topic"}


def test_a_loss_is_told_with_its_cause() -> None:
    broker = Broker()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        broker.lose()
        await asyncio.sleep(1)
        (error,) = told
        assert isinstance(error, ERRORS.ConnectionLostError)
        assert str(error).startswith("The connection to a://a was lost: ConnectionResetError: cut. ")
        assert isinstance(error.__cause__, ConnectionResetError)

    play(broker, settings("a"), scene)


@pytest.mark.parametrize(
    ("raised", "text"),
    [
        (SystemExit(), "RuntimeError: the client library raised SystemExit"),
        (asyncio.CancelledError(), "ConnectionAbortedError: the client library cancelled the call"),
        (OSError("no room"), "OSError: no room"),
    ],
)
@pytest.mark.parametrize("is_future", [True, False])
def test_whatever_a_client_raises_is_told_in_the_end(raised: BaseException, text: str, is_future: bool) -> None:
    def publish(self: Any, topic: str, payload: bytes) -> Any:
        if not is_future:
            return raising(raised)
        future = asyncio.get_running_loop().create_future()
        if isinstance(raised, asyncio.CancelledError):
            future.cancel()
        else:
            future.set_exception(raised)
        return future

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        with pytest.raises(ERRORS.PublishUnconfirmedError) as unconfirmed:
            await connector.publish("topic", 1)
        assert text in str(unconfirmed.value)

    play(Broker(), settings("a", publish_timeout=2), scene, publish=publish)


def test_time_for_which_the_host_blocks_the_loop_does_not_count() -> None:
    async def publish(self: Any, topic: str, payload: bytes) -> None:
        if topic == "topic":
            asyncio.get_running_loop().call_later(0.5, block, 5)
            await asyncio.sleep(1.2)

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        await connector.publish("topic", 1)

    play(Broker(), settings("a", publish_timeout=2, heartbeat=600), scene, publish=publish)


def test_a_loop_that_is_always_late_notices_a_silent_broker_all_the_same() -> None:
    async def publish(self: Any, topic: str, payload: bytes) -> None:
        if topic == "topic":
            await asyncio.sleep(FOREVER)

    async def scene(connector: Any, told: list[Exception]) -> None:
        async def be_late() -> None:
            while True:
                block(0.073)
                await asyncio.sleep(0.0117)

        late = asyncio.ensure_future(be_late())
        began = now()
        await refusal(connector.connect())
        assert now() - began < 60
        broker.hosts["a"] = ""
        await connector.connect()
        began = now()
        with pytest.raises(ERRORS.PublishUnconfirmedError):
            await connector.publish("topic", 1)
        assert now() - began < 60
        late.cancel()

    broker = Broker(a="silent")
    play(broker, settings("a", publish_timeout=2, connect_timeout=2, heartbeat=600), scene, publish=publish)


@pytest.mark.parametrize("is_silent", [True, False])
def test_a_ping_that_fails_or_is_not_answered_is_a_loss_within_a_heartbeat(is_silent: bool) -> None:
    broker, pings = Broker(), list[float]()

    async def ping(self: Any) -> None:
        pings.append(now())
        if len(pings) == 4:
            await (asyncio.sleep(FOREVER) if is_silent else raising(OSError("no pong")))

    async def scene(connector: Any, told: list[Exception]) -> None:
        reported = asyncio.Event()
        connector.on("error", lambda _: reported.set())
        await connector.connect()
        await reported.wait()
        loss, pinged = now(), pings[3]
        assert loss - pinged == pytest.approx(1.8 if is_silent else 0, abs=0.05)
        text = "TimeoutError: no answer within 1.8 s" if is_silent else "OSError: no pong"
        assert str(told[0]).startswith(f"The connection to a://a was lost: {text}. ")

    play(broker, settings("a", heartbeat=3), scene, ping=ping)
    assert [later - earlier for earlier, later in pairwise(pings[:4])] == pytest.approx([1, 1, 1], abs=0.01)


def test_what_hangs_in_the_client_is_waited_for_a_second_when_it_closes() -> None:
    broker = Broker()

    async def hang(self: Any, topic: str = "topic", payload: bytes = b"") -> None:
        if topic != "topic":
            return
        try:
            await asyncio.sleep(FOREVER)
        except asyncio.CancelledError:
            await asyncio.sleep(5)

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        publishing = asyncio.ensure_future(connector.publish("topic", 1))
        await asyncio.sleep(0.1)
        began = now()
        await connector.close()
        assert now() - began == pytest.approx(0.9 + 1 + 1, abs=0.01)
        with pytest.raises(ERRORS.ConnectorError):
            await publishing
        await asyncio.sleep(20)

    play(broker, settings("a", publish_timeout=1), scene, publish=hang, close=hang)


def test_a_check_is_named_that_fits_what_failed() -> None:
    broker = Broker(a="dead")

    async def scene(connector: Any, told: list[Exception]) -> None:
        error = await refusal(connector.connect())
        assert str(error) == (
            "Cannot connect to a://a: ConnectionRefusedError: nobody is at a. Nothing listens there: check host and port in "
            "the url, and that the broker runs."
        )

    play(broker, settings("a"), scene)


def test_two_hosts_have_half_the_time_each() -> None:
    broker = Broker(a="silent")

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()

    play(broker, settings("a,b", connect_timeout=4), scene)
    assert [attempt.within for attempt in broker.attempts] == pytest.approx([2, 2], abs=0.01)


def test_a_name_with_one_address_stays_a_name_and_one_with_two_is_tried_at_both() -> None:
    broker = Broker(**{"m": "dead", "10.0.0.1": "dead"})
    broker.names = {"m": ["10.0.0.9"], "n": ["10.0.0.1", "10.0.0.2"], "o": []}

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()

    play(broker, settings("m,n,o"), scene)
    assert broker.tried == ["m", "10.0.0.1", "10.0.0.2"]


def test_a_name_without_addresses_is_left_to_the_client() -> None:
    broker = Broker()
    broker.names = {"n": []}

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()

    play(broker, settings("n"), scene)
    assert broker.tried == ["n"]


def test_hosts_for_which_no_time_is_left_are_not_tried() -> None:
    broker = Broker(a="silent")

    async def close(self: Any) -> None:
        await asyncio.sleep(0.9)

    async def scene(connector: Any, told: list[Exception]) -> None:
        error = await refusal(connector.connect())
        assert str(error).startswith("Cannot connect to a://a,b within connect_timeout = 1 s: a://a: TimeoutError: ")

    play(broker, settings("a,b", connect_timeout=1), scene, close=close)
    assert broker.tried == ["a"]


def test_a_client_that_gives_up_early_is_told_in_its_words() -> None:
    async def connect(self: Any) -> None:
        await asyncio.sleep(2)
        raise TimeoutError("two seconds are enough")

    async def scene(connector: Any, told: list[Exception]) -> None:
        error = await refusal(connector.connect())
        assert str(error).startswith("Cannot connect to a://a: TimeoutError: two seconds are enough. ")

    play(Broker(), settings("a", connect_timeout=3), scene, connect=connect)


def test_what_ends_a_client_is_the_cause_of_the_error() -> None:
    async def connect(self: Any) -> None:
        raise SystemExit

    async def scene(connector: Any, told: list[Exception]) -> None:
        error = await refusal(connector.connect())
        assert isinstance(error.__cause__, RuntimeError)
        assert isinstance(error.__cause__.__cause__, SystemExit)

    play(Broker(), settings("a"), scene, connect=connect)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (lambda: "text", "Cannot connect to the broker: the settings function returned str, not Settings. Fix"),
        (lambda: settings("a", cluster_key=[1]), "raised ValidationError for cluster_key.0. Fix"),
        (lambda: settings("a", password_file="/no/such/file"), "Cannot connect to a://a: FileNotFoundError: "),
    ],
)
def test_what_is_wrong_with_the_settings_is_told_word_by_word(source: Callable[[], Any], text: str) -> None:
    async def scene(connector: Any, told: list[Exception]) -> None:
        error = await refusal(connector.connect())
        assert text in str(error)

    play(Broker(), source, scene)


def test_a_settings_function_that_raises_at_the_start_is_called_again() -> None:
    faults: list[BaseException] = [SystemExit(), ValueError()]

    def source() -> Any:
        if faults:
            raise faults.pop(0)
        return settings("a")

    async def scene(connector: Any, told: list[Exception]) -> None:
        connector.start()
        await connector.connect()

    play(Broker(), source, scene)
    assert faults == []


def test_a_settings_function_that_keeps_a_cancellation_for_itself_ends_the_attempt_all_the_same() -> None:
    broker = Broker()

    async def source() -> Any:
        try:
            await asyncio.sleep(FOREVER)
        except asyncio.CancelledError:
            return settings("a")

    async def scene(connector: Any, told: list[Exception]) -> None:
        connecting = asyncio.ensure_future(connector.connect())
        await asyncio.sleep(1)
        connecting.cancel()
        await asyncio.wait((connecting,))
        assert connecting.cancelled()
        await asyncio.sleep(1)

    play(broker, source, scene)
    assert broker.tried == []


def test_closing_does_not_wait_for_the_next_attempt() -> None:
    broker = Broker()

    async def close(self: Any) -> None:
        await asyncio.sleep(0.5)

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        broker.lose()
        await asyncio.sleep(0.1)
        began = now()
        await connector.close()
        assert now() - began < 1

    play(broker, settings("a", reconnect_delay_min=30, reconnect_delay_max=30), scene, close=close)


@pytest.mark.parametrize(
    ("does", "level", "text"),
    [
        ("hang", "WARNING", "The transport did not close within 1 s."),
        ("raise", "DEBUG", "The transport did not close cleanly: OSError."),
        ("return", "", ""),
    ],
)
def test_how_a_transport_closes_is_logged(does: str, level: str, text: str, caplog: pytest.LogCaptureFixture) -> None:
    ended: list[BaseException] = []

    async def close(self: Any) -> None:
        if does == "raise":
            raise OSError
        if does == "hang":
            try:
                await asyncio.sleep(FOREVER)
            except asyncio.CancelledError as error:
                ended.append(error)
                raise

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        await connector.close()
        await asyncio.sleep(0)
        assert len(ended) == (does == "hang")

    with caplog.at_level("DEBUG"):
        play(Broker(), settings("a"), scene, close=close)
    logged = [
        (record.levelname, record.getMessage()) for record in caplog.records if "transport" in record.getMessage()
    ]
    assert logged == ([(level, text)] if text else [])


def test_nothing_is_kept_of_what_a_transport_remembers_after_its_loss() -> None:
    broker = Broker()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        first = broker.open[0].inbox
        first.memory["client"], first.topic_memory["topic"] = "before", 1
        broker.lose()
        first.memory["client"], first.topic_memory["topic"] = "after", 2
        await asyncio.sleep(20)
        second = broker.open[0].inbox
        assert (second.memory, second.topic_memory) == ({"client": "before"}, {"topic": 1})

    play(broker, settings("a"), scene)


def test_a_broker_that_takes_nothing_holds_up_the_end_for_a_heartbeat_at_most() -> None:
    async def publish(self: Any, topic: str, payload: bytes) -> None:
        await asyncio.sleep(FOREVER)

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        connector.publish_nowait("topic", 1)
        await asyncio.sleep(0.1)
        began = now()
        await connector.close()
        assert now() - began == pytest.approx(0.9 + 3, abs=0.01)

    play(Broker(), settings("a", publish_timeout=1, heartbeat=3), scene, publish=publish)
