"""Decisions about numbers that random runs come to seldom, or that others make good: each by itself."""

from collections.abc import Callable
from itertools import chain, pairwise
from math import inf
from typing import Any

import pytest
from pure import load
from test_model import FULL, answer, ask, frame, origin, receiver, run, send, sender

NODE = origin(1)
WIRE = FULL.wire
REFUSED = FULL.sending.PublishRefusedError("no")
FORGETFUL = load("pure_forgetful", sending={"FEW_TOPICS": 0})


def several(number: int, count: int, kind: int = WIRE.MESSAGES, base: int = 0) -> Any:
    """Make a frame of `count` messages."""
    body = b"[%b]" % b",".join([b"1"] * count)
    if kind == WIRE.AGAIN:
        body = WIRE.pack_again([WIRE.Run(count, 0)], body)
    return WIRE.unpack(WIRE.pack(1, kind, NODE, number, base, count, WIRE.ANSWERS, body))


def question(node: Any, first: int, age: int | None = None, topic: str = "t") -> Any:
    return WIRE.Question(node.id, topic, first, age, 1)


def next_frame(node: Any, lane: Any, now: float = 9.0) -> Any:
    """Have the next frame of a lane accepted; return it."""
    payload, _ = node.load(lane, now)
    node.landed(lane, None, now)
    return WIRE.unpack(payload)


def replies(node: Any, lane: Any) -> list[Any]:
    return list(WIRE.unpack_answer(next_frame(node, lane)).replies)


def told(ear: Any, number: int, now: float, answers: bool = True) -> list[Any]:
    return list(ear.told(NODE, [WIRE.Count("t", 0, number, number, 0)], answers, now))


def numbers(effects: list[Any]) -> list[tuple[int, int]]:
    """Return number and skip of each frame that is delivered."""
    return [(effect.frame.number, effect.skip) for effect in effects]


def test_what_is_held_is_not_sent() -> None:
    node = sender()
    node.is_held = True
    lane = node.add("t", b"1", 0.0, 5.0, None)
    assert node.load(lane, 0.0) == (None, [])


def test_what_failed_is_not_accepted() -> None:
    node = sender()
    lane = node.add("t", b"1", 0.0, 5.0, None)
    node.load(lane, 0.0)
    assert not node.landed(lane, OSError("trouble"), 1.0)
    assert (node.pending, node.count(lane, 1.0).number) == (1, 0)


def test_what_was_refused_together_is_sent_one_by_one() -> None:
    node = sender()
    for _ in range(3):
        lane = node.add("t", b"1", 0.0, 5.0, None)
    node.load(lane, 0.0)
    assert not node.landed(lane, REFUSED, 1.0)
    assert [next_frame(node, lane).count for _ in range(3)] == [1, 1, 1]
    assert node.pending == 0


def test_what_may_have_arrived_is_not_said_to_be_refused() -> None:
    node = sender()
    lane = node.add("t", b"1", 0.0, 5.0, None)
    node.load(lane, 0.0)
    node.pause(1.0)
    node.resume(None, 2.0)
    node.load(lane, 2.0)
    [outcome] = node.landed(lane, REFUSED, 3.0)
    assert outcome.verdict.name == "UNCONFIRMED"
    assert send(node, "t", 4.0).number == 1


def test_what_may_have_arrived_keeps_its_number_when_it_has_become_too_large() -> None:
    node = sender()
    lane = node.add("t", b'"' + b"x" * 5000 + b'"', 0.0, 5.0, None)
    node.load(lane, 0.0)
    node.pause(1.0)
    node.resume(1000, 2.0)
    node.add("t", b"1", 2.0, 7.0, None)
    payload, [outcome] = node.load(lane, 2.0)
    assert (outcome.verdict.name, WIRE.unpack(payload).number) == ("TOO_LARGE", 1)


def test_the_numbers_of_a_frame_that_was_taken_apart_count_as_given() -> None:
    node = sender()
    for _ in range(2):
        lane = node.add("t", b'"' + b"x" * 500 + b'"', 0.0, 5.0, None)
    node.load(lane, 0.0)
    node.pause(1.0)
    node.resume(1000, 2.0)
    assert (lane.number, lane.next_given) == (0, 2)


def test_a_message_is_settled_once_also_when_its_frame_is_accepted_later() -> None:
    node = sender()
    for deadline in (1.0, 5.0):
        lane = node.add("t", b"1", 0.0, deadline, deadline)
    node.load(lane, 0.0)
    early = node.due(2.0).outcomes
    late = node.landed(lane, None, 3.0)
    assert [[message.receipt for message in outcome.messages] for outcome in (*early, *late)] == [[1.0], [5.0]]
    assert (node.pending, node.bytes) == (0, 0)


@pytest.mark.parametrize("deadlines", [(1.0, 2.0), (2.0, 1.0)])
def test_a_frame_is_waited_for_until_all_of_it_is_given_up(deadlines: tuple[float, float]) -> None:
    node = sender()
    for deadline in deadlines:
        lane = node.add("t", b"1", 0.0, deadline, None)
    node.load(lane, 0.0)
    assert [(node.due(now).given_up, node.pending) for now in (1.5, 2.5)] == [([], 1), ([lane], 0)]
    assert not node.landed(lane, None, 3.0)


def test_a_message_that_was_given_up_and_is_sent_alone_is_not_waited_for_again() -> None:
    node = sender()
    for deadline in (2.0, 5.0):
        lane = node.add("t", b"1", 0.0, deadline, None)
    node.load(lane, 0.0)
    node.due(2.0)
    node.landed(lane, REFUSED, 2.2)
    node.load(lane, 2.2)
    node.asked(question(node, 0), 2.5)
    assert node.due(2.5).given_up == [lane]


def test_an_answer_says_what_the_history_still_has() -> None:
    node = sender(history=100)
    for now in range(10):
        send(node, "t", float(now), b'"' + b"x" * 20 + b'"')
    [reply] = replies(node, node.asked(question(node, 0), 9.0))
    assert (reply.start, reply.kept) == (0, 7)


def test_what_is_on_its_way_is_owed_to_who_was_there_when_it_was_sent() -> None:
    node = sender()
    lane = node.add("t", b"1", 5.0, 15.0, None)
    node.load(lane, 5.0)
    assert [lane.owed_since(time) for time in (4.0, 5.0, 6.0)] == [0, 0, 1]


def test_repairs_come_a_chunk_at_a_time_and_take_turns_with_messages() -> None:
    node = sender(history=10_000_000)
    large = b'"' + b"x" * 200_000 + b'"'
    for now in range(10):
        send(node, "t", float(now), large)
    lane = node.asked(question(node, 0), 9.0)
    for _ in range(3):
        node.add("t", large, 9.0, 20.0, None)
    frames = []
    while lane.has_repairs or lane.has_messages:
        frames.append(next_frame(node, lane))
    kinds = [each.kind for each in frames]
    assert kinds[:5] == [WIRE.ANSWER, WIRE.MESSAGES, WIRE.AGAIN, WIRE.MESSAGES, WIRE.AGAIN]
    assert kinds.count(WIRE.AGAIN) == FULL.sending.CHUNK
    answers = [(each.count, WIRE.unpack_answer(each).goes_on) for each in frames if each.kind == WIRE.ANSWER]
    assert answers == [(0, True), (0, False)], "the end of the chunk is told"


def test_what_is_sent_again_is_for_those_who_know_the_sender() -> None:
    ear = receiver()
    again = several(0, 1, WIRE.AGAIN)
    assert not ear.wants("t", again)
    assert not ear.take("t", again, 0.0)
    ear.take("t", frame(NODE, 0), 0.0)
    ear.take("t", frame(NODE, 2), 0.0)
    assert ear.wants("t", several(1, 1, WIRE.AGAIN))
    assert not ear.wants("t", again)


def test_what_is_held_is_delivered_in_order_as_soon_as_its_turn_has_come() -> None:
    ear = receiver()
    for number in (0, 4, 2):
        ear.take("t", frame(NODE, number), 0.0)
    assert numbers(ear.take("t", frame(NODE, 1), 1.0)) == [(1, 0), (2, 0)]
    assert numbers(ear.take("t", frame(NODE, 3), 1.0)) == [(3, 0), (4, 0)]


