"""Topics that are spread over several topics of the broker: their names, what a host is told, and nodes that differ."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import jumping
import pytest
from jumping import CONTROL, ERRORS, WIRE, Scene, module, of, settings

SHARDS = module("shards").Shards
NODE_INBOX = module("node_inbox")

SENDER = b"S" * 16
LANES = ["topic", "topic--1", "topic--2", "topic--3"]
KEY = "b"
LANE = "topic--1"
"""On which messages with the key travel, of four."""


class Broker(jumping.Broker):
    """Raises what a test has put in `errors`, by method and topic."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: dict[tuple[str, str], Exception] = {}
        self.silent = ""
        """The topic to which subscribing takes forever."""

    async def publish(self, transport: Any, topic: str, payload: bytes) -> None:
        self._fail("publish", topic)
        await super().publish(transport, topic, payload)

    async def subscribe(self, transport: Any, topic: str) -> None:
        self._fail("subscribe", topic)
        if topic == self.silent:
            await asyncio.sleep(jumping.FOREVER)
        await super().subscribe(transport, topic)

    async def unsubscribe(self, transport: Any, topic: str) -> None:
        self._fail("unsubscribe", topic)
        await super().unsubscribe(transport, topic)

    def _fail(self, method: str, topic: str) -> None:
        if error := self.errors.get((method, topic)):
            raise error

    @property
    def lanes(self) -> list[str]:
        """The topics to which the node is subscribed."""
        return sorted(topic for topic, there in self.topics.items() if there and topic != CONTROL)

    def send(self, topic: str, number: int, flags: int = WIRE.ANSWERS, kind: int = WIRE.MESSAGES) -> None:
        """Hand on a message of another node, which has four shards, that says its number."""
        body = b"[%d]" % number
        if kind == WIRE.AGAIN:
            body = WIRE.pack_again([WIRE.Run(1, 100)], body)
        self.hand(topic, WIRE.pack(1, kind, SENDER, number, 0, 1, flags | WIRE.shards_flag(4), body))

    def say(self, shards: int, sender: bytes = SENDER) -> None:
        """Hand on a control frame of another node."""
        body = WIRE.pack_body(WIRE.Control())
        self.hand(CONTROL, WIRE.pack(0, WIRE.CONTROL, sender, 0, 0, 0, WIRE.shards_flag(shards), body))


