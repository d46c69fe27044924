"""Publish, subscribe and unsubscribe in outages and under refusals, on a clock that jumps, over a broker that does as a test says."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from jumping import ERRORS, FOREVER, Broker, Scene, block, module, now, of, play, refusal, settings

RECEIPT = module("receipt")


class Hub(Broker):
    """A broker. `does` says what it does about a call, by method and topic.

    It raises an exception, waits for some seconds, or calls a function with the transport. Of a list it does one thing
    after another, for a call each. After "drop" it delivers nothing.
    """

    def __init__(self, **hosts: str) -> None:
        super().__init__(**hosts)
        self.does: dict[tuple[str, str], Any] = {}
        self.asked: list[tuple[str, str]] = []
        self.times: list[float] = []

    async def answer(self, transport: Any, method: str, topic: str = "") -> Any:
        self.asked.append((method, topic))
        self.times.append(now())
        does = self.does.get((method, topic))
        if isinstance(does, list):
            does = does.pop(0) if does else None
        if isinstance(does, BaseException):
            raise does
        if isinstance(does, float | int):
            await asyncio.sleep(does)
        if callable(does):
            return await does(transport)
        return does

    async def publish(self, transport: Any, topic: str, payload: bytes) -> None:
        self.note(topic, payload)
        if await self.answer(transport, "publish", topic) != "drop":
            self.hand(topic, payload)

    async def subscribe(self, transport: Any, topic: str) -> None:
        await super().subscribe(transport, topic)
        try:
            await self.answer(transport, "subscribe", topic)
        except BaseException:
            await super().unsubscribe(transport, topic)
            raise

    async def unsubscribe(self, transport: Any, topic: str) -> None:
        await self.answer(transport, "unsubscribe", topic)
        await super().unsubscribe(transport, topic)

    async def ping(self, transport: Any) -> None:
        await self.answer(transport, "ping")

    async def close(self, transport: Any) -> None:
        await super().close(transport)
        await self.answer(transport, "close")

    def count(self, method: str, topic: str) -> int:
        return self.asked.count((method, topic))

    def when(self, method: str, topic: str) -> list[float]:
        return [at for at, asked in zip(self.times, self.asked, strict=True) if asked == (method, topic)]


def run(hub: Hub, scene: Scene, source: Any = None, /, *, kind: dict[str, Any] | None = None, **values: Any) -> None:
    """Play a scene with a connector to `hub`."""
    play(hub, source or settings(**values), scene, **(kind or {}))


async def another(connector: Any, host: str = "a") -> Any:
    """Connect another node to the same broker."""
    other = type(connector)(settings(host))
    await other.connect()
    return other


def test_a_broker_that_fails_is_asked_again_until_it_confirms() -> None:
    hub = Hub()
    hub.does["subscribe", "topic"] = [OSError("no"), OSError("no")]

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        await connector.subscribe("topic", print)
        assert hub.count("subscribe", "topic") == 3

    run(hub, scene)


def test_a_broker_may_confirm_slowly() -> None:
    hub = Hub()
    hub.does["subscribe", "topic"] = [2]

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        await connector.subscribe("topic", print)
        assert hub.count("subscribe", "topic") == 1

    run(hub, scene, publish_timeout=3)


@pytest.mark.parametrize("does", [FOREVER, OSError("no room")])
def test_a_subscription_that_is_not_confirmed_in_time_is_told_and_taken_back(does: Any) -> None:
    hub = Hub()
    hub.does["subscribe", "topic"] = does

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        began = now()
        with pytest.raises(ERRORS.SubscribeUnconfirmedError) as raised:
            await connector.subscribe("topic", print)
        assert 2 <= now() - began <= 3.01
        assert raised.value.topic == "topic"
        await asyncio.sleep(1)
        assert hub.count("unsubscribe", "topic") == 1
        assert told == []

    run(hub, scene, publish_timeout=3, reconnect_delay_min=1)


def test_a_silent_subscription_ends_in_time_while_others_publish() -> None:
    hub = Hub()
    hub.does["subscribe", "topic"] = FOREVER

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()

        async def be_busy() -> None:
            while True:
                await connector.publish("other", 1)
                await asyncio.sleep(0.01)

        busy = asyncio.ensure_future(be_busy())
        began = now()
        with pytest.raises(ERRORS.SubscribeUnconfirmedError):
            await connector.subscribe("topic", print)
        assert now() - began == pytest.approx(3, abs=0.1)
        busy.cancel()

    run(hub, scene, publish_timeout=3, heartbeat=600)


def test_a_refused_subscription_has_the_refusal_as_its_cause() -> None:
    hub = Hub()
    hub.does["subscribe", "topic"] = ERRORS.SubscribeRefusedError("not for you")

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        with pytest.raises(ERRORS.SubscribeRefusedError, match="not for you") as raised:
            await connector.subscribe("topic", print)
        assert raised.value.topic == "topic"
        assert str(raised.value.__cause__) == "not for you"
        with pytest.raises(ERRORS.SubscribeRefusedError, match="is the cluster's own") as raised:
            await connector.subscribe("CONTROL", print)
        assert raised.value.topic == "CONTROL"
        assert told == []

    run(hub, scene)


def test_the_first_listener_gets_what_arrives_before_the_broker_confirms() -> None:
    hub, got = Hub(), list[Any]()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        other = await another(connector)

        async def publish_first(transport: Any) -> None:
            await other.publish("topic", 1)

        hub.does["subscribe", "topic"] = publish_first
        await connector.subscribe("topic", got.append)
        await asyncio.sleep(0)
        assert got == [1]
        await other.close()

    run(hub, scene)


def test_a_listener_that_is_subscribed_twice_gets_each_message_once() -> None:
    hub, got = Hub(), list[Any]()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        other = await another(connector)
        for _ in range(2):
            await connector.subscribe("topic", got.append)
        await other.publish("topic", 1)
        await asyncio.sleep(0.1)
        assert got == [1]
        await other.close()

    run(hub, scene)


def test_the_others_are_asked_for_their_numbers_for_the_first_listener_of_a_topic_only() -> None:
    hub = Hub()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        await connector.subscribe("topic", print)
        await asyncio.sleep(0.1)
        assert [control.topics for control in hub.words] == [["topic"]]
        await connector.subscribe("topic", repr)
        await asyncio.sleep(0.1)
        assert len(hub.words) == 1

    run(hub, scene)


def test_cancelling_one_of_two_calls_takes_nothing_away_that_the_other_has_added() -> None:
    hub, got = Hub(), list[Any]()
    hub.does["subscribe", "topic"] = [1]

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        other = await another(connector)

        async def first() -> None:
            await connector.subscribe("topic", got.append)
            second.cancel()

        one = asyncio.ensure_future(first())
        await asyncio.sleep(0)
        second = asyncio.ensure_future(connector.subscribe("topic", got.append))
        await asyncio.wait((one, second))
        assert second.cancelled()
        await other.publish("topic", 1)
        await asyncio.sleep(0.1)
        assert got == [1]
        await other.close()

    run(hub, scene)


def test_what_is_refused_on_a_new_connection_is_reported_and_leaves_the_others_alone() -> None:
    hub, got = Hub(), list[Any]()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        other = await another(connector)
        for topic in ("refused", "topic"):
            await connector.subscribe(topic, got.append)
        hub.does["subscribe", "refused"] = ERRORS.SubscribeRefusedError("not for you")
        hub.open.pop(0).inbox.lost(OSError("cut"))
        await asyncio.sleep(5)
        assert connector.is_ready
        assert len(hub.attempts) == 3
        (error,) = of("SubscribeRefusedError", told)
        assert error.topic == "refused"
        assert str(error).startswith("a://a refused the subscription to topic 'refused': not for you. ")
        await other.publish("topic", 1)
        await asyncio.sleep(0.1)
        assert got == [1]
        await other.close()

    run(hub, scene)


def test_a_subscription_that_waits_for_a_connection_is_refused_to_its_caller_alone() -> None:
    hub = Hub()
    hub.does["subscribe", "topic"] = ERRORS.SubscribeRefusedError("not for you")

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        hub.lose()
        with pytest.raises(ERRORS.SubscribeRefusedError, match="not for you"):
            await connector.subscribe("topic", print)
        await asyncio.sleep(1)
        assert [type(error) for error in told] == [ERRORS.ConnectionLostError]

    run(hub, scene)


def test_a_further_listener_waits_for_the_repair_of_a_gap_but_no_longer_than_for_a_confirmation() -> None:
    hub = Hub()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        other = await another(connector)
        await connector.subscribe("topic", print)
        await asyncio.sleep(0.1)
        hub.does["publish", "CONTROL"] = "drop"
        await other.publish("topic", 1)
        hub.does["publish", "topic"] = ["drop"]
        await other.publish("topic", 2)
        await other.publish("topic", 3)
        began = now()
        await connector.subscribe("topic", repr)
        assert now() - began == pytest.approx(3, abs=0.01)
        await other.close()

    run(hub, scene, publish_timeout=3, heartbeat=10)


def test_what_is_missing_is_given_up_after_the_time_in_which_its_sender_could_come_back() -> None:
    hub = Hub()

    async def scene(connector: Any, told: list[Exception]) -> None:
        lost = asyncio.Event()
        connector.on("error", lambda _: lost.set())
        await connector.connect()
        other = await another(connector)
        await connector.subscribe("topic", print)
        await asyncio.sleep(0.1)
        await other.publish("topic", 1)
        hub.does["publish", "topic"] = ["drop"]
        hub.does["publish", "CONTROL"] = "drop"
        await other.publish("topic", 2)
        await other.publish("topic", 3)
        began = now()
        await lost.wait()
        assert [error.count for error in of("MessagesLostError", told)] == [1]
        assert now() - began == pytest.approx(2 * 10 + 35 + 80 + 160, abs=6)
        await other.close()

    run(hub, scene, heartbeat=10, reconnect_delay_max=35, connect_timeout=80, publish_timeout=160, forget_after=5000)


def test_a_broker_that_does_not_end_a_subscription_loses_the_connection_in_the_end() -> None:
    hub = Hub()
    hub.does["unsubscribe", "topic"] = OSError("cannot")

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        await connector.subscribe("topic", print)
        with pytest.raises(ERRORS.UnsubscribeError, match="OSError: cannot"):
            await connector.unsubscribe("topic", print)
        await asyncio.sleep(5)
        (error,) = told
        assert isinstance(error, ERRORS.ConnectionLostError)
        assert str(error).startswith(
            "The connection to a://a was lost: ConnectionAbortedError: the broker did not end the subscription to topic "
            "'topic', to which nobody listens: OSError: cannot. "
        )
        assert hub.count("unsubscribe", "topic") == 2
        assert hub.count("subscribe", "topic") == 1

    run(hub, scene)


def test_who_subscribes_after_a_failed_unsubscription_is_subscribed_anew() -> None:
    hub = Hub()
    hub.does["unsubscribe", "topic"] = [OSError("cannot")]

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        await connector.subscribe("topic", print)
        with pytest.raises(ERRORS.UnsubscribeError):
            await connector.unsubscribe("topic", print)
        await connector.subscribe("topic", print)
        assert hub.count("subscribe", "topic") == 2
        await asyncio.sleep(5)
        assert hub.count("unsubscribe", "topic") == 1
        assert told == []

    run(hub, scene)


def test_who_subscribes_while_the_broker_is_silent_about_the_topic_is_told_in_time() -> None:
    hub = Hub()
    hub.does["unsubscribe", "topic"] = FOREVER

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        await connector.subscribe("topic", print)
        with pytest.raises(ERRORS.UnsubscribeError):
            await connector.unsubscribe("topic", print)
        await asyncio.sleep(1)
        began = now()
        with pytest.raises(ERRORS.SubscribeUnconfirmedError, match="an earlier request for the topic has no answer"):
            await connector.subscribe("topic", print)
        assert now() - began == pytest.approx(2, abs=0.2)

    run(hub, scene, publish_timeout=2, heartbeat=60)


def test_what_a_transport_remembers_of_a_topic_goes_with_the_last_listener() -> None:
    hub = Hub()

    async def remember(transport: Any) -> None:
        transport.inbox.topic_memory["topic"] = "position"

    hub.does["subscribe", "topic"] = remember

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        memory = hub.open[0].inbox.topic_memory
        await connector.subscribe("topic", print)
        await asyncio.gather(connector.unsubscribe("topic", print), connector.subscribe("topic", repr))
        assert hub.count("unsubscribe", "topic") == 0
        assert memory == {"topic": "position"}
        await connector.unsubscribe("topic", repr)
        assert hub.count("unsubscribe", "topic") == 1
        assert memory == {}

    run(hub, scene)


def test_all_bad_payloads_are_told_before_the_last_listener_has_left() -> None:
    hub = Hub()
    hub.does["unsubscribe", "topic"] = 0.5

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        await connector.subscribe("topic", print)
        for _ in range(3):
            hub.open[0].inbox.received("topic", b"rubbish")
        assert [error.count for error in of("BadFrameError", told)] == [1]
        leaving = asyncio.ensure_future(connector.unsubscribe("topic", print))
        await asyncio.sleep(0.1)
        assert [error.count for error in of("BadFrameError", told)] == [1, 2]
        await leaving

    run(hub, scene)


def test_unsubscribing_ends_a_subscription_that_waits_for_a_connection() -> None:
    hub = Hub()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        hub.hosts["a"] = "dead"
        hub.lose()
        subscribing = asyncio.ensure_future(connector.subscribe("topic", print))
        await asyncio.sleep(1)
        await connector.unsubscribe("topic", print)
        await asyncio.wait_for(subscribing, 1)

    run(hub, scene)


def test_closing_ends_a_subscription_that_is_about_to_be_tried_again() -> None:
    hub = Hub()
    hub.does["subscribe", "topic"] = OSError("not yet")

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        await connector.subscribe("other", print)
        subscribing = asyncio.ensure_future(connector.subscribe("topic", print))
        await asyncio.sleep(0.5)
        began = now()
        await connector.close()
        assert now() - began < 0.1
        with pytest.raises(ERRORS.ClosedError, match="was closed during the call"):
            await subscribing

    run(hub, scene, reconnect_delay_min=1)


def test_closing_does_not_wait_for_what_the_broker_leaves_unanswered() -> None:
    hub = Hub()
    hub.does["subscribe", "topic"] = FOREVER

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        subscribing = asyncio.ensure_future(connector.subscribe("topic", print))
        await asyncio.sleep(0.5)
        began = now()
        await connector.close()
        assert now() - began < 0.1
        with pytest.raises(ERRORS.ClosedError):
            await subscribing

    run(hub, scene)


def test_a_loss_is_counted_and_said_to_the_others_and_the_first_connection_is_none() -> None:
    hub = Hub()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        await connector.subscribe("topic", print)
        await asyncio.sleep(0.1)
        assert [control.is_back for control in hub.words] == [False]
        for count in (1, 2):
            hub.lose()
            await asyncio.sleep(10)
            assert connector.stats()["reconnects"] == count
            assert sum(control.is_back for control in hub.words) == count

    run(hub, scene)


@pytest.mark.parametrize("is_first", [True, False])
def test_nothing_is_taken_before_a_connection_is_complete_nor_after_closing(is_first: bool) -> None:
    hub = Hub(a="" if is_first else "dead")

    async def refuse(connector: Any, error: type[Exception]) -> None:
        for call in (connector.publish("topic", 1), connector.subscribe("topic", print)):
            with pytest.raises(error):
                await call
        with pytest.raises(error):
            connector.publish_nowait("topic", 1)

    async def scene(connector: Any, told: list[Exception]) -> None:
        if not is_first:
            await refusal(connector.connect())
        hub.hosts["a"] = ""
        hub.does["subscribe", "CONTROL"] = [1]
        connecting = asyncio.ensure_future(connector.connect())
        await asyncio.sleep(0.5)
        await refuse(connector, ERRORS.NotReadyError)
        await connecting
        await connector.publish("topic", 1)
        hub.does["publish", "topic"] = [1]
        publishing = connector.publish("topic", 2)
        closing = asyncio.ensure_future(connector.close())
        await asyncio.sleep(0.5)
        await refuse(connector, ERRORS.ClosedError)
        await asyncio.gather(publishing, closing)
        await refuse(connector, ERRORS.ClosedError)

    run(hub, scene)
    assert hub.count("publish", "topic") == 2


def test_publishing_where_no_loop_runs_says_that_there_is_no_connection() -> None:
    async def scene(connector: Any, told: list[Exception]) -> None:
        kept.append(connector)

    kept: list[Any] = []
    run(Hub(), scene)
    publishing = type(kept[0])(settings("a")).publish("topic", 1)

    async def publish() -> None:
        with pytest.raises(ERRORS.NotReadyError, match="The connector to a://a is not connected: await connect"):
            await publishing

    asyncio.run(publish())


def test_a_callback_that_raises_is_reported_with_what_it_raised() -> None:
    def callback(error: Exception | None) -> None:
        raise KeyError("mine")

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        connector.publish_nowait("topic", 1, callback)
        await asyncio.sleep(1)
        (error,) = told
        assert isinstance(error, ERRORS.ListenerError)
        assert isinstance(error.__cause__, KeyError)

    run(Hub(), scene)


@pytest.mark.parametrize("raised", ["the-first-secret", "the-second-secret"])
def test_no_secret_of_the_present_settings_is_shown(raised: str) -> None:
    hub, passwords = Hub(), iter(["the-first-secret", "the-second-secret"])
    hub.does["publish", "topic"] = ERRORS.PublishRefusedError("the-second-secret is wrong")

    def callback(error: Exception | None) -> None:
        raise KeyError("the-second-secret")

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        hub.lose()
        await asyncio.sleep(5)
        with pytest.raises(ERRORS.PublishRefusedError, match=r"\*{10} is wrong") as refused:
            await connector.publish("topic", 1)
        assert "second" not in str(refused.value)
        told.clear()
        connector.publish_nowait("topic", 1, callback)
        await asyncio.sleep(1)
        (error,) = told
        assert error.__cause__ is None

    run(hub, scene, lambda: settings("a", password=next(passwords)))


def test_a_refusal_in_the_turn_of_a_loss_is_none_and_the_message_leaves_once_more() -> None:
    hub = Hub()

    async def lose_and_refuse(transport: Any) -> None:
        transport.inbox.lost(OSError("cut"))
        raise ERRORS.PublishRefusedError("no connection")

    hub.does["publish", "topic"] = [lose_and_refuse]

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        await connector.publish("topic", 1)
        assert hub.count("publish", "topic") == 2

    run(hub, scene)


def test_a_receipt_that_is_settled_already_is_told_at_once() -> None:
    sent: list[str] = []

    def publish(self: Any, topic: str, payload: bytes) -> Any:
        sent.append(topic)
        receipt = RECEIPT.Receipt(loop=asyncio.get_running_loop())
        receipt.settle()
        return receipt

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        began = now()
        await connector.publish("topic", 1)
        assert now() - began < 0.1
        assert sent.count("topic") == 1

    run(Hub(), scene, kind={"publish": publish})


@pytest.mark.parametrize(
    "steps",
    [
        [("work", 0.5), ("block", 1), ("work", 1.2)],
        [("work", 0.3), ("block", 0.5)] * 4,
        [("work", 1.95), ("block", 5), ("work", 0.5)],
    ],
)
def test_a_message_is_sent_once_however_the_host_blocks_the_loop_meanwhile(steps: list[tuple[str, float]]) -> None:
    hub = Hub()

    async def take_time(transport: Any) -> None:
        for step, seconds in steps:
            if step == "work":
                await asyncio.sleep(seconds)
            else:
                block(seconds)

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        hub.does["subscribe", "topic"] = hub.does["publish", "topic"] = take_time
        await connector.subscribe("topic", print)
        assert hub.count("subscribe", "topic") == 1
        if sum(seconds for step, seconds in steps if step == "work") <= 2:
            await connector.publish("topic", 1)
            assert hub.count("publish", "topic") == 1

    run(hub, scene, publish_timeout=2, heartbeat=600)


def test_a_message_that_the_client_finds_too_large_is_told_so() -> None:
    hub = Hub()
    hub.does["publish", "topic"] = ERRORS.MessageTooLargeError("more than 10 bytes")

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        with pytest.raises(ERRORS.MessageTooLargeError, match=r"a://a refused a message to topic 'topic': .*10 bytes"):
            await connector.publish("topic", 1)

    run(hub, scene)


def test_a_message_that_waits_for_a_broker_that_takes_less_is_told_its_size() -> None:
    hub = Hub(a="dead")

    async def connect(self: Any) -> None:
        await hub.connect(self)
        self.max_frame_bytes = 1000

    async def scene(connector: Any, told: list[Exception]) -> None:
        connector.start()
        publishing = connector.publish("topic", "x" * 2000)
        hub.hosts["a"] = ""
        with pytest.raises(ERRORS.MessageTooLargeError, match="A message to topic 'topic' has 2002 bytes"):
            await publishing

    run(hub, scene, kind={"connect": connect})


def test_a_message_that_fails_is_tried_again_at_the_pace_of_the_shortest_pause() -> None:
    hub = Hub()
    hub.does["publish", "topic"] = OSError("not now")

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        with pytest.raises(ERRORS.PublishUnconfirmedError, match="OSError: not now"):
            await connector.publish("topic", 1)
        times = hub.when("publish", "topic")
        assert [later - earlier for earlier, later in pairwise(times)] == pytest.approx([0.5] * 3, abs=0.01)

    run(hub, scene, publish_timeout=1.9, reconnect_delay_min=0.5, heartbeat=600)


def test_the_next_message_leaves_as_soon_as_the_one_before_it_is_given_up() -> None:
    hub = Hub(a="dead")

    async def scene(connector: Any, told: list[Exception]) -> None:
        connector.start()
        began = now()
        hub.does["publish", "topic"] = [FOREVER]
        first = asyncio.ensure_future(connector.publish("topic", 1))
        await asyncio.sleep(0.5)
        hub.hosts["a"] = ""
        await hub.opened.get()
        await asyncio.sleep(0.2)
        second = connector.publish("topic", 2)
        with pytest.raises(ERRORS.PublishUnconfirmedError, match="does not answer, or too slowly"):
            await first
        await second
        assert hub.when("publish", "topic")[1] - began == pytest.approx(2, abs=0.01)

    run(hub, scene, publish_timeout=2, reconnect_delay_min=0.1, reconnect_delay_max=0.2)


def test_what_waits_in_an_outage_fails_with_its_time_or_when_the_connector_closes() -> None:
    hub = Hub()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        hub.hosts["a"] = "dead"
        await connector.publish("topic", 0)
        hub.lose()
        await asyncio.sleep(0)
        with pytest.raises(
            ERRORS.PublishUnconfirmedError, match=r"no connection to it \(the connection was lost: .*cut"
        ):
            await connector.publish("topic", 1)
        publishing = [connector.publish("topic", number) for number in range(3)]
        began = now()
        await connector.close()
        assert now() - began < 0.1
        for each in publishing:
            with pytest.raises(ERRORS.ClosedError):
                await each

    run(hub, scene, publish_timeout=1, reconnect_delay_min=5)


def test_the_outbox_takes_as_much_as_it_may_and_says_where_to() -> None:
    hub = Hub(a="dead")

    async def scene(connector: Any, told: list[Exception]) -> None:
        connector.start()
        connector.publish_nowait("topic", "x" * 2000)
        with pytest.raises(
            ERRORS.OutboxFullError, match=r"^1 messages wait to be sent to a://a; this one, of 2002 bytes"
        ):
            connector.publish_nowait("topic", "x" * 2000)
        connector.publish_nowait("topic", "x" * 500)

    run(hub, scene, max_outbox_bytes=4000)


def test_a_new_attempt_waits_for_the_end_of_a_cancelled_one() -> None:
    hub = Hub()
    hub.does["subscribe", "CONTROL"] = [FOREVER]
    hub.does["close", ""] = [0.5]

    async def scene(connector: Any, told: list[Exception]) -> None:
        first = asyncio.ensure_future(connector.connect())
        await asyncio.sleep(1)
        first.cancel()
        await asyncio.sleep(0.1)
        await connector.connect()
        assert first.cancelled()
        assert connector.is_ready
        assert len(hub.attempts) == 2

    run(hub, scene)


def test_cancelling_ends_the_attempt_each_time() -> None:
    hub = Hub(a="silent")

    async def scene(connector: Any, told: list[Exception]) -> None:
        for _ in range(3):
            connecting = asyncio.ensure_future(connector.connect())
            await asyncio.sleep(1)
            connecting.cancel()
            await asyncio.wait((connecting,))
        hub.hosts["a"] = ""
        await asyncio.sleep(60)
        with pytest.raises(ERRORS.NotReadyError):
            await connector.publish("topic", 1)
        await connector.connect()

    run(hub, scene)
    assert len(hub.attempts) == 4


@pytest.mark.parametrize("is_listener", [True, False])
def test_who_is_called_while_the_connector_closes_may_close_it_too(is_listener: bool) -> None:
    hub = Hub()

    async def scene(connector: Any, told: list[Exception]) -> None:
        called = asyncio.Event()

        async def close(*_: Any) -> None:
            called.set()
            await asyncio.sleep(0.2)
            await connector.close()
            ended.append(now())

        ended: list[float] = []
        await connector.connect()
        other = await another(connector)
        if is_listener:
            await connector.subscribe("topic", close)
            await other.publish("topic", 1)
        else:
            connector.on("error", close)
            hub.open.pop(0).inbox.lost(OSError("cut"))
        await called.wait()
        began = now()
        await connector.close()
        assert now() - began < 0.3
        assert len(ended) == 1
        await connector.close()
        await other.close()

    run(hub, scene)


def test_waiting_for_a_connection_takes_as_long_as_the_first_settings_say() -> None:
    hub, timeouts = Hub(), iter([2, 50, 50, 50])

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        hub.hosts["a"] = "silent"
        hub.lose()
        await asyncio.sleep(7)
        began = now()
        await refusal(connector.connect())
        assert now() - began == pytest.approx(2, abs=0.01)

    run(hub, scene, lambda: settings("a", connect_timeout=next(timeouts)))


def test_a_subscription_is_refused_by_its_error_whenever_the_settings_came() -> None:
    hub = Hub()
    hub.does["subscribe", "topic"] = ERRORS.SubscribeRefusedError("not for you")

    async def source() -> Any:
        await asyncio.sleep(1)
        return settings("a")

    async def scene(connector: Any, told: list[Exception]) -> None:
        connector.start()
        with pytest.raises(ERRORS.SubscribeRefusedError, match="not for you"):
            await connector.subscribe("topic", print)

    run(hub, scene, source)


def test_what_a_function_returns_when_a_connector_starts_may_be_awaited_or_no_settings_at_all() -> None:
    async def later() -> Any:
        await asyncio.sleep(1)
        return settings("a")

    answers: list[Any] = ["text", later]

    def source() -> Any:
        answer = answers.pop(0)
        return answer() if callable(answer) else answer

    async def scene(connector: Any, told: list[Exception]) -> None:
        connector.start()
        await connector.publish("topic", 1)
        (error,) = of("ReconnectError", told)
        assert "the settings function returned str, not Settings" in str(error)

    run(Hub(), scene, source)


def test_a_listener_that_is_behind_gets_what_is_missing_when_it_has_caught_up() -> None:
    hub, got = Hub(), list[Any]()

    async def scene(connector: Any, told: list[Exception]) -> None:
        may_go_on = asyncio.Event()

        async def listener(message: Any) -> None:
            await may_go_on.wait()
            got.append(message)

        await connector.connect()
        other = await another(connector)
        await connector.subscribe("topic", listener)
        await asyncio.sleep(0.1)
        await asyncio.gather(*(other.publish("topic", number) for number in range(1100)))
        hub.does["publish", "topic"] = ["drop"]
        await other.publish("topic", 1100)
        await other.publish("topic", 1101)
        await asyncio.sleep(1)
        assert [control for control in hub.words if control.questions] == []
        may_go_on.set()
        await asyncio.sleep(1)
        assert got == list(range(1102))
        await other.close()

    run(hub, scene)


def test_who_subscribes_in_an_outage_gets_what_was_published_since_the_call() -> None:
    hub, got = Hub(), list[Any]()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        other = await another(connector, "b")
        hub.hosts["a"] = "dead"
        hub.open[0].inbox.lost(OSError("cut"))
        await other.publish("topic", 1)
        await asyncio.sleep(1)
        subscribing = asyncio.ensure_future(connector.subscribe("topic", got.append))
        await asyncio.sleep(1)
        await other.publish("topic", 2)
        hub.hosts["a"] = ""
        await subscribing
        await asyncio.sleep(1)
        assert got == [2]
        await other.close()

    run(hub, scene)


def test_a_large_message_that_cuts_the_connection_each_time_is_given_up() -> None:
    hub = Hub()

    async def cut(transport: Any) -> None:
        transport.inbox.lost(OSError("cut"))
        await asyncio.sleep(FOREVER)

    hub.does["publish", "topic"] = [cut, cut, cut]

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        with pytest.raises(ERRORS.MessageTooLargeError, match="drops the connection each time this message arrives"):
            await connector.publish("topic", "x" * 300_000)
        await connector.publish("topic", 1)
        assert hub.count("publish", "topic") == 4

    run(hub, scene)


def test_publishers_that_were_answered_together_send_their_next_messages_together() -> None:
    hub = Hub()
    hub.does["publish", "topic"] = 0.01

    async def scene(connector: Any, told: list[Exception]) -> None:
        async def publish() -> None:
            for number in range(10):
                await connector.publish("topic", number)

        await connector.connect()
        await asyncio.gather(publish(), publish(), publish())
        assert hub.count("publish", "topic") < 15

    run(hub, scene)


def test_any_number_of_topics_comes_through_a_loss() -> None:
    hub, topics = Hub(), [f"topic {number}" for number in range(1100)]

    async def scene(connector: Any, told: list[Exception]) -> None:
        failures: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context))
        await connector.connect()
        hub.does = {("subscribe", topic): [FOREVER] for topic in topics}
        subscribing = [asyncio.ensure_future(connector.subscribe(topic, print)) for topic in topics]
        await asyncio.sleep(0.5)
        hub.lose()
        await asyncio.gather(*subscribing)
        for count in (2, 3):
            assert [hub.count("subscribe", topic) for topic in topics] == [count] * len(topics)
            hub.lose()
            await asyncio.sleep(5)
        assert failures == []

    run(hub, scene)


def test_a_callback_that_raises_before_any_settings_are_known_keeps_no_other_message_waiting() -> None:
    def source() -> Any:
        raise OSError("not yet")

    def callback(error: Any) -> None:
        raise KeyError("mine")

    async def scene(connector: Any, told: list[Exception]) -> None:
        failures: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context))
        connector.start()
        connector.publish_nowait("topic", 1, callback)
        publishing = connector.publish("topic", 2)
        with pytest.raises(ERRORS.PublishUnconfirmedError):
            async with asyncio.timeout(60):
                await publishing
        assert failures == []
        assert [e for e in told if isinstance(e, ERRORS.ListenerError)]

    run(Hub(), scene, source)


def test_a_secret_that_came_later_is_hidden_in_what_subscribe_says() -> None:
    hub, passwords = Hub(), iter(["the-first-secret", "the-second-secret"])
    hub.does["subscribe", "topic"] = ERRORS.SubscribeRefusedError("the-second-secret is wrong")

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        hub.lose()
        await asyncio.sleep(5)
        with pytest.raises(ERRORS.SubscribeRefusedError) as refused:
            await connector.subscribe("topic", print)
        assert "second" not in str(refused.value)
        assert refused.value.__cause__ is None

    run(hub, scene, lambda: settings("a", password=next(passwords)))


def test_the_password_of_a_file_is_hidden_in_what_subscribe_says_after_start(tmp_path: Any) -> None:
    file = tmp_path / "password"
    file.write_text("the-secret")
    hub = Hub()
    hub.does["subscribe", "topic"] = ERRORS.SubscribeRefusedError("the-secret is wrong")

    async def scene(connector: Any, told: list[Exception]) -> None:
        connector.start()
        with pytest.raises(ERRORS.SubscribeRefusedError) as refused:
            await connector.subscribe("topic", print)
        assert "the-secret" not in str(refused.value)

    run(hub, scene, password_file=file)


def test_the_broker_is_named_in_what_subscribe_says_after_start() -> None:
    hub = Hub()
    hub.does["subscribe", "topic"] = ERRORS.SubscribeRefusedError("not for you")

    async def source() -> Any:
        return settings("a")

    async def scene(connector: Any, told: list[Exception]) -> None:
        connector.start()
        with pytest.raises(ERRORS.SubscribeRefusedError) as refused:
            await connector.subscribe("topic", print)
        assert str(refused.value).startswith("a://a refused")

    run(hub, scene, source)


def test_a_secret_that_came_later_is_hidden_in_what_is_logged_of_the_control_topic(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub, passwords = Hub(), iter(["the-first-secret", "the-second-secret"])
    hub.does["subscribe", "CONTROL"] = [None, ERRORS.SubscribeRefusedError("the-second-secret is wrong")]

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        hub.lose()
        await asyncio.sleep(5)

    run(hub, scene, lambda: settings("a", password=next(passwords)))
    assert "does not let this node use the topic" in caplog.text
    assert "second" not in caplog.text


def test_a_secret_that_came_later_is_hidden_in_what_unsubscribe_says() -> None:
    hub, passwords = Hub(), iter(["the-first-secret", "the-second-secret"])
    hub.does["unsubscribe", "topic"] = [OSError("the-second-secret is wrong")]

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        hub.lose()
        await asyncio.sleep(5)
        await connector.subscribe("topic", print)
        with pytest.raises(ERRORS.UnsubscribeError) as raised:
            await connector.unsubscribe("topic", print)
        assert "second" not in str(raised.value)

    run(hub, scene, lambda: settings("a", password=next(passwords)))


def test_a_subscription_that_the_broker_never_answers_keeps_no_node_from_coming_back() -> None:
    hub = Hub()
    hub.does["subscribe", "topic"] = FOREVER

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        await connector.subscribe("other", print)
        subscribing = asyncio.ensure_future(connector.subscribe("topic", print))
        await asyncio.sleep(0.5)
        hub.lose()
        with pytest.raises(ERRORS.SubscribeUnconfirmedError):
            await subscribing
        assert connector.is_ready
        assert of("ReconnectError", told) == []
        assert hub.asked.count(("subscribe", "other")) == 2

    run(hub, scene, publish_timeout=3)