def test_of_frames_that_overlap_each_message_is_delivered_once() -> None:
    ear = receiver()
    ear.take("t", several(0, 2), 0.0)
    assert numbers(ear.take("t", several(1, 2), 0.0)) == [(1, 1)]
    ear.take("t", several(4, 2), 0.0)
    assert numbers(ear.take("t", several(3, 2, WIRE.AGAIN), 0.0)) == [(3, 0), (4, 1)]
    ear.take("t", several(7, 1), 0.0)
    assert numbers(ear.take("t", several(6, 2, WIRE.AGAIN), 0.0)) == [(6, 0)]


def test_an_answer_to_another_nodes_question_proves_no_forgery_since_it_may_be_older_than_what_was_heard() -> None:
    ear = receiver()
    for number in (0, 5):
        ear.take("t", frame(NODE, number), 0.0)
    ear.overheard(WIRE.Question(NODE, "t", 1, None, 7), 0.5)
    assert not answer(ear, NODE, 4, 4, (7, 1, 1))
    assert numbers(ear.take("t", several(1, 4, WIRE.AGAIN), 1.0)) == [(1, 0), (5, 0)]


def test_what_an_answer_has_no_more_is_lost_at_once() -> None:
    ear = receiver()
    for number in (0, 5):
        ear.take("t", frame(NODE, number), 0.0)
    [gap], _ = ear.due(0.5)
    ear.ask(gap, 7, 0.5)
    loss, delivery = answer(ear, NODE, 6, 6, (7, 1, 5))
    assert (loss.count, delivery.frame.number) == (4, 5)


def test_a_question_about_later_messages_is_not_ours() -> None:
    ear = receiver()
    for number in (0, 9):
        ear.take("t", frame(NODE, number), 0.0)
    ear.overheard(WIRE.Question(NODE, "t", 3, None, 7), 0.5)
    [gap] = ear.due(1.0)[0]
    assert not gap.asked


def test_a_higher_number_that_is_told_makes_a_gap_longer() -> None:
    ear = receiver()
    ear.take("t", frame(NODE, 0), 0.0)
    assert not told(ear, 3, 1.0) + told(ear, 6, 1.0)
    assert [effect.count for effect in ask(ear, 200.0)] == [5]


def test_a_lower_number_that_is_told_is_asked_about() -> None:
    ear = receiver()
    for number in (0, 1, 2):
        ear.take("t", frame(NODE, number), 0.0)
    assert not told(ear, 2, 1.0)
    assert len(ear.due(2.0)[0]) == 1


def test_what_is_below_the_base_was_never_sent() -> None:
    ear = receiver()
    ear.can_ask = False
    ear.take("t", frame(NODE, 0), 0.0)
    loss, _ = ear.take("t", several(10, 1, base=8), 1.0)
    assert loss.count == 2


def test_the_times_of_frames_that_were_overwritten_are_thinned_out() -> None:
    few = load("pure_thinned", history={"THINNED": 10})
    history, trail = few.history.History(100), few.history.Trail()
    for number in range(1000):
        history.add(trail, number, 1, float(number), b"x" * 10)
    assert trail.length < 40
    assert [kept.number for kept in history.read(trail, 0)] == [995, 996, 997, 998, 999]


def claim(**changes: int) -> Any:
    """Make a control frame with a number."""
    values = {"base": 1, "number": 2, "given": 3, "quiet": 0, **changes}
    return WIRE.Control(counts=[WIRE.Count("t", **values)])


def doubt(target: bytes = NODE, topic: str = "t", first: int = 0, age: int | None = None) -> Any:
    """Make a control frame with a question."""
    return WIRE.Control(questions=[WIRE.Question(target, topic, first, age, 1)])


def reply(start: int, kept: int) -> Any:
    return WIRE.Answer([WIRE.Reply(1, start, kept)], 5, goes_on=False)


def unpack(kind: int, body: bytes, count: int = 0) -> Any:
    """Read a frame of the number 5."""
    read = {WIRE.AGAIN: WIRE.unpack_again, WIRE.ANSWER: WIRE.unpack_answer, WIRE.CONTROL: WIRE.unpack_control}[kind]
    return read(WIRE.unpack(WIRE.pack(1, kind, NODE, 5, 0, count, 0, body)))


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        *((WIRE.CONTROL, claim(**change)) for change in ({"base": 3}, {"given": 1}, {"quiet": -1}, {"base": -1})),
        *(
            (WIRE.CONTROL, doubt(**change))
            for change in ({"target": b"short"}, {"topic": ""}, {"first": -1}, {"age": -1})
        ),
        *((WIRE.ANSWER, reply(*numbers)) for numbers in ((3, 2), (2, 6), (-1, 2))),
    ],
)
def test_what_no_node_can_say_is_refused(kind: int, word: Any) -> None:
    with pytest.raises(ValueError, match="impossible"):
        unpack(kind, WIRE.pack_body(word))


@pytest.mark.parametrize(("runs", "count"), [([1, 1], 3), ([], 1), ([0], 0)])
def test_ages_fit_their_messages(runs: list[int], count: int) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        unpack(WIRE.AGAIN, WIRE.pack_again([WIRE.Run(each, 0) for each in runs], b"[1,1]"), count)


def test_what_any_node_can_say_is_read() -> None:
    claims = (claim(), claim(base=2), claim(given=WIRE.LARGEST_NUMBER))
    for kind, word in (*((WIRE.CONTROL, each) for each in (*claims, doubt(age=0))), (WIRE.ANSWER, reply(2, 5))):
        assert unpack(kind, WIRE.pack_body(word)) == word


def test_only_a_frame_of_this_version_is_an_own_one() -> None:
    payload = WIRE.pack(1, WIRE.MESSAGES, NODE, 0, 0, 1, 0, b"[1]")
    assert WIRE.is_from(NODE, payload)
    assert not WIRE.is_from(NODE, bytes([WIRE.VERSION + 1]) + payload[1:])


def test_the_first_messages_of_a_sender_out_of_reach_are_waited_for() -> None:
    ear = receiver(patience=60.0)
    told(ear, 5, 0.0)
    assert not ask(ear, 59.0)
    [gap], _ = ear.due(60.0)
    ear.ask(gap, 7, 60.0)
    assert not answer(ear, NODE, 5, 5, (7, 0, 0))
    assert numbers(ear.take("t", several(0, 5, WIRE.AGAIN), 60.0)) == [(0, 0)]


def test_a_sender_that_was_only_told_of_and_never_answered_is_asked_again_when_it_is_heard() -> None:
    ear = receiver(patience=5.0)
    told(ear, 5, 0.0)
    assert not ask(ear, 50.0)
    assert not ear.has_gaps("t")
    ear.take("t", frame(NODE, 6), 50.0)
    assert ear.has_gaps("t")


def told_of_old_messages() -> Any:
    """Make a receiver that listens since 10 s, and then was told that 7 messages had been sent by second 6."""
    ear = FULL.receiving.Receiver(1.0, 60.0)
    ear.can_ask = True
    ear.listen("t", 10.0)
    ear.told(NODE, [WIRE.Count("t", 0, 7, 7, 5000)], True, 11.0)
    return ear


def test_a_number_that_was_told_is_enough_for_the_first_message_to_come_at_once() -> None:
    ear = told_of_old_messages()
    assert numbers(ear.take("t", frame(NODE, 7), 11.0)) == [(7, 0)]
    assert not ear.has_gaps("t")


def test_what_was_sent_between_a_told_number_and_the_subscription_is_not_missed() -> None:
    ear = told_of_old_messages()
    assert not ear.wants("t", several(7, 1, WIRE.AGAIN))
    assert not ear.take("t", frame(NODE, 9), 11.0)
    [gap], _ = ear.due(12.0)
    asked = ear.ask(gap, 7, 12.0)
    assert (asked.first, asked.age) == (7, 2_000_000)
    loss, delivery = answer(ear, NODE, 10, 10, (7, 8, 9))
    assert (loss.count, delivery.frame.number) == (1, 9)


