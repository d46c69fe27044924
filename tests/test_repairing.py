"""What a connector says and takes on the control topic, on a clock that jumps: numbers, questions, losses, limits."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import jumping
import pytest
from jumping import CONTROL, ERRORS, WIRE, Scene, module, now, of, settings

REPAIR = module("repair")

SOON = 0.005
"""Seconds in which a node can say something, though not after a delay of its own."""


class Broker(jumping.Broker):
    """May refuse the control topic, or lose who asks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.subscribing: list[str] = []
        """What the next subscriptions to the control topic come to: nothing, "refused" or "lost"."""
        self.subscribed: list[str] = []
        self.publishing: Callable[[str], Awaitable[None]] | None = None

    async def subscribe(self, transport: Any, topic: str) -> None:
        self.subscribed.append(topic)
        does = self.subscribing.pop(0) if topic == CONTROL and self.subscribing else ""
        if does == "refused":
            raise ERRORS.SubscribeRefusedError("not for you")
        if does == "lost":
            self.lose()
            await asyncio.sleep(1)
        await super().subscribe(transport, topic)

    async def publish(self, transport: Any, topic: str, payload: bytes) -> None:
        self.note(topic, payload)
        if self.publishing:
            await self.publishing(topic)
        self.hand(topic, payload)


class Peer:
    """Another node, whose frames are made by a test; its clock is `ahead` of ours by so many seconds."""

    def __init__(self, broker: Broker, letter: bytes = b"P", ahead: float = 0.0) -> None:
        self.broker = broker
        self.id = letter * 16
        self.ahead = ahead

    def say(self, answers: bool = True, **words: Any) -> None:
        body = WIRE.pack_body(WIRE.Control(**words))
        flags = WIRE.ANSWERS if answers else 0
        self.broker.hand(CONTROL, WIRE.pack(0, WIRE.CONTROL, self.id, 0, 0, 0, flags, body))

    def clock(self, late: float = 0.0) -> int:
        """Return the clock that a frame bears that was made `late` seconds ago."""
        return int((now() - late + self.ahead) * 1_000_000)

    def send(self, *numbers: int, topic: str = "topic", answers: bool = True) -> None:
        """Send messages that say their numbers, each in a frame of its own."""
        flags = WIRE.ANSWERS if answers else 0
        for number in numbers:
            body = b"[%d]" % number
            self.broker.hand(topic, WIRE.pack(1, WIRE.MESSAGES, self.id, number, 0, 1, flags, body))

    def send_again(self, number: int, topic: str = "topic") -> None:
        body = WIRE.pack_again([WIRE.Run(1, 100)], b"[%d]" % number)
        self.broker.hand(topic, WIRE.pack(1, WIRE.AGAIN, self.id, number, 0, 1, WIRE.ANSWERS, body))

    def tell(self, number: int, topic: str = "topic", answers: bool = True) -> None:
        self.say(answers, counts=[WIRE.Count(topic, 0, number, number, 0)])

    def ask(self, target: bytes, first: int, age: float | None, clock: int | None, topic: str = "topic") -> None:
        micros = None if age is None else int(age * 1_000_000)
        self.say(questions=[WIRE.Question(target, topic, first, micros, 1)], clock=clock)


def play(broker: Broker, scene: Scene, limits: dict[str, Any] | None = None, **attributes: Any) -> None:
    """Run a scene with a connector that is connected."""

    async def begin(connector: Any, told: list[Exception]) -> None:
        await connector.connect()
        await scene(connector, told)

    jumping.play(broker, settings(**(limits or {})), begin, **attributes)


async def reconnect(broker: Broker, connector: Any) -> None:
    """Lose the connection; return when there is another one."""
    broker.lose()
    await asyncio.sleep(0.01)
    await connector.connect()


async def time_of(publishing: Awaitable[None]) -> float:
    """Return how many seconds it takes until a message is accepted."""
    began = now()
    await publishing
    return now() - began


def losses(told: list[Exception]) -> list[int]:
    """Return how many messages were lost each time; nothing else was told."""
    assert all(isinstance(error, ERRORS.MessagesLostError | ERRORS.ConnectionLostError) for error in told)
    return [error.count for error in of("MessagesLostError", told)]


# Rights to the control topic.


def test_a_node_that_has_nothing_to_say_says_nothing_until_it_leaves() -> None:
    broker = Broker()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await asyncio.sleep(60)
        assert not broker.words

    play(broker, scene)
    assert [word.is_leaving for word in broker.words] == [True]