def play(broker: Broker, scene: Scene, shards: int = 4, **limits: Any) -> None:
    """Run a scene with a connector that is connected."""

    async def begin(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        await scene(connector, told)

    jumping.play(broker, settings(shards=shards, **limits), begin)


# Names.


@pytest.mark.parametrize("number", [1, 2, 8, 32])
def test_each_key_belongs_to_one_of_the_shards(number: int) -> None:
    shards = SHARDS(number)
    lanes = shards.topics("a\nb", None)
    assert lanes == ("a\nb", *(f"a\nb--{shard}" for shard in range(1, number)))
    assert {shards.topic("a\nb", f"key {each}") for each in range(1000)} == set(lanes)
    assert shards.topic("a\nb", None) == "a\nb"
    assert all(shards.topics("a\nb", key) == (shards.topic("a\nb", key),) for key in ("", "a", "ü", "\ud800"))
    assert [shards.coarse(lane) for lane in lanes] == ["a\nb"] * number
    assert [shards.is_reserved(lane) for lane in lanes] == [False] + [True] * (number - 1)


@pytest.mark.parametrize("name", ["--1", "a-1", "a--0", "a--01", "a--32", "a--1 ", "a--1\n", "a--x", "a--٣"])
def test_other_names_are_not_those_of_shards(name: str) -> None:
    assert not SHARDS(32).is_reserved(name)
    assert SHARDS(32).coarse(name) == name


def test_a_private_topic_has_no_shards() -> None:
    name = module("topics").private_topic("node--1")
    assert SHARDS(8).topics(name, None) == SHARDS(8).topics(name, "a") == (name,)
    assert not SHARDS(8).is_reserved(name)


@pytest.mark.parametrize("number", ["0", "33", "x"])
def test_a_number_of_shards_that_cannot_be_is_refused(number: str) -> None:
    with pytest.raises(ValueError, match="shards"):
        settings(shards=number)


def test_the_topic_of_which_a_shard_would_be_the_control_topic_is_refused() -> None:
    async def scene(connector: Any, told: list[Exception]) -> None:
        for name in ("words", "words--3"):
            with pytest.raises(ERRORS.SubscribeRefusedError):
                await connector.subscribe(name, print)
        await connector.subscribe("word", print)

    play(Broker(), scene, control_topic="words--3")


def test_a_name_that_was_published_on_by_a_key_is_refused_all_the_same() -> None:
    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.publish("topic", 1, key=KEY)
        with pytest.raises(ERRORS.PublishRefusedError, match="shard"):
            await connector.publish(LANE, 1)

    play(Broker(), scene)


# What a host is told.


async def pull(connector: Any) -> None:
    async with connector.messages("topic"):
        pass


CALLS: dict[str, Callable[[Any], Awaitable[None]]] = {
    "publish": lambda connector: connector.publish("topic", 1, key=KEY),
    "subscribe": lambda connector: connector.subscribe("topic", print),
    "messages": pull,
    "unsubscribe": lambda connector: connector.unsubscribe("topic", print),
}


@pytest.mark.parametrize("call", CALLS)
def test_the_error_of_a_call_names_the_topic(call: str) -> None:
    broker = Broker()

    async def scene(connector: Any, told: list[Exception]) -> None:
        if call == "unsubscribe":
            await connector.subscribe("topic", print)
        broker.errors = {
            ("publish", LANE): ERRORS.PublishRefusedError("no"),
            ("subscribe", LANE): ERRORS.SubscribeRefusedError("no"),
            ("unsubscribe", LANE): OSError("no"),
        }
        with pytest.raises(ERRORS.ConnectorError) as raised:
            await CALLS[call](connector)
        broker.errors.clear()
        assert getattr(raised.value, "topic", "topic") == "topic"
        assert "'topic'" in str(raised.value)
        await asyncio.sleep(1)
        assert broker.lanes == []

    play(broker, scene)


def test_a_loss_on_a_shard_names_the_topic() -> None:
    broker = Broker()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.subscribe("topic", print)
        for number in (0, 3):
            broker.send(LANE, number, flags=0)
        (loss,) = told
        assert isinstance(loss, ERRORS.MessagesLostError)
        assert (loss.topic, loss.node, loss.count) == ("topic", SENDER.hex(), 2)
        assert "'topic'" in str(loss)

    play(broker, scene)


def test_a_flood_of_bad_frames_on_all_shards_is_one_event_a_second() -> None:
    broker = Broker()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.subscribe("topic", print)
        for lane in LANES * 10:
            broker.hand(lane, b"no frame")
        assert [(error.topic, error.count) for error in of("BadFrameError", told)] == [("topic", 1)]
        await asyncio.sleep(1.1)
        assert [(error.topic, error.count) for error in of("BadFrameError", told)] == [("topic", 1), ("topic", 39)]

    play(broker, scene)


# Listeners.


@pytest.mark.parametrize("number", range(4))
def test_a_refused_shard_leaves_no_subscription_and_hinders_none_that_was_there(number: int) -> None:
    broker, got = Broker(), list[Any]()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.subscribe("topic", got.append, key=KEY)
        broker.errors["subscribe", LANES[number]] = ERRORS.SubscribeRefusedError("no")
        if LANES[number] != LANE:
            with pytest.raises(ERRORS.SubscribeRefusedError):
                await connector.subscribe("topic", print)
            await asyncio.sleep(0.1)
        assert broker.lanes == [LANE]
        broker.send(LANE, 0)
        await asyncio.sleep(0.1)
        assert got == [0]

    play(broker, scene)


def test_after_a_loss_all_shards_are_subscribed_again() -> None:
    broker = Broker()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.subscribe("topic", print)
        broker.lose()
        await asyncio.sleep(1)
        assert (connector.is_ready, broker.lanes) == (True, LANES)
        await connector.unsubscribe("topic", print)
        assert broker.lanes == []

    play(broker, scene)


def test_a_shard_that_never_answers_keeps_no_other_from_coming_back() -> None:
    broker = Broker()

    async def scene(connector: Any, told: list[Exception]) -> None:
        broker.silent = "topic--2"
        waiting = asyncio.ensure_future(connector.subscribe("topic", print))
        await asyncio.sleep(0.1)
        await connector.subscribe("topic", print, key=KEY)
        broker.lose()
        await asyncio.sleep(0)
        await connector.connect()
        assert LANE in broker.lanes
        with pytest.raises(ERRORS.SubscribeUnconfirmedError) as raised:
            await waiting
        assert raised.value.topic == "topic"
        await asyncio.sleep(1)
        assert (connector.is_ready, broker.lanes) == (True, [LANE])

    play(broker, scene, publish_timeout=1)


def test_a_listener_to_all_shards_gets_nothing_older_from_one_that_is_being_repaired() -> None:
    broker, first, second = Broker(), list[Any](), list[Any]()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.subscribe("topic", first.append, key=KEY)
        for number in (0, 2):
            broker.send(LANE, number)
        subscribing = asyncio.ensure_future(connector.subscribe("topic", second.append))
        await asyncio.sleep(0.05)
        assert broker.lanes == LANES
        broker.send(LANE, 1, kind=WIRE.AGAIN)
        await subscribing
        await asyncio.sleep(0.05)
        assert (first, second) == ([0, 1, 2], [])
        broker.send(LANE, 3)
        broker.send("topic", 0)
        await asyncio.sleep(0.05)
        assert (first, second) == ([0, 1, 2, 3], [3, 0])

    play(broker, scene)


@pytest.mark.parametrize("does", ["cancels", "unsubscribes", "fails"])
def test_of_two_keys_that_are_subscribed_at_once_each_call_answers_for_its_own(does: str) -> None:
    broker, got = Broker(), list[Any]()

    async def scene(connector: Any, told: list[Exception]) -> None:
        keys = [key for key in map(str, range(20)) if SHARDS(4).topic("topic", key) == LANE][:2]
        broker.lose()
        await asyncio.sleep(0)
        one, other = (asyncio.ensure_future(connector.subscribe("topic", got.append, key=key)) for key in keys)
        await asyncio.sleep(0)
        if does == "cancels":
            one.cancel()
        elif does == "unsubscribes":
            await connector.unsubscribe("topic", got.append, key=keys[0])
        else:
            broker.errors["subscribe", LANE] = ERRORS.SubscribeRefusedError("no")
        results = await asyncio.gather(one, other, return_exceptions=True)
        if does == "fails":
            assert [type(result) for result in results] == [ERRORS.SubscribeRefusedError] * 2
        else:
            assert results[1] is None
            broker.send(LANE, 0)
            await asyncio.sleep(0.05)
            assert got == [0]
            with pytest.raises(ERRORS.UnsubscribeError, match=f"with key '{keys[0]}'"):
                await connector.unsubscribe("topic", got.append, key=keys[0])
            await connector.unsubscribe("topic", got.append, key=keys[1])
        with pytest.raises(ERRORS.UnsubscribeError):
            await connector.unsubscribe("topic", got.append, key=keys[1])
        await asyncio.sleep(0.05)
        assert broker.lanes == []

    play(broker, scene)


# Nodes with another number of shards.


def from_messages(broker: Broker) -> None:
    for number in range(3):
        broker.send("topic", number)


def from_the_control_topic(broker: Broker) -> None:
    for _ in range(3):
        broker.say(4)


@pytest.mark.parametrize("come", [from_messages, from_the_control_topic])
@pytest.mark.parametrize("shards", [1, 3, 4])
def test_a_sender_with_another_number_of_shards_is_told_once(shards: int, come: Callable[[Broker], None]) -> None:
    broker, got = Broker(), list[Any]()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.subscribe("topic", got.append)
        await connector.subscribe("other", got.append)
        come(broker)
        broker.send("other", 0)
        await asyncio.sleep(0.1)
        assert got == ([0, 1, 2, 0] if come is from_messages else [0])
        differing = [] if shards == 4 else [(SENDER.hex(), shards, 4)]
        assert [(error.node, error.mine, error.theirs) for error in told] == differing  # type: ignore[attr-defined]
        for error in of("ShardsDifferError", told):
            assert error.topic == ("topic" if come is from_messages else CONTROL)
            assert f"shards = 4, and this node has {shards}" in str(error)

    play(broker, scene, shards)


def test_so_many_senders_with_another_number_are_told_and_no_more() -> None:
    broker = Broker()

    async def scene(connector: Any, told: list[Exception]) -> None:
        for number in range(NODE_INBOX.DIFFERING + 10):
            broker.say(3, sender=number.to_bytes(16, "big"))
            broker.say(3, sender=(number + 1_000_000).to_bytes(16, "big"))  # too soon after the other to be told
            await asyncio.sleep(1)
        assert len(told) == NODE_INBOX.DIFFERING

    play(broker, scene)


def test_every_frame_tells_the_number_of_shards() -> None:
    broker = Broker()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.subscribe("topic", print)
        await connector.publish("topic", 1, key=KEY)
        await asyncio.sleep(20)

    play(broker, scene, shards=32)
    assert {sent.topic for sent in broker.sent} == {SHARDS(32).topic("topic", KEY), CONTROL}
    assert {sent.frame.shards for sent in broker.sent} == {32}


def test_without_a_control_topic_a_node_with_fewer_shards_hears_of_a_message_on_the_first() -> None:
    broker = Broker()
    broker.errors["subscribe", CONTROL] = ERRORS.SubscribeRefusedError("not for you")

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.publish("topic", 1, key=KEY)
        assert broker.frames("topic") == []
        await asyncio.sleep(6)
        (frame,) = broker.frames("topic")
        assert (frame.kind, frame.shards) == (WIRE.CONTROL, 4)
        await asyncio.sleep(1000)
        assert len(broker.frames("topic")) == len(broker.frames(LANE)) - 1 == 4

    play(broker, scene)