def test_what_comes_after_it_was_reported_as_lost_is_dropped() -> None:
    ear = FULL.receiving.Receiver(1.0, 60.0)
    ear.listen("t", 0.0)
    for number in (0, 1):
        ear.take("t", frame(NODE, number), 1.0)
    loss, delivery = ear.take("t", frame(NODE, 5), 1.0)
    assert (loss.count, delivery.frame.number) == (3, 5)
    assert not ear.take("t", frame(NODE, 2), 2.0)
    assert numbers(ear.take("t", frame(NODE, 6), 2.0)) == [(6, 0)]


@pytest.mark.parametrize(("goes_on", "quarters"), [(True, [1, 2, 3]), (False, [0, 2, 3])])
def test_a_sender_that_has_what_is_missing_is_asked_for_it_less_and_less_often_and_then_given_up(
    goes_on: bool, quarters: list[int]
) -> None:
    ear = receiver(patience=10.0)
    for number in (0, 5):
        ear.take("t", frame(NODE, number), 0.0)
    asked, done = [], []
    while (now := ear.next_due) < 60.0:
        gaps, effects = ear.due(now)
        done += [type(effect).__name__ for effect in effects]
        for gap in gaps:
            asked.append(now)
            ear.ask(gap, len(asked), now)
            body = WIRE.pack_body(WIRE.Answer([WIRE.Reply(len(asked), 1, 1)], 6, goes_on))
            said = WIRE.unpack(WIRE.pack(1, WIRE.ANSWER, NODE, 6, 0, 0, WIRE.ANSWERS, body))
            assert not ear.answered("t", said, WIRE.unpack_answer(said), now)
    assert done == ["Loss", "Delivery"]
    waits = [round(4 * (later - sooner)) for sooner, later in pairwise(asked)]
    assert waits == [*quarters, *[4] * (FULL.receiving.VAIN - 4)]


def test_a_sender_that_comes_back_again_and_again_is_not_taken_for_one_that_does_not_answer() -> None:
    ear = receiver(patience=60.0)
    for number in (0, 5):
        ear.take("t", frame(NODE, number), 0.0)
    for second in range(1, 20):
        assert not ask(ear, float(second))
        ear.returned(NODE, float(second))
        told(ear, 6, float(second))
    assert ask(ear, 100.0)


def test_where_nobody_can_be_asked_a_message_on_its_way_is_not_counted_as_done() -> None:
    ear = FULL.receiving.Receiver(1.0, 60.0)
    ear.listen("t", 0.0)
    ear.told(NODE, [WIRE.Count("t", 0, 7, 8, 0)], True, 1.0)
    assert numbers(ear.take("t", frame(NODE, 7), 1.0)) == [(7, 0)]


@pytest.mark.parametrize(("size", "kept"), [(1000, 0), (1001, 1)])
def test_what_the_broker_takes_no_more_is_not_promised(size: int, kept: int) -> None:
    node = sender(history=100_000)
    send(node, "t", 0.0, b"1" * (size - len(b"[]")))
    send(node, "t", 0.0)
    node.pause(1.0)
    node.resume(1000 + WIRE.overhead(0), 2.0)
    lane = node.asked(question(node, 0), 3.0)
    assert replies(node, lane) == [WIRE.Reply(1, 0, kept)]


@pytest.mark.parametrize("number", [0, 1])
def test_a_wrong_number_that_was_taken_is_mended_by_the_senders_word(number: int) -> None:
    ear = receiver()
    ear.take("t", frame(NODE, 0), 0.0)
    ear.take("t", several(1, 9), 0.0)
    told(ear, number, 1.0)
    [gap], _ = ear.due(2.0)
    ear.ask(gap, 7, 2.0)
    assert not answer(ear, NODE, number, number, (7, number, number))
    assert numbers(ear.take("t", frame(NODE, number), 3.0)) == [(number, 0)]


def test_another_nodes_question_puts_ours_off_once_and_its_answer_will_do() -> None:
    ear = receiver()
    for number in (0, 5):
        ear.take("t", frame(NODE, number), 0.0)
    for now, identity in ((0.0, 7), (0.2, 8)):
        ear.overheard(WIRE.Question(NODE, "t", 1, None, identity), now)
        assert not ear.due(now)[0]
    assert len(ear.due(0.25)[0]) == 1
    loss, _ = answer(ear, NODE, 6, 6, (7, 1, 5))
    assert loss.count == 4


def test_what_is_sent_again_is_wanted_beyond_the_due_number_only_in_a_gap() -> None:
    ear = receiver()
    ear.take("t", frame(NODE, 0), 0.0)
    assert [ear.wants("t", several(number, 1, WIRE.AGAIN)) for number in (1, 2)] == [True, False]
    ear.take("t", frame(NODE, 3), 0.0)
    assert ear.wants("t", several(2, 1, WIRE.AGAIN))


def test_a_message_behind_the_due_number_is_kept_until_its_sender_has_said_how_far_it_is() -> None:
    ear = receiver()
    for each in (several(0, 1), several(1, 9), several(2, 1)):
        ear.take("t", each, 0.0)
    [gap], _ = ear.due(1.0)
    ear.ask(gap, 7, 1.0)
    assert numbers(answer(ear, NODE, 3, 3, (7, 1, 1))) == [(2, 0)]


def test_a_sender_is_asked_once_a_heartbeat_whether_it_is_behind_its_own_numbers() -> None:
    ear = receiver()
    ear.take("t", several(0, 3), 0.0)
    told(ear, 2, 1.0)
    [gap], _ = ear.due(1.1)
    ear.ask(gap, 7, 1.1)
    answer(ear, NODE, 3, 3, (7, 3, 3))
    has_gaps = []
    for now in (1.9, 2.0):
        told(ear, 2, now)
        has_gaps.append(ear.has_gaps("t"))
    assert has_gaps == [False, True]


def test_a_sender_that_answers_no_questions_is_not_asked_whether_it_is_behind_its_own_numbers() -> None:
    ear = receiver()
    ear.can_ask = False
    ear.take("t", several(0, 3), 0.0)
    told(ear, 2, 1.0)
    assert not ear.has_gaps("t")


def test_a_sender_that_did_not_answer_is_not_waited_for_again() -> None:
    ear = receiver(patience=5.0)
    for number in (0, 5):
        ear.take("t", frame(NODE, number), 0.0)
    assert len(ask(ear, 100.0)) == 2
    loss, delivery = ear.take("t", frame(NODE, 9), 100.0)
    assert (loss.count, delivery.frame.number) == (3, 9)


def test_the_answers_of_a_sender_that_leaves_are_waited_for_half_a_heartbeat() -> None:
    ear = receiver()
    for number in (0, 5):
        ear.take("t", frame(NODE, number), 0.0)
    ear.left(NODE, 1.0)
    assert not ask(ear, 1.4)
    assert len(ask(ear, 1.5)) == 2


def test_a_newcomer_gives_way_before_one_that_is_heard_regularly_and_silence_ends_that() -> None:
    ear = receiver(load("pure_two", receiving={"KNOWN_SENDERS": 2}))

    def known() -> list[int]:
        return [index for index in range(4) if ear.wants("t", frame(origin(index), 1000))]

    def hear(index: int, now: float) -> None:
        ear.take("t", several_of(origin(index), 999), now)

    for index, now in ((0, 10_000.0), (0, 10_002.0), (1, 10_003.0), (2, 10_004.0)):
        hear(index, now)
    assert known() == [0, 2]
    ear.take("t", frame(origin(3), 1000), 20_000.0)
    [gap], _ = ear.due(20_001.0)
    assert ear.ask(gap, 7, 20_001.0).age == 1_000_000
    assert known() == [2]


def several_of(node: bytes, number: int) -> Any:
    """Make a frame of a sender whose first message it is."""
    return frame(node, number, base=number)