@pytest.mark.parametrize("rounds", [1, 2])
def test_where_three_connections_end_at_the_control_topic_the_next_does_without_it(
    rounds: int, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Broker()
    broker.subscribing = ["lost"] * 3

    async def scene(connector: Any, told: list[Exception]) -> None:
        for _ in range(rounds - 1):
            broker.subscribing = ["lost"] * 3
            await reconnect(broker, connector)
            await asyncio.sleep(60)
            await connector.connect()
        assert broker.subscribed == [CONTROL] * 3 * rounds
        await connector.publish("topic", 1)
        assert [frame.flags for frame in broker.frames("topic")] == [0]
        await reconnect(broker, connector)
        await connector.publish("topic", 1)
        assert broker.frames("topic")[1].flags == WIRE.ANSWERS

    play(broker, scene)
    [record] = [record for record in caplog.records if "control_topic" in record.message]
    assert "'CONTROL' (control_topic): each request for it ended the connection. Lost" in record.message


def test_only_connections_that_end_one_after_the_other_at_the_control_topic_count() -> None:
    broker = Broker()
    broker.subscribing = ["lost", "lost", ""]

    async def scene(connector: Any, told: list[Exception]) -> None:
        broker.subscribing = ["lost", "lost", ""]
        await reconnect(broker, connector)
        await asyncio.sleep(60)
        await connector.publish("topic", 1)
        assert broker.subscribed == [CONTROL] * 6
        assert broker.frames("topic")[0].flags == WIRE.ANSWERS

    play(broker, scene)


def test_a_node_that_may_not_subscribe_to_the_control_topic_says_so_once_and_says_nothing_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = Broker()
    broker.subscribing = ["refused"] * 2

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.subscribe("topic", print)
        await connector.publish("topic", 1)
        await reconnect(broker, connector)
        assert await time_of(connector.publish("topic", 2)) == pytest.approx(REPAIR.HOLD, abs=0.05)
        assert [frame.flags for frame in broker.frames("topic")] == [0, 0]

    play(broker, scene)
    assert not broker.words
    [record] = [record for record in caplog.records if "control_topic" in record.message]
    assert "(control_topic): not for you. Lost" in record.message


def test_a_node_that_may_not_publish_on_the_control_topic_says_so_and_does_without_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = Broker()

    async def refuse(topic: str) -> None:
        if topic == CONTROL:
            raise ERRORS.PublishRefusedError("not from you")

    async def scene(connector: Any, told: list[Exception]) -> None:
        broker.publishing = refuse
        await connector.subscribe("topic", print)
        await asyncio.sleep(1)
        await connector.publish("topic", 1)
        assert [frame.flags for frame in broker.frames("topic")] == [0]

    play(broker, scene)
    assert len(broker.words) == 1
    [record] = [record for record in caplog.records if "control_topic" in record.message]
    assert "(control_topic): not from you. Lost" in record.message


def test_where_the_broker_keeps_messages_nobody_is_told_or_asked() -> None:
    broker = Broker()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.subscribe("topic", print)
        await connector.publish("topic", 1)
        await asyncio.sleep(60)
        await reconnect(broker, connector)
        await connector.publish("topic", 1)
        assert {frame.flags for frame in broker.frames("topic")} == {0}

    play(broker, scene, keeps_messages=True)
    assert CONTROL not in broker.subscribed
    assert not broker.words


# After a loss, and before the end.


def test_a_node_says_that_it_is_back_after_a_loss_only() -> None:
    broker = Broker()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.subscribe("topic", print)
        await asyncio.sleep(1)
        assert [(word.topics, word.is_back) for word in broker.words] == [(["topic"], False)]
        await reconnect(broker, connector)
        await asyncio.sleep(1)
        assert [(word.topics, word.is_back) for word in broker.words[1:]] == [(["topic"], True)]
        for word, sent in zip(broker.words, broker.sent, strict=True):
            assert word.clock / 1_000_000 == pytest.approx(sent.at, abs=0.0005)

    play(broker, scene)


def test_after_a_loss_messages_are_held_until_all_who_were_heard_are_back() -> None:
    broker = Broker()
    one, other = Peer(broker, b"P"), Peer(broker, b"Q")

    async def scene(connector: Any, told: list[Exception]) -> None:
        one.say()
        other.say()
        await reconnect(broker, connector)
        publishing = asyncio.ensure_future(time_of(connector.publish("topic", 1)))
        await asyncio.sleep(0.2)
        one.say()
        await asyncio.sleep(0.2)
        assert not publishing.done()
        other.say()
        assert await publishing == pytest.approx(0.4, abs=0.02)

    play(broker, scene)


def test_a_node_that_was_not_back_in_time_is_not_waited_for_again_until_it_is_heard() -> None:
    broker = Broker()
    peer = Peer(broker)

    async def scene(connector: Any, told: list[Exception]) -> None:
        peer.say()
        await reconnect(broker, connector)
        assert await time_of(connector.publish("topic", 1)) == pytest.approx(REPAIR.HOLD, abs=0.02)
        await reconnect(broker, connector)
        assert await time_of(connector.publish("topic", 1)) < 0.02
        peer.say()
        await reconnect(broker, connector)
        assert await time_of(connector.publish("topic", 1)) == pytest.approx(REPAIR.HOLD, abs=0.02)

    play(broker, scene)


def test_a_node_that_has_left_is_not_waited_for_and_what_it_still_owed_is_lost() -> None:
    broker = Broker()
    peer = Peer(broker)

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.subscribe("topic", lambda _: None)
        peer.say()
        peer.send(0, 2)
        await asyncio.sleep(0.1)
        peer.say(is_leaving=True)
        await asyncio.sleep(2.4)
        assert not told
        await asyncio.sleep(0.2)
        assert losses(told) == [1]
        await reconnect(broker, connector)
        assert await time_of(connector.publish("topic", 1)) < 0.02

    play(broker, scene)


def test_a_node_that_leaves_tells_its_last_numbers_before() -> None:
    broker = Broker()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.publish("topic", 1)
        assert not broker.words

    play(broker, scene)
    last, leaving = broker.words
    assert [(count.topic, count.number) for count in last.counts] == [("topic", 1)]
    assert (last.is_leaving, leaving.is_leaving, leaving.counts) == (False, True, [])


def test_a_further_listener_waits_until_what_is_missing_is_there_and_gets_nothing_of_it() -> None:
    broker = Broker()
    peer = Peer(broker)
    first, second = list[int](), list[int]()

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.subscribe("topic", first.append)
        peer.send(0, 2)
        subscribing = asyncio.ensure_future(connector.subscribe("topic", second.append))
        await asyncio.sleep(1)
        assert not subscribing.done()
        peer.send_again(1)
        began = now()
        await subscribing
        assert now() - began < 0.01
        peer.send(3)
        await asyncio.sleep(0.01)
        assert (first, second) == ([0, 1, 2, 3], [3])

    play(broker, scene)


def test_a_further_listener_waits_after_a_loss_until_the_others_are_back() -> None:
    broker = Broker()
    peer = Peer(broker)

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.subscribe("topic", lambda _: None)
        peer.say()
        await reconnect(broker, connector)
        subscribing = asyncio.ensure_future(connector.subscribe("topic", lambda _: None))
        await asyncio.sleep(0.5)
        assert not subscribing.done()
        peer.say()
        await asyncio.sleep(SOON)
        assert subscribing.done()

    play(broker, scene)


def test_an_outage_is_no_time_in_which_a_sender_leaves_questions_without_an_answer() -> None:
    broker = Broker()
    peer = Peer(broker)
    got: list[int] = []

    async def dead(self: Any) -> None:
        if is_down:
            raise ConnectionRefusedError
        await broker.connect(self)

    is_down = False

    async def scene(connector: Any, told: list[Exception]) -> None:
        nonlocal is_down
        await connector.subscribe("topic", got.append)
        await connector.subscribe("other", print)
        peer.send(0, 2)
        is_down = True
        broker.lose()
        await asyncio.sleep(1)
        await connector.unsubscribe("other", print)
        await asyncio.sleep(200)
        is_down = False
        await asyncio.sleep(10)
        assert not any(isinstance(error, ERRORS.MessagesLostError) for error in told)
        peer.send_again(1)
        await asyncio.sleep(1)
        assert got == [0, 1, 2]

    play(broker, scene, connect=dead)


# What others ask.


@pytest.mark.parametrize(("late", "has_clock", "start"), [(2.0, True, 1), (0.0, True, 2), (2.0, False, 2)])
def test_the_time_that_a_question_was_on_its_way_is_added_to_its_age(late: float, has_clock: bool, start: int) -> None:
    broker = Broker()
    peers = [Peer(broker, b"P", ahead=500.0), Peer(broker, b"Q", ahead=-500.0)]

    async def scene(connector: Any, told: list[Exception]) -> None:
        for index in range(3):
            await connector.publish("topic", index)
            await asyncio.sleep(2)
        for peer in (*peers, *peers):
            peer.say(clock=peer.clock())
        peers[1].ask(broker.frames("topic")[0].sender, 0, 3.5, peers[1].clock(late) if has_clock else None)
        await asyncio.sleep(SOON)
        answer = next(frame for frame in broker.frames("topic") if frame.kind == WIRE.ANSWER)
        assert [reply.start for reply in WIRE.unpack_answer(answer).replies] == [start]

    play(broker, scene)


def test_the_quickest_of_the_last_minutes_frames_says_how_late_the_others_are() -> None:
    broker = Broker()
    peer = Peer(broker)

    async def scene(connector: Any, told: list[Exception]) -> None:
        peer.say(clock=peer.clock())
        await asyncio.sleep(REPAIR.RECENT + 1)
        peer.say(clock=peer.clock(late=3.0))
        for index in range(3):
            await connector.publish("topic", index)
            await asyncio.sleep(2)
        peer.ask(broker.frames("topic")[0].sender, 0, 3.5, peer.clock(late=3.0))
        await asyncio.sleep(SOON)
        answer = next(frame for frame in broker.frames("topic") if frame.kind == WIRE.ANSWER)
        assert [reply.start for reply in WIRE.unpack_answer(answer).replies] == [2]

    play(broker, scene)


def test_who_asks_for_numbers_is_told_all_of_them_within_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REPAIR, "AT_A_TIME", 2)
    broker = Broker()
    peer = Peer(broker)
    topics = ["a", "b", "c", "d", "e"]

    async def scene(connector: Any, told: list[Exception]) -> None:
        for topic in topics:
            await connector.publish(topic, 1)
        peer.say(topics=topics)
        await asyncio.sleep(REPAIR.ANSWER_DELAY + SOON)
        assert [count.topic for word in broker.words for count in word.counts] == topics

    play(broker, scene)