def test_a_node_that_closes_gives_up_each_message_once_a_portion_at_a_time() -> None:
    node, many = sender(), FULL.sending.AT_A_TIME
    node.load(node.add("t", b"1", 0.0, 5.0, 0), 0.0)
    for receipt in range(1, many + 2):
        node.add("t", b"1", 0.0, 5.0, receipt)
    node.add("u", b"1", 0.0, 5.0, many + 2)
    portions = [[message.receipt for message in messages] for messages in node.fail()]
    assert [len(portion) for portion in portions] == [many, 2, 1]
    assert list(chain(*portions)) == list(range(many + 3))
    assert (node.pending, node.bytes, node.next_due) == (0, 0, inf)


def test_the_times_for_which_the_host_has_blocked_the_loop_add_up() -> None:
    node = sender()
    node.add("t", b"1", 0.0, 5.0, None)
    for seconds in (1.0, 2.0):
        node.excuse(seconds)
    assert [len(node.due(now).outcomes) for now in (7.9, 8.0)] == [0, 1]


def test_a_node_that_leaves_tells_what_it_has_not_told_for_the_last_time() -> None:
    node = sender()
    send(node, "told", 0.0)
    for now in (1.0, 2.0, 4.0, 8.0):
        node.due(now)
    send(node, "t", 8.0)
    assert node.asked(WIRE.Question(node.id, "asked", 0, None, 1), 8.0).topic == "asked"
    assert [(count.topic, count.number) for count in node.all_counts(8.0)] == [("t", 1)]
    assert [count.topic for count in node.counts(["told", "asked"], 8.0)] == ["told"]


@pytest.mark.parametrize(("tries", "verdict"), [(1, "REFUSED"), (2, "UNCONFIRMED")])
def test_what_is_refused_together_and_then_alone_has_arrived_only_if_it_was_sent_before(
    tries: int, verdict: str
) -> None:
    node = sender()
    for _ in range(2):
        lane = node.add("t", b"1", 0.0, 5.0, None)
    node.load(lane, 0.0)
    for _ in range(tries - 1):
        node.pause(1.0)
        node.resume(None, 1.0)
        node.load(lane, 1.0)
    assert not node.landed(lane, REFUSED, 2.0)
    for _ in range(2):
        node.load(lane, 2.0)
        [outcome] = node.landed(lane, REFUSED, 2.0)
        assert (len(outcome.messages), outcome.verdict.name, outcome.why) == (1, verdict, REFUSED)


def test_each_question_is_answered_and_nothing_is_sent_again_that_was_not_missed() -> None:
    node = sender(history=1000)
    send(node, "t", 0.0)
    for first in (1, 1):
        lane = node.asked(question(node, first), 1.0)
    assert replies(node, lane) == [WIRE.Reply(1, 1, 1)] * 2
    assert not lane.has_repairs
    node.asked(question(node, 0), 2.0)
    assert [next_frame(node, lane).kind for _ in range(2)] == [WIRE.ANSWER, WIRE.AGAIN]
    node.add("t", b"1", 3.0, 8.0, None)
    assert [next_frame(node, lane).kind for _ in range(2)] == [WIRE.ANSWER, WIRE.MESSAGES]
    assert not lane.has_repairs


def test_what_comes_on_a_topic_without_listeners_and_an_answer_without_a_gap_are_dropped() -> None:
    ear = FULL.receiving.Receiver(1.0, 60.0)
    assert not ear.wants("t", several(0, 1, WIRE.AGAIN))
    assert not ear.take("t", frame(NODE, 0), 0.0)
    assert not told(ear, 5, 0.0)
    ear.overheard(WIRE.Question(NODE, "t", 0, None, 7), 0.0)
    assert not answer(ear, NODE, 6, 6, (7, 1, 5))
    ear.listen("t", 0.0)
    assert not answer(ear, NODE, 6, 6, (7, 1, 5))
    assert ear.next_due == inf


def test_an_answer_tells_of_forged_lost_and_held_messages_whatever_other_replies_are_in_it() -> None:
    ear = receiver()
    for number in (0, 4, 5, 6):
        ear.take("t", frame(NODE, number), 0.0)
    [gap], _ = ear.due(0.5)
    assert ear.ask(gap, 7, 0.5).age is None
    effects = answer(ear, NODE, 6, 6, (99, 0, 0), (7, 1, 4))
    assert [(type(effect).__name__, effect.topic) for effect in effects] == [
        ("Bogus", "t"),
        ("Loss", "t"),
        ("Delivery", "t"),
        ("Delivery", "t"),
    ]
    assert (ear.has_gaps("t"), ear._held_bytes) == (False, 0)


def test_an_answer_to_others_does_not_prolong_the_wait() -> None:
    ear = receiver(patience=5.0)
    for number in (0, 5):
        ear.take("t", frame(NODE, number), 0.0)
    assert not answer(ear, NODE, 6, 6, (99, 1, 5))
    assert len(ask(ear, 5.9)) == 2


def test_gaps_whose_time_is_over_together_are_all_given_up() -> None:
    ear = receiver(patience=5.0)
    for node in (origin(1), origin(2)):
        for number in (0, 5):
            ear.take("t", frame(node, number), 0.0)
    gaps, effects = ear.due(6.0)
    assert (gaps, [type(effect).__name__ for effect in effects]) == ([], ["Loss", "Delivery"] * 2)


@pytest.mark.parametrize(
    "go_on",
    [
        lambda ear, number, now: ear.take("t", frame(NODE, number), now),
        told,
        lambda ear, number, now: answer(ear, NODE, number, number, (0, 1, 1)),
    ],
    ids=["sends", "tells", "answers others"],
)
def test_a_sender_that_goes_on_but_answers_nothing_is_given_up_after_some_questions(go_on: Any) -> None:
    ear = receiver(patience=60.0)
    for number in (0, 2):
        ear.take("t", frame(NODE, number), 0.0)
    asked: list[Any] = []
    for number in range(3, 100):
        now = number / 4
        go_on(ear, number, now)
        gaps, effects = ear.due(now)
        asked += [ear.ask(gap, number, now) for gap in gaps]
        if effects:
            break
    assert len(asked) == FULL.receiving.TRIES


def test_a_sender_that_begins_a_new_count_has_lost_nothing() -> None:
    ear = receiver()
    ear.can_ask = False
    ear.take("t", frame(NODE, 0), 0.0)
    assert numbers(ear.take("t", several(10, 1, base=10), 1.0)) == [(10, 0)]


@pytest.mark.parametrize(("age", "shown"), [(5000, 5000), (2**32, 2**32 - 1)])
def test_the_age_of_what_is_sent_again_is_told_as_far_as_its_field_reaches(age: int, shown: int) -> None:
    runs, _ = unpack(WIRE.AGAIN, WIRE.pack_again([WIRE.Run(1, age)], b"[1]"), 1)
    assert list(runs) == [WIRE.Run(1, shown)]


def test_the_numbers_of_several_topics_that_are_told_together_tell_all_losses() -> None:
    ear = receiver()
    ear.can_ask = False
    ear.listen("u", 0.0)
    for topic in ("t", "u"):
        ear.take(topic, frame(NODE, 0), 0.0)
    losses = ear.told(
        NODE, [WIRE.Count(topic, 0, number, number, 0) for topic, number in (("t", 3), ("u", 4))], True, 1.0
    )
    assert [(loss.topic, loss.count) for loss in losses] == [("t", 2), ("u", 3)]


def test_the_numbers_of_a_forgotten_topic_are_told_as_long_as_they_are_remembered() -> None:
    node = sender(FORGETFUL)
    send(node, "t", 0.0)
    next_frame(node, node.asked(WIRE.Question(node.id, "asked", 0, None, 1), 0.0), 0.0)
    assert list(run(node, 700.0))
    assert not node.lanes
    [count] = node.counts(["t", "asked"], 700.0)
    assert (count.topic, count.base, count.number, count.given, count.quiet) == ("t", 0, 1, 1, 600_000)


def test_a_topic_is_not_forgotten_while_an_answer_is_on_its_way() -> None:
    node = sender(FORGETFUL)
    send(node, "t", 0.0)
    node.load(node.asked(question(node, 1), 599.0), 599.0)
    assert list(run(node, 700.0))
    assert "t" in node.lanes


def test_what_waits_is_sent_on_the_next_connection_whatever_else_was_due_before() -> None:
    node = sender()
    lane = node.add("t", b"1", 0.0, 5.0, None)
    node.pause(1.0)
    node.due(2.0)
    assert node.resume(None, 3.0) == [lane]


def test_what_is_due_comes_a_portion_at_a_time() -> None:
    node, many = sender(), FULL.sending.AT_A_TIME
    for index in range(many + 1):
        send(node, str(index), 0.0)
        node.add("t", b"1", 0.0, 1.5, None)
    assert [len(node.due(1.0).told) for _ in range(3)] == [many, 1, 0]
    portions = [node.due(1.5).outcomes for _ in range(3)]
    assert [[len(outcome.messages) for outcome in portion] for portion in portions] == [[many], [1], []]


def test_a_message_that_is_given_up_tells_its_last_failure() -> None:
    node, trouble = sender(), OSError("trouble")
    lane = node.add("t", b"1", 0.0, 5.0, None)
    node.load(lane, 0.0)
    node.landed(lane, trouble, 1.0)
    [outcome] = node.due(5.0).outcomes
    assert (outcome.verdict.name, outcome.why) == ("UNCONFIRMED", trouble)


def test_a_number_is_told_with_the_time_since_a_message_was_handed_to_the_broker() -> None:
    node = sender()
    send(node, "t", 1.0)
    assert node.count(node.lanes["t"], 8.0).quiet == 7000


@pytest.mark.parametrize(("age", "start"), [(9_000_000, 0), (8_999_999, 1)])
def test_a_newcomer_gets_what_was_sent_since_it_listens(age: int, start: int) -> None:
    node = sender(history=1000)
    send(node, "t", 0.0)
    [reply] = replies(node, node.asked(question(node, 0, age), 9.0))
    assert reply.start == start


def test_what_is_sent_again_is_joined_up_to_a_limit_but_not_over_a_hole() -> None:
    node = sender(load("pure_joined", sending={"JOINED_MESSAGES": 3}), history=1000)
    for now in range(5):
        send(node, "t", float(now))
    node.add("t", b"1", 5.0, 5.0, None)
    node.due(5.0)
    for now in (6, 7):
        send(node, "t", float(now))
    lane = node.asked(question(node, 1), 9.0)
    _, *again = [next_frame(node, lane) for _ in range(4)]
    ages = [[run.age for run in WIRE.unpack_again(each)[0]] for each in again]
    assert [(each.number, each.count) for each in again] == [(1, 3), (4, 1), (6, 2)]
    assert ages == [[8000, 7000, 6000], [5000], [3000, 2000]]


def test_what_is_sent_again_together_is_no_larger_than_the_broker_takes() -> None:
    node = sender(history=10_000)
    node.resume(1000, 0.0)
    for now in range(100):
        send(node, "t", float(now), b"1" * 50)
    lane = node.asked(question(node, 0), 100.0)
    sizes = []
    while lane.has_repairs:
        payload, _ = node.load(lane, 100.0)
        node.landed(lane, None, 100.0)
        sizes.append(len(payload))
    assert 900 < max(sizes) <= 1000


@pytest.mark.parametrize("answers", [False, True])
def test_a_control_frame_says_whether_its_node_answers_and_has_no_numbers(answers: bool) -> None:
    node = sender()
    node.answers = answers
    word = WIRE.unpack(node.pack_control("t", WIRE.Control()))
    assert word.flags == (WIRE.ANSWERS if answers else 0)
    assert (word.serialization, word.number, word.base, word.count) == (0, 0, 0, 0)


def test_a_number_that_is_told_on_its_own_topic_is_signed_for_it() -> None:
    node = sender()
    node.signer = WIRE.Signer([b"key"])
    lane = node.add("t", b"1", 0.0, 5.0, None)
    lane.owes_count = True
    payload, _ = node.load(lane, 0.0)
    assert WIRE.unpack(node.signer.verify("t", payload)).kind == WIRE.CONTROL


@pytest.mark.parametrize(("key", "topic", "end"), [(b"other", "t", b""), (b"key", "u", b""), (b"key", "t", b"2")])
def test_a_digest_is_for_one_key_one_topic_and_one_content(key: bytes, topic: str, end: bytes) -> None:
    payload = WIRE.pack(1, WIRE.MESSAGES, NODE, 0, 0, 1, WIRE.SIGNED, b"1")
    signed = WIRE.Signer([b"key"]).sign("t", payload)
    assert WIRE.Signer([b"key"]).verify("t", signed) == payload
    with pytest.raises(ValueError, match="wrong"):
        WIRE.Signer([key]).verify(topic, payload + end + signed[len(payload) :])


def test_a_frame_without_a_body_needs_a_digest_too() -> None:
    with pytest.raises(ValueError, match="no keyed digest"):
        WIRE.Signer([b"key"]).verify("t", WIRE.pack(0, WIRE.CONTROL, NODE, 0, 0, 0, 0, b""))


def test_a_sender_that_says_later_that_it_answers_is_asked_from_then_on() -> None:
    ear = receiver()
    told(ear, 1, 0.0, answers=False)
    assert not told(ear, 3, 1.0)
    assert ear.has_gaps("t")


def test_a_number_that_is_told_is_no_reason_to_ask_if_nothing_before_it_is_missing() -> None:
    ear = receiver()
    ear.take("t", frame(NODE, 0), 0.0)
    told(ear, 1, 1.0)
    assert not ear.has_gaps("t")
    ear.take("t", frame(NODE, 5), 1.0)
    told(ear, 0, 1.0)
    assert len(ear.due(2.0)[0]) == 1


def test_a_sender_that_only_tells_its_numbers_counts_as_heard() -> None:
    ear = receiver(load("pure_pair", receiving={"KNOWN_SENDERS": 2}))
    for now in (0.0, 2.0):
        told(ear, 5, now)
    for index in (2, 3):
        ear.take("t", frame(origin(index), 0), 3.0)
    assert ear.has_gaps("t")


def test_a_sender_that_has_answered_is_asked_again() -> None:
    ear = receiver()
    for number in (0, 5):
        ear.take("t", frame(NODE, number), 0.0)
    [gap], _ = ear.due(0.5)
    ear.ask(gap, 7, 0.5)
    assert len(answer(ear, NODE, 6, 6, (7, 1, 5))) == 2
    assert not ear.take("t", frame(NODE, 9), 1.0)
    assert ear.has_gaps("t")


def test_only_answers_in_a_row_that_bring_nothing_count_as_in_vain() -> None:
    ear, many = receiver(), FULL.receiving.VAIN
    for number in (0, 99):
        ear.take("t", frame(NODE, number), 0.0)
    for identity, kept in enumerate([*range(2, many + 3), *[many + 2] * many]):
        [gap], effects = ear.due(2.0)
        assert not effects
        ear.ask(gap, identity, 2.0)
        answer(ear, NODE, 100, 100, (identity, 1, kept))
    assert not ear.due(2.0)[0]


def test_an_answer_to_others_does_not_make_a_newcomer_ask_again() -> None:
    ear = receiver()
    ear.take("t", frame(NODE, 5), 0.0)
    [gap], _ = ear.due(0.9)
    ear.ask(gap, 7, 0.9)
    assert not answer(ear, NODE, 6, 6, (99, 0, 0))
    assert not ear.due(1.1)[0]


def test_an_answer_to_others_does_not_say_where_the_messages_of_a_newcomer_begin() -> None:
    ear = told_of_old_messages()
    ear.take("t", frame(NODE, 9), 11.0)
    ear.overheard(WIRE.Question(NODE, "t", 7, None, 8), 11.0)
    assert not answer(ear, NODE, 10, 10, (8, 7, 7))
    [gap], _ = ear.due(12.0)
    assert ear.ask(gap, 7, 12.0).age == 2_000_000