@pytest.mark.parametrize("is_asked_too", [False, True])
def test_who_is_back_is_answered_also_by_a_node_that_has_nothing_to_tell(is_asked_too: bool) -> None:
    broker = Broker()
    peer = Peer(broker)

    async def scene(connector: Any, told: list[Exception]) -> None:
        peer.say(is_back=True)
        if is_asked_too:
            peer.say(topics=["topic"])
        await asyncio.sleep(REPAIR.ANSWER_DELAY + SOON)
        [word] = broker.words
        assert (word.counts, word.is_back) == ([], False)
        await asyncio.sleep(60)
        assert len(broker.words) == 1

    play(broker, scene)


def test_more_nodes_than_are_remembered_may_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REPAIR, "PEERS", 2)
    broker = Broker()
    peers = [Peer(broker, letter) for letter in (b"P", b"Q", b"R", b"S")]

    async def scene(connector: Any, told: list[Exception]) -> None:
        for peer in peers:
            peer.say(clock=peer.clock())
        for peer in reversed(peers):
            peer.say(clock=peer.clock(), is_leaving=True)
        await asyncio.sleep(2)
        assert not told
        await reconnect(broker, connector)
        assert await time_of(connector.publish("topic", 1)) < 0.02

    play(broker, scene)


# What this node asks.