def test_a_newcomer_that_gets_no_answer_does_not_count_what_came_before_the_first_message_as_lost() -> None:
    ear = told_of_old_messages()
    ear.take("t", frame(NODE, 9), 11.0)
    assert numbers(ask(ear, 200.0)) == [(9, 0)]


def test_an_answer_that_was_given_before_the_last_held_message_does_not_shorten_the_gap() -> None:
    ear = receiver()
    for number in (0, 5):
        ear.take("t", frame(NODE, number), 0.0)
    [gap], _ = ear.due(0.5)
    ear.ask(gap, 7, 0.5)
    ear.take("t", frame(NODE, 9), 0.6)
    assert not answer(ear, NODE, 6, 5, (7, 1, 1))
    assert [type(effect).__name__ for effect in ask(ear, 200.0)] == ["Loss", "Delivery"] * 2


def test_the_very_first_message_of_a_sender_can_be_lost() -> None:
    ear = receiver()
    ear.told(NODE, [WIRE.Count("t", 0, 0, 1, 0)], True, 0.0)
    [gap], _ = ear.due(0.5)
    ear.ask(gap, 7, 0.5)
    assert not answer(ear, NODE, 1, 0, (7, 0, 0))
    ear.can_ask = False
    loss, _ = ear.take("t", frame(NODE, 1), 1.0)
    assert loss.count == 1


def test_whether_a_sender_is_behind_its_own_numbers_is_asked_for_two_heartbeats() -> None:
    ear = FULL.receiving.Receiver(2.0, 60.0)
    ear.can_ask = True
    ear.listen("t", 0.0)
    ear.take("t", several(0, 3), 0.0)
    told(ear, 2, 1.0)
    has_gaps = []
    for now in (5.0, 6.0):
        assert not ask(ear, now)
        has_gaps.append(ear.has_gaps("t"))
    assert has_gaps == [True, False]


def test_another_nodes_answer_does_not_say_whether_a_sender_is_behind_its_own_numbers() -> None:
    ear = receiver()
    ear.take("t", several(0, 3), 0.0)
    told(ear, 2, 1.0)
    ear.overheard(WIRE.Question(NODE, "t", 3, None, 7), 1.0)
    assert not answer(ear, NODE, 2, 2, (7, 2, 2))
    assert ear.has_gaps("t")


def test_what_comes_while_numbers_are_being_checked_is_not_kept_for_good() -> None:
    ear = receiver()
    for number in range(6):
        ear.take("t", frame(NODE, number), 0.0)
    ear.take("t", frame(NODE, 2), 100.0)
    assert ear.take("t", frame(NODE, 8), 100.0) == []
    loss, delivery = ask(ear, 200.0)
    assert (loss.count, delivery.frame.number) == (2, 8)
    assert not ear.has_gaps("t")


def test_what_fills_a_hole_while_numbers_are_being_checked_brings_what_is_held() -> None:
    ear = receiver()
    for number in range(6):
        ear.take("t", frame(NODE, number), 0.0)
    ear.take("t", frame(NODE, 2), 100.0)
    ear.take("t", frame(NODE, 7), 100.0)
    assert numbers(ear.take("t", frame(NODE, 6), 100.0)) == [(6, 0), (7, 0)]
    assert not ear.has_gaps("t")


def test_what_is_held_is_delivered_when_nobody_can_be_asked_any_more() -> None:
    ear = receiver()
    for number in (0, 5):
        ear.take("t", frame(NODE, number), 0.0)
    ear.can_ask = False
    ear.resume(1.0)
    loss, held, other_loss, last = ear.take("t", frame(NODE, 9), 2.0)
    assert (loss.count, other_loss.count) == (4, 3)
    assert numbers([held, last]) == [(5, 0), (9, 0)]
    assert not ear.has_gaps("t")


# Receiving: held frames, answers, counts.


@pytest.mark.parametrize(("first", "later"), [(True, False), (False, True)])
def test_a_sender_that_has_said_once_that_it_answers_is_asked(first: bool, later: bool) -> None:
    def said(number: int, answers: bool) -> Any:
        flags = WIRE.ANSWERS if answers else 0
        return WIRE.unpack(WIRE.pack(1, WIRE.MESSAGES, NODE, number, 0, 1, flags, b"[1]"))

    ear = receiver()
    ear.take("t", said(0, first), 0.0)
    assert not ear.take("t", said(5, later), 1.0)
    assert ear.has_gaps("t")


def test_the_first_message_of_a_sender_that_answers_no_questions_is_delivered_at_once() -> None:
    ear = receiver()
    word = WIRE.unpack(WIRE.pack(1, WIRE.MESSAGES, NODE, 5, 0, 1, 0, b"[1]"))
    assert ear.take("t", word, 2.0) == [FULL.receiving.Delivery("t", word, 0, 2.0)]
    assert not ear.has_gaps("t")


def test_the_next_message_is_taken_without_further_ado() -> None:
    ear = receiver()
    assert not ear.is_next("t", frame(NODE, 0), 0.0)
    ear.take("t", frame(NODE, 0), 0.0)
    assert ear.is_next("t", frame(NODE, 1), 0.0)
    assert not ear.is_next("t", frame(NODE, 1), 0.0)
    assert not ear.take("t", frame(NODE, 1), 0.0)
    assert (ear.has_gaps("t"), ear.duplicates) == (False, 1), "what comes twice in a row is no contradiction"
    ear.take("t", frame(NODE, 3), 0.0)
    assert not ear.is_next("t", frame(NODE, 2), 0.0)


def test_messages_that_are_known_are_counted_and_not_delivered_again() -> None:
    ear = receiver()
    delivery = FULL.receiving.Delivery
    for each in (several(0, 4), several(2, 3), several(2, 5)):
        ear.take("t", each, 0.0)
    assert ear.duplicates == 2 + 3
    again = several(2, 5)
    assert not ear.take("t", again, 1.0)
    assert ear.duplicates == 2 + 3 + 5
    assert not ear.take("t", several(1, 2, WIRE.AGAIN), 1.0)
    assert (ear.duplicates, ear.has_gaps("t")) == (10, False)
    for number in (7, 8):
        following = frame(NODE, number)
        assert ear.take("t", following, 2.0) == [delivery("t", following, 0, 2.0)]
    overlapping = several(8, 2)
    assert ear.take("t", overlapping, 3.0) == [delivery("t", overlapping, 1, 3.0)]


def test_what_is_sent_again_opens_no_gap_and_fills_one_in_any_order() -> None:
    ear = receiver()
    ear.take("t", frame(NODE, 0), 0.0)
    assert not ear.take("t", several(5, 1, WIRE.AGAIN), 0.5)
    assert not ear.has_gaps("t")
    ear.take("t", frame(NODE, 4), 1.0)
    assert not ear.take("t", several(3, 1, WIRE.AGAIN), 2.0)
    assert not ear.take("t", several(2, 1, WIRE.AGAIN), 3.0)
    effects = ear.take("t", several(1, 1, WIRE.AGAIN), 4.0)
    assert [(effect.frame.number, effect.received) for effect in effects] == [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)]


def test_while_messages_come_again_no_further_ones_are_asked_for() -> None:
    ear = receiver()
    for number in (0, 5):
        ear.take("t", frame(NODE, number), 0.0)
    assert numbers(ear.take("t", several(1, 1, WIRE.AGAIN), 0.0)) == [(1, 0)]
    assert [len(ear.due(now)[0]) for now in (0.2, 0.25)] == [0, 1]


def test_all_that_is_held_says_when_it_came() -> None:
    ear = receiver()
    ear.take("t", frame(NODE, 5), 1.0)
    ear.take("t", frame(NODE, 6), 2.0)
    effects = ask(ear, 200.0)
    assert [(effect.frame.number, effect.received) for effect in effects] == [(5, 1.0), (6, 2.0)]
    ear.take("t", frame(NODE, 2), 300.0)
    ear.take("t", frame(NODE, 3), 301.0)
    assert ear.has_gaps("t"), "its sender may have begun anew"
    [gap], _ = ear.due(302.0)
    ear.ask(gap, 7, 302.0)
    effects = answer(ear, NODE, 4, 4, (7, 2, 2))
    assert [(effect.frame.number, effect.received) for effect in effects] == [(2, 300.0), (3, 301.0)]


def test_what_can_be_waited_for_no_more_says_when_it_came() -> None:
    ear = receiver()
    for number in (0, 5):
        ear.take("t", frame(NODE, number), 0.0)
    ear.can_ask = False
    last = frame(NODE, 9)
    *_, delivery = ear.take("t", last, 2.0)
    assert delivery == FULL.receiving.Delivery("t", last, 0, 2.0)


def test_after_a_loss_that_cannot_be_asked_about_messages_go_on_at_once() -> None:
    ear = receiver()
    ear.can_ask = False
    ear.take("t", frame(NODE, 0), 0.0)
    last = frame(NODE, 5)
    assert ear.take("t", last, 2.0) == [
        FULL.receiving.Loss("t", NODE, 4),
        FULL.receiving.Delivery("t", last, 0, 2.0),
    ]


CRAMPED = load("pure_cramped", receiving={"HELD_BYTES": 2 * len(b"[1]")})
"""Two frames can be held."""


def test_what_is_missing_is_taken_also_when_no_more_can_be_held() -> None:
    ear = receiver(CRAMPED)
    for number in (0, 3, 4, 5):
        ear.take("t", frame(NODE, number), 0.0)
    assert numbers(ear.take("t", several(1, 1, WIRE.AGAIN), 1.0)) == [(1, 0)]
    assert numbers(ear.take("t", several(2, 1, WIRE.AGAIN), 1.0)) == [(2, 0), (3, 0), (4, 0)]
    assert ear.has_gaps("t"), "what was not held is missing"
    assert numbers(ear.take("t", several(5, 1, WIRE.AGAIN), 1.0)) == [(5, 0)]
    assert not ear.has_gaps("t")


def test_the_last_message_is_delivered_also_when_no_more_can_be_held_and_nobody_can_be_asked() -> None:
    ear = receiver(CRAMPED)
    for number in (0, 3, 4):
        ear.take("t", frame(NODE, number), 0.0)
    ear.can_ask = False
    loss, *held, last = ear.take("t", frame(NODE, 5), 1.0)
    assert (loss.count, numbers([*held, last])) == (2, [(3, 0), (4, 0), (5, 0)])


@pytest.mark.parametrize("twice", [2, 3])
def test_what_comes_twice_is_held_once(twice: int) -> None:
    ear = receiver(CRAMPED)
    for number in (0, twice, twice, 5 - twice):
        ear.take("t", frame(NODE, number), 0.0)
    assert numbers(ear.take("t", frame(NODE, 1), 1.0)) == [(1, 0), (2, 0), (3, 0)]


def test_a_larger_frame_takes_the_place_of_a_held_one() -> None:
    ear = receiver()
    for each in (several(0, 1), several(2, 1), several(2, 3)):
        ear.take("t", each, 0.0)
    assert numbers(ear.take("t", frame(NODE, 1), 1.0)) == [(1, 0), (2, 0)]
    assert numbers(ear.take("t", frame(NODE, 5), 1.0)) == [(5, 0)]


def test_the_end_of_a_gap_is_noticed() -> None:
    ear = receiver()
    for number in (0, 2):
        ear.take("t", frame(NODE, number), 0.0)
    ear.has_changed = False
    ear.take("t", frame(NODE, 1), 1.0)
    assert ear.has_changed is True


def test_a_question_that_is_put_off_is_asked_later_and_the_wait_for_its_answer_begins_anew() -> None:
    ear = receiver(patience=5.0)
    for number in (0, 2):
        ear.take("t", frame(NODE, number), 0.0)
    for now in range(1, 10):
        [gap], effects = ear.due(float(now))
        assert not effects
        ear.postpone(gap, float(now), 0.5)
        assert ear.next_due == now + 0.5
        assert not ear.due(now + 0.4)[0]


# Sending: limits, what is sent again, topics that are forgotten.


def test_a_node_answers_no_questions_unless_it_is_told_to() -> None:
    node = FULL.sending.Sender(NODE, FULL.serialization.by_name("json"), 0, 1.0, 600.0, 1000)
    node.resume(None, 0.0)
    assert send(node, "t", 0.0).flags == 0
    node.answers = True
    assert send(node, "t", 0.0).flags == WIRE.ANSWERS


def test_a_number_that_is_due_before_the_first_connection_is_told_on_it() -> None:
    node = FULL.sending.Sender(NODE, FULL.serialization.by_name("json"), 0, 1.0, 600.0, 1000)
    lane = node.add("t", b"1", 0.0, 5.0, None)
    assert [outcome.verdict.name for outcome in node.due(5.0).outcomes] == ["UNCONFIRMED"]
    assert not node.due(6.0).told
    node.resume(None, 7.0)
    assert node.due(8.0).told == [lane]


def test_a_block_of_the_loop_gives_no_time_to_what_is_published_after_it() -> None:
    node = sender()
    node.excuse(1.0)
    node.add("t", b"1", 0.0, 5.0, None)
    assert [len(node.due(now).outcomes) for now in (4.9, 5.0)] == [0, 1]


@pytest.mark.parametrize("error", [None, OSError("trouble")])
def test_what_becomes_of_an_answer_says_nothing_of_the_messages_that_wait(error: Exception | None) -> None:
    node = sender(history=1000)
    lane = node.add("t", b"1", 0.0, 5.0, None)
    payload, _ = node.load(lane, 0.0)
    node.landed(lane, OSError("trouble"), 0.0)
    node.asked(question(node, 0), 1.0)
    assert next_kind(node, lane, error) == WIRE.ANSWER
    assert node.pending == 1
    assert node.load(lane, 2.0)[0] == payload
    [outcome] = node.landed(lane, None, 2.0)
    assert (outcome.verdict.name, node.pending) == ("ACCEPTED", 0)


def next_kind(node: Any, lane: Any, error: Exception | None) -> int:
    """Have the next frame of a lane accepted, or fail; return its kind."""
    payload, _ = node.load(lane, 1.0)
    assert not node.landed(lane, error, 1.0)
    kind: int = WIRE.unpack(payload).kind
    return kind


def test_an_answer_that_was_not_accepted_is_not_sent_again_since_it_will_be_asked_for_again() -> None:
    node = sender(history=1000)
    send(node, "t", 0.0)
    lane = node.asked(question(node, 0), 1.0)
    assert next_kind(node, lane, OSError("trouble")) == WIRE.ANSWER
    assert not lane.has_repairs


def test_what_was_given_up_on_its_way_does_not_end_what_is_asked_for() -> None:
    node = sender(history=1000)
    send(node, "t", 0.0)
    lane = node.add("t", b"1", 0.0, 5.0, None)
    node.load(lane, 0.0)
    node.asked(question(node, 0), 1.0)
    assert node.due(5.0).given_up == [lane]
    node.landed(lane, OSError("trouble"), 6.0)
    assert [next_frame(node, lane).kind for _ in range(2)] == [WIRE.ANSWER, WIRE.AGAIN]


TIGHT = load("pure_tight", sending={"JOINED_BYTES": 1000})


@pytest.mark.parametrize("limit", [None, 1000])
@pytest.mark.parametrize(("more", "together"), [(0, 3), (1, 2)])
def test_as_much_is_joined_as_finds_room_and_no_more(limit: int | None, more: int, together: int) -> None:
    node = sender(load("pure_loose") if limit else TIGHT)
    node.resume(limit, 0.0)
    room = 1000 - WIRE.overhead(0)
    sizes = [200, 300, room - 500 - 3 + more]
    for size in sizes:
        lane = node.add("t", b"1" * size, 0.0, 5.0, None)
    assert next_frame(node, lane).count == together


SHARED = load("pure_shared", sending={"JOINED_BYTES": 1000, "LEAST_JOINED": 300})


def loaded(node: Any, topic: str, now: float = 0.0) -> tuple[Any, Any]:
    """Have a frame of a topic under way on which 1,000 bytes wait; return the lane, and the frame."""
    for _ in range(10):
        lane = node.add(topic, b"1" * 99, now, now + 5.0, None)
    payload, _ = node.load(lane, now)
    return lane, WIRE.unpack(payload)