def test_a_question_is_asked_until_it_is_answered_and_at_once_when_its_sender_is_back() -> None:
    broker = Broker()
    peer = Peer(broker)

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.subscribe("topic", print)
        peer.send(0, 2)
        await asyncio.sleep(SOON + 0.01)
        [question] = broker.questions
        assert (question.target, question.topic, question.first, question.age) == (peer.id, "topic", 1, None)
        await asyncio.sleep(0.5)
        peer.say(is_back=True)
        await asyncio.sleep(SOON + 0.01)
        assert len(broker.questions) == 2
        peer.send_again(1)
        await asyncio.sleep(60)
        assert (len(broker.questions), told) == (2, [])

    play(broker, scene)


def test_another_nodes_question_is_not_asked_again_for_a_quarter_of_a_heartbeat() -> None:
    broker = Broker()
    peer, other = Peer(broker, b"P"), Peer(broker, b"Q")

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.subscribe("topic", print)
        peer.send(0, 2)
        other.ask(peer.id, 1, None, None)
        await asyncio.sleep(1.2)
        assert not broker.questions
        await asyncio.sleep(0.1)
        assert (len(broker.questions), told) == (1, [])

    play(broker, scene)


def test_what_a_sender_that_answers_no_questions_has_skipped_is_lost_at_once() -> None:
    broker = Broker()
    peer = Peer(broker)

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.subscribe("topic", print)
        peer.send(0, answers=False)
        peer.tell(3, answers=False)
        await asyncio.sleep(SOON)
        assert losses(told) == [2]
        peer.tell(5)
        await asyncio.sleep(0.1)
        assert (len(told), len(broker.questions)) == (1, 1)

    play(broker, scene)