def bytes_of(node: Any, topic: str, size: int) -> Any:
    """Have a frame with one message of so many bytes under way; return its lane."""
    rest = WIRE.pack(1, WIRE.MESSAGES, NODE, 0, 0, 1, 0, b"[]")
    lane = node.add(topic, b"1" * (size - len(rest)), 0.0, 5.0, None)
    assert len(node.load(lane, 0.0)[0]) == size
    return lane


@pytest.mark.parametrize(("others", "together"), [(100, 9), (101, 8), (700, 3), (701, 3), (900, 3), (2000, 3)])
def test_a_frame_takes_what_the_other_topics_leave_and_a_little_in_any_case(others: int, together: int) -> None:
    node = sender(SHARED)
    bytes_of(node, "other", others)
    assert loaded(node, "t")[1].count == together


def test_the_broker_may_take_less_than_a_little() -> None:
    node = sender(SHARED)
    node.resume(200 + WIRE.overhead(0), 0.0)
    bytes_of(node, "other", 200)
    assert loaded(node, "t")[1].count == 2


def test_where_the_broker_keeps_messages_a_frame_has_all_its_room_and_is_not_kept_here() -> None:
    node = sender(SHARED, history=1000, keeps_messages=True)
    bytes_of(node, "other", 2000)
    lane, frame = loaded(node, "t")
    assert frame.count == 9
    node.landed(lane, None, 0.0)
    [reply] = replies(node, node.asked(question(node, 0), 1.0))
    assert (reply.start, reply.kept) == (0, 9)


def lands(node: Any, lane: Any) -> None:
    node.landed(lane, None, 1.0)


def fails(node: Any, lane: Any) -> None:
    node.landed(lane, OSError("trouble"), 1.0)


def expires(node: Any, lane: Any) -> None:
    assert node.due(5.0).given_up == [lane]
    node.landed(lane, OSError("trouble"), 6.0)


def is_cut(node: Any, lane: Any) -> None:
    node.pause(1.0)
    node.resume(None, 2.0)


@pytest.mark.parametrize("ends", [lands, fails, expires, is_cut])
def test_a_frame_that_is_no_longer_under_way_leaves_its_room(ends: Callable[[Any, Any], None]) -> None:
    node = sender(SHARED)
    ends(node, bytes_of(node, "other", 500))
    assert loaded(node, "t", 7.0)[1].count == 9


def test_an_answer_under_way_takes_room_until_it_lands() -> None:
    node = sender(SHARED, history=1000)
    send(node, "other", 0.0, b"1" * 300)
    lane = node.asked(question(node, 0, topic="other"), 1.0)
    next_frame(node, lane)
    again, _ = node.load(lane, 1.0)
    node.due(1.0)
    left = 1000 - len(again)
    first, frame = loaded(node, "t")
    assert frame.count == left // 100 < 9
    for each in (lane, first):
        node.landed(each, None, 1.0)
    assert loaded(node, "u")[1].count == 9


@pytest.mark.parametrize(("more", "verdicts"), [(0, []), (1, ["TOO_LARGE"])])
def test_the_largest_message_that_the_broker_takes_is_sent(more: int, verdicts: list[str]) -> None:
    node = sender()
    node.resume(1000, 0.0)
    lane = node.add("t", b"1" * (1000 - WIRE.overhead(1) + more), 0.0, 5.0, None)
    payload, outcomes = node.load(lane, 0.0)
    assert [outcome.verdict.name for outcome in outcomes] == verdicts
    assert (payload is None) == bool(verdicts)


def test_a_frame_that_fits_exactly_stays_as_it_is_on_a_connection_with_a_limit() -> None:
    node = sender()
    lane = node.add("t", b"1" * 1000, 0.0, 5.0, None)
    payload, _ = node.load(lane, 0.0)
    assert payload
    node.pause(1.0)
    node.resume(len(payload), 2.0)
    assert node.load(lane, 2.0) == (payload, [])


def test_after_what_was_refused_together_messages_are_joined_again() -> None:
    node = sender()
    for _ in range(3):
        lane = node.add("t", b"1", 0.0, 5.0, None)
    node.load(lane, 0.0)
    assert not node.landed(lane, REFUSED, 1.0)
    for _ in range(2):
        node.add("t", b"1", 1.0, 6.0, None)
    assert [next_frame(node, lane).count for _ in range(4)] == [1, 1, 1, 2]


def test_a_quiet_topic_is_not_looked_at_before_it_is_to_be_forgotten() -> None:
    node = sender(forget_after=600.0)
    send(node, "t", 0.0)
    for now in (1.0, 2.0, 4.0, 8.0):
        node.due(now)
    assert node.next_due == 600.0


def test_where_too_many_topics_are_known_some_of_the_oldest_that_are_quiet_give_way() -> None:
    node = sender(load("pure_few", sending={"KNOWN_TOPICS": 4, "FORGOTTEN_AT_A_TIME": 2}))
    busy = node.add("busy", b"1", 0.0, 5.0, None)
    for topic in ("b", "c", "d"):
        send(node, topic, 0.0)
    send(node, "e", 0.0)
    assert list(node.lanes) == ["c", "d", "busy", "e"]
    assert node.lanes["busy"] is busy
    assert next_frame(node, node.add("busy", b"1", 0.0, 5.0, None)).count == 2
    assert [send(node, topic, 1.0).number for topic in ("b", "d")] == [1, 1]


# History: what fits, and what is thinned out.


def kept(history: Any, trail: Any, number: int = 0) -> list[int]:
    return [each.number for each in history.read(trail, number)]


def test_the_history_keeps_as_much_as_finds_room() -> None:
    history, trail = FULL.history.History(3 * (8 + 10)), FULL.history.Trail()
    seen = []
    for number in range(7):
        history.add(trail, number, 1, float(number), b"x" * 10)
        seen.append(kept(history, trail))
    assert seen == [[0], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 6]]
    history.add(trail, 7, 1, 7.0, b"x" * (54 - 8))
    assert kept(history, trail) == [7]
    history.add(trail, 8, 1, 8.0, b"x" * (54 - 7))
    assert kept(history, trail) == []


def test_of_the_overwritten_frames_every_second_one_keeps_its_time() -> None:
    few = load("pure_ten", history={"THINNED": 10})
    history, trail = few.history.History(5 * (8 + 10)), few.history.Trail()

    def marks() -> list[int]:
        return [trail.number_of(index) for index in range(trail.length)]

    for number in range(15):
        history.add(trail, number, 1, float(number), b"x" * 10)
    assert marks() == list(range(15))
    history.add(trail, 15, 1, 15.0, b"x" * 10)
    assert marks() == [0, 2, 4, 6, 8, 10, 11, 12, 13, 14, 15]
    assert [trail.since(time) for time in (0.0, 1.0, 2.0, 9.5, 16.0)] == [0, 2, 2, 10, None]


# The wire.


def test_a_frame_adds_at_most_so_many_bytes() -> None:
    header, runs, run_length, array, digest = 3 + 16 + 8 + 8 + 4 + 1, 2, 4 + 4, 5, 16
    assert WIRE.overhead(3) == header + runs + run_length + array + 3 + digest


def test_the_least_frame_is_a_header() -> None:
    payload = WIRE.pack(0, WIRE.CONTROL, NODE, 0, 0, 0, 0, b"")
    assert WIRE.unpack(payload).body == b""
    with pytest.raises(ValueError, match="39 bytes are too few"):
        WIRE.unpack(payload[:-1])


@pytest.mark.parametrize(("number", "base", "count"), [(1, 2, 1), (WIRE.LARGEST_NUMBER, 0, 1), (0, 1, 1)])
def test_a_frame_with_impossible_numbers_is_refused(number: int, base: int, count: int) -> None:
    with pytest.raises(ValueError, match="is impossible"):
        WIRE.unpack(WIRE.pack(1, WIRE.MESSAGES, NODE, number, base, count, 0, b"[1]"))