def test_more_is_asked_for_when_the_listener_has_caught_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REPAIR, "AHEAD", 2)
    broker = Broker()
    peer = Peer(broker)
    got: list[int] = []

    async def listen(message: int) -> None:
        await asyncio.sleep(10)
        got.append(message)

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.subscribe("topic", listen)
        peer.send(*range(10), 11)
        await asyncio.sleep(60)
        assert not broker.questions
        await asyncio.sleep(35)
        assert broker.questions[0].first == 10
        peer.send_again(10)
        await asyncio.sleep(30)
        assert (got, told) == (list(range(12)), [])

    play(broker, scene)


# Control frames.


def test_one_control_frame_is_on_its_way_at_a_time_and_the_next_has_all_that_has_come_up() -> None:
    broker = Broker()

    async def be_slow(topic: str) -> None:
        if topic == CONTROL:
            await asyncio.sleep(1)

    async def scene(connector: Any, told: list[Exception]) -> None:
        broker.publishing = be_slow
        for topic in ("a", "b", "c"):
            await connector.subscribe(topic, print)
            await asyncio.sleep(0.1)
        await asyncio.sleep(3)
        assert [word.topics for word in broker.words] == [["a"], ["b", "c"]]
        first, second = broker.sent
        assert second.at - first.at == pytest.approx(1, abs=0.01)

    play(broker, scene)


FITS_3 = WIRE.overhead(0) + 3 * 3 * (4 * len("t0000") + REPAIR.ENTRY_COST)
"""The size of a control frame with room for three entries of each of three kinds."""


@pytest.mark.parametrize(("most", "together"), [(FITS_3, 3), (FITS_3 + 209, 3), (100, 1), (None, 7)])
def test_a_control_frame_is_no_larger_than_the_broker_takes(most: int | None, together: int) -> None:
    broker = Broker()
    peer = Peer(broker)
    topics = [f"t{index:04}" for index in range(7)]
    portions = [topics[start : start + together] for start in range(0, 7, together)]

    async def scene(connector: Any, told: list[Exception]) -> None:
        for topic in topics:
            await connector.subscribe(topic, print)
            await connector.publish(topic, 1)
        await asyncio.sleep(5)
        broker.sent.clear()
        await reconnect(broker, connector)
        await asyncio.sleep(1)
        assert [word.topics for word in broker.words if word.topics] == portions
        broker.sent.clear()
        peer.say(topics=topics)
        await asyncio.sleep(1)
        assert [[count.topic for count in word.counts] for word in broker.words] == portions
        broker.sent.clear()
        for topic in topics:
            peer.send(0, 2, topic=topic)
        await asyncio.sleep(1)
        assert sorted(question.topic for question in broker.questions) == topics
        assert all(len(word.questions) <= together for word in broker.words)

    play(broker, scene, max_frame_bytes=most)


def test_a_control_frame_has_so_many_bytes_of_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REPAIR, "ENTRY_BYTES", 2 * (4 * len("a") + REPAIR.ENTRY_COST))
    broker = Broker()

    async def scene(connector: Any, told: list[Exception]) -> None:
        for topic in ("a", "b", "c"):
            await connector.subscribe(topic, print)
        await asyncio.sleep(1)
        broker.sent.clear()
        await reconnect(broker, connector)
        await asyncio.sleep(1)
        assert [word.topics for word in broker.words] == [["a", "b"], ["c"]]

    play(broker, scene)


@pytest.mark.parametrize("topic", [CONTROL, ""])
def test_a_forged_question_about_no_topic_is_told_and_not_answered(topic: str) -> None:
    broker = Broker()
    peer = Peer(broker)

    async def scene(connector: Any, told: list[Exception]) -> None:
        await connector.publish("topic", 1)
        node = broker.frames("topic")[0].sender
        peer.ask(node, 0, None, None, topic)
        await asyncio.sleep(1)
        assert [type(error) for error in told] == [ERRORS.BadFrameError]
        assert {frame.kind for frame in broker.frames(topic)} <= {WIRE.CONTROL}
        with pytest.raises(ERRORS.PublishRefusedError):
            await connector.publish(topic, 1)

    play(broker, scene)
