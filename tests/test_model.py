"""The numbers of senders and receivers, against a model: whatever the way between them does, the sums are right."""

import json
import random
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from math import inf
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from pure import ALL, CONTROL, FORGED, Limits, World, load

TOPICS = ("a", "b")
NODES = 3

FULL = load("pure_full")

SMALL = load(
    "pure_small",
    sending={"JOINED_BYTES": 500, "LEAST_JOINED": 100, "JOINED_MESSAGES": 5, "CHUNK": 2, "FEW_TOPICS": 0},
    receiving={"HELD_BYTES": 900, "OVERHEARD": 3},
)
"""Limits that a short run reaches."""

COMMITTED = settings(
    max_examples=150,
    stateful_step_count=40,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

ERRORS: dict[str, Exception | None] = {
    "accepted": None,
    "refused, not taken": SMALL.sending.PublishRefusedError("no"),
    "failed, not taken": OSError("trouble"),
    "failed, but taken": OSError("trouble"),
}
FATES = [*ERRORS, "accepted", "cut, not taken", "cut, but taken"]

nodes = st.integers(0, NODES - 1)
topics = st.sampled_from(TOPICS)
limits = st.sampled_from((None, None, None, 450, 250))
numbers = st.sampled_from((-3, -1, 0, 1, 2, 5, 2**40, 2**63))
WILD = 2**20
choices = st.integers(0, 1000)


def end(world: World) -> None:
    """Mend the way between the nodes: then all is delivered or reported, also one message more on each topic."""
    world.heal()
    world.check_rest(all_told=False)
    for node in world.nodes:
        for topic in TOPICS:
            world.publish(node, topic, 0)
    world.settle_down()
    world.check_rest(all_told=True)


class Numbers(RuleBasedStateMachine):
    """Three nodes that publish and listen, and a way between them that loses, doubles and delays frames."""

    world: World

    @initialize(
        history=st.sampled_from((1_000_000, 0, 600)),
        patience=st.sampled_from((300.0, 5.0)),
        answers=st.sampled_from((True, True, False)),
        ears=st.lists(st.tuples(nodes, topics), min_size=2, max_size=4, unique=True),
    )
    def begin(self, history: int, patience: float, answers: bool, ears: list[tuple[int, str]]) -> None:
        self.world = World(SMALL, NODES, Limits(history, patience, answers))
        for index, topic in ears:
            self.world.listen(self.world.nodes[index], topic)

    # Senders.

    @rule(
        node=nodes,
        topic=topics,
        size=st.sampled_from((0, 0, 150, 600)),
        count=st.integers(1, 4),
        fates=st.lists(st.sampled_from(FATES), max_size=4),
        limit=limits,
    )
    def publish(self, node: int, topic: str, size: int, count: int, fates: list[str], limit: int | None) -> None:
        """Publish some messages; then send frames of their topic, of which each has its fate."""
        world, sender = self.world, self.world.nodes[node]
        for _ in range(count):
            world.publish(sender, topic, size)
        lane = sender.lines[topic].lane
        for fate in fates:
            if lane not in sender.flying and not (lane in sender.sendable and world.load(sender, lane)):
                return
            took = not fate.endswith("not taken")
            if fate.startswith("cut"):
                world.cut(sender, took)
                world.resume(sender, limit, is_held=False)
            else:
                world.land(sender, lane, took, ERRORS[fate])

    @precondition(lambda self: any(node.sendable for node in self.world.nodes))
    @rule(choice=choices)
    def load_a_frame(self, choice: int) -> None:
        lanes = [(node, lane) for node in self.world.nodes for lane in node.sendable]
        self.world.load(*lanes[choice % len(lanes)])

    @precondition(lambda self: any(node.flying for node in self.world.nodes))
    @rule(choice=choices, fate=st.sampled_from(list(ERRORS)))
    def land_a_frame(self, choice: int, fate: str) -> None:
        lanes = [(node, lane) for node in self.world.nodes for lane in node.flying]
        node, lane = lanes[choice % len(lanes)]
        self.world.land(node, lane, not fate.endswith("not taken"), ERRORS[fate])

    @precondition(lambda self: any(node.is_up for node in self.world.nodes))
    @rule(choice=choices, took=st.booleans())
    def cut(self, choice: int, took: bool) -> None:
        up = [node for node in self.world.nodes if node.is_up]
        self.world.cut(up[choice % len(up)], took)

    @precondition(lambda self: not all(node.is_up for node in self.world.nodes))
    @rule(choice=choices, limit=limits, is_held=st.booleans())
    def resume(self, choice: int, limit: int | None, is_held: bool) -> None:
        down = [node for node in self.world.nodes if not node.is_up]
        self.world.resume(down[choice % len(down)], limit, is_held)

    # Time.

    @rule(ticks=st.sampled_from((1, 2, 8, 30, 80)), took=st.booleans())
    def let_time_pass(self, ticks: int, took: bool) -> None:
        for _ in range(ticks):
            self.world.tick(took)

    # The way between them.

    @precondition(lambda self: any(self.world.queues.values()))
    @rule(
        choice=choices, fates=st.lists(st.sampled_from(("deliver", "drop", "double", "delay")), min_size=1, max_size=5)
    )
    def move_frames(self, choice: int, fates: list[str]) -> None:
        world = self.world
        keys = [key for key, queue in world.queues.items() if queue]
        index, origin, topic = key = keys[choice % len(keys)]
        for fate in fates[: len(world.queues[key])]:
            payload = world.queues[key].popleft()
            if fate in ("double", "delay"):
                world.late.append((index, origin, topic, payload))
            if fate in ("double", "deliver"):
                world.receive(world.nodes[index], origin, topic, payload)

    @precondition(lambda self: self.world.late)
    @rule(choice=choices)
    def deliver_a_late_frame(self, choice: int) -> None:
        index, origin, topic, payload = self.world.late.pop(choice % len(self.world.late))
        self.world.receive(self.world.nodes[index], origin, topic, payload)

    @rule(rounds=st.integers(1, 4))
    def exchange(self, rounds: int) -> None:
        for _ in range(rounds):
            self.world.exchange()
            self.world.tick()

    # Receivers.

    @rule(node=nodes, topic=topics)
    def listen(self, node: int, topic: str) -> None:
        if topic not in self.world.nodes[node].receiver.topics:
            self.world.listen(self.world.nodes[node], topic)

    @precondition(lambda self: any(node.receiver.topics for node in self.world.nodes))
    @rule(choice=choices)
    def forget(self, choice: int) -> None:
        known = [(node, topic) for node in self.world.nodes for topic in node.receiver.topics]
        self.world.forget(*known[choice % len(known)])

    @rule(node=nodes, is_behind=st.booleans())
    def fall_behind_or_catch_up(self, node: int, is_behind: bool) -> None:
        self.world.nodes[node].is_behind = is_behind

    def teardown(self) -> None:
        if not hasattr(self, "world") or sys.exc_info()[0]:
            return
        end(self.world)


class Forgeries(RuleBasedStateMachine):
    """Nodes without a key, joined by a way that loses nothing, on which somebody else also sends."""

    world: World

    @initialize(ears=st.lists(st.tuples(nodes, topics), min_size=1, max_size=4, unique=True))
    def begin(self, ears: list[tuple[int, str]]) -> None:
        self.world = World(SMALL, NODES, Limits(1_000_000, 1000.0, answers=True))
        for index, topic in ears:
            self.world.listen(self.world.nodes[index], topic)
        self.world.exchange()

    @rule(node=nodes, topic=topics, count=st.integers(1, 4), size=st.sampled_from((0, 150)))
    def publish(self, node: int, topic: str, count: int, size: int) -> None:
        for _ in range(count):
            self.world.publish(self.world.nodes[node], topic, size)

    @rule(rounds=st.integers(1, 4))
    def exchange(self, rounds: int) -> None:
        for _ in range(rounds):
            self.world.exchange()
            self.world.tick()

    @rule(ticks=st.sampled_from((1, 2, 8)))
    def let_time_pass(self, ticks: int) -> None:
        for _ in range(ticks):
            self.world.tick()

    @rule(node=nodes, topic=topics)
    def listen(self, node: int, topic: str) -> None:
        if topic not in self.world.nodes[node].receiver.topics:
            self.world.exchange()
            self.world.listen(self.world.nodes[node], topic)

    @rule(
        node=nodes,
        victim=st.integers(1, NODES),
        topic=topics,
        kind=st.sampled_from((SMALL.wire.MESSAGES, SMALL.wire.MESSAGES, SMALL.wire.AGAIN)),
        ahead=numbers,
        base=st.sampled_from((0, ALL)),
        count=st.integers(1, 3),
        answers=st.booleans(),
    )
    def forge_messages(
        self, node: int, victim: int, topic: str, kind: int, ahead: int, base: int, count: int, answers: bool
    ) -> None:
        wire = SMALL.wire
        sender, number = self.forge(node, victim, topic, ahead)
        number = min(number, wire.LARGEST_NUMBER - count)
        body = json.dumps([FORGED] * count).encode()
        if kind == wire.AGAIN:
            body = wire.pack_again([wire.Run(count, 0)], body)
        flags = wire.ANSWERS if answers else 0
        frame = wire.pack(1, kind, sender, number, min(base, number), count, flags, body)
        self.world.receive(self.world.nodes[node], -1, topic, frame)

    @rule(
        node=nodes,
        victim=st.integers(1, NODES),
        topic=topics,
        ahead=numbers,
        base=st.sampled_from((0, ALL)),
        quiet=st.sampled_from((0, 10**9)),
    )
    def forge_a_count(self, node: int, victim: int, topic: str, ahead: int, base: int, quiet: int) -> None:
        wire = SMALL.wire
        sender, number = self.forge(node, victim, topic, ahead)
        body = wire.pack_body(wire.Control(counts=[wire.Count(topic, min(base, number), number, number, quiet)]))
        frame = wire.pack(0, wire.CONTROL, sender, 0, 0, 0, wire.ANSWERS, body)
        self.world.receive(self.world.nodes[node], -1, CONTROL, frame)

    def forge(self, node: int, victim: int, topic: str, ahead: int) -> tuple[bytes, int]:
        """Choose another node or, last, a new one, and a number near that which it has reached, or a wild one."""
        if victim == NODES:
            return random.randbytes(16), ahead % SMALL.wire.LARGEST_NUMBER
        index = (node + victim) % NODES
        sender = self.world.nodes[index]
        if pair := self.world.nodes[node].pairs.get((index, topic)):
            pair.is_forged = True
        lane = self.world.line(sender, topic).lane
        number = min(max((lane.number if lane else 0) + ahead, 0), SMALL.wire.LARGEST_NUMBER)
        if pair and not pair.got and number < WILD:
            pair.covered.update(range(number))  # what is heard first says where the sender's messages begin
        return sender.id, number

    def teardown(self) -> None:
        if not hasattr(self, "world") or sys.exc_info()[0]:
            return
        end(self.world)


def test_delivered_and_lost_make_up_what_was_owed() -> None:
    run_state_machine_as_test(Numbers, settings=COMMITTED)


def test_forged_frames_cost_no_real_message_but_those_whose_place_they_take() -> None:
    run_state_machine_as_test(Forgeries, settings=COMMITTED)


def sender(package: Any = FULL, history: int = 0, **limits: float) -> Any:
    """Make a connected sender whose limits are large."""
    values = {"heartbeat": 1.0, "forget_after": 600.0, "max_message_bytes": 10_000_000, **limits}
    made = package.sending.Sender(b"S" * 16, package.serialization.by_name("json"), history, **values)
    made.answers = True
    made.resume(None, 0.0)
    return made


def receiver(package: Any = FULL, patience: float = 60.0) -> Any:
    made = package.receiving.Receiver(1.0, patience)
    made.can_ask = True
    made.listen("t", 0.0)
    return made


def send(node: Any, topic: str, now: float, data: bytes = b"1") -> Any:
    """Publish one message, and have it accepted; return its frame."""
    lane = node.add(topic, data, now, now + 5, None)
    payload, _ = node.load(lane, now)
    node.landed(lane, None, now)
    return FULL.wire.unpack(payload)


def run(node: Any, until: float) -> Iterator[tuple[float, Any]]:
    """Let the time pass; yield what each moment has brought."""
    while (now := node.next_due) <= until:
        yield now, node.due(now)


def ask(ear: Any, until: float) -> list[Any]:
    """Let the time pass for a receiver whose questions nobody answers; return what it does."""
    done = []
    for now, (gaps, effects) in run(ear, until):
        for gap in gaps:
            ear.ask(gap, random.getrandbits(64), now)
        done += effects
    return done


def frame(origin: bytes, number: int, base: int = 0) -> Any:
    """Make a frame of one message, from a sender that answers questions."""
    wire = FULL.wire
    return wire.unpack(wire.pack(1, wire.MESSAGES, origin, number, base, 1, wire.ANSWERS, b"[1]"))


def origin(index: int) -> bytes:
    return index.to_bytes(16, "big")


def calls(work: Callable[[], object]) -> int:
    """Count the calls of functions, also of those in C, in some work."""
    count = 0

    def note(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_a_number_is_told_after_one_two_four_and_eight_heartbeats_and_then_no_more() -> None:
    node = sender(heartbeat=2.0)
    send(node, "t", 10.0)
    told = [(now, lane.topic, node.count(lane, now).number) for now, due in run(node, 600.0) for lane in due.told]
    assert told == [(12.0, "t", 1), (14.0, "t", 1), (18.0, "t", 1), (26.0, "t", 1)]


def test_a_new_message_begins_the_telling_anew() -> None:
    node = sender()
    send(node, "t", 0.0)
    assert [now for now, due in run(node, 2.5) if due.told] == [1.0, 2.0]
    send(node, "t", 3.0)
    assert [now for now, due in run(node, 500.0) if due.told] == [4.0, 5.0, 7.0, 11.0]


def test_numbers_that_were_to_be_told_in_an_outage_are_told_after_it() -> None:
    node = sender()
    send(node, "t", 0.0)
    node.pause(0.5)
    assert not [now for now, due in run(node, 100.0) if due.told]
    node.resume(None, 100.0)
    assert [now for now, due in run(node, 500.0) if due.told] == [101.0, 102.0, 104.0, 108.0]


def test_a_quiet_topic_is_forgotten_and_its_numbers_go_on() -> None:
    node = sender(SMALL)
    for now in (0.0, 1.0, 2.0):
        send(node, "t", now)
    assert list(run(node, 601.9))
    assert "t" in node.lanes
    assert list(run(node, 602.0))
    assert "t" not in node.lanes
    assert node.next_due == inf
    [count] = node.counts(["t"], 700.0)
    assert (count.base, count.number) == (0, 3)
    assert send(node, "t", 700.0).number == 3


def test_a_topic_that_is_forgotten_for_good_begins_a_new_count_and_nothing_counts_as_lost() -> None:
    few = load("pure_few", sending={"FEW_TOPICS": 0, "REMEMBERED": 2})
    node, ear = sender(few), receiver()
    assert len(ear.take("t", send(node, "t", 0.0), 0.0)) == 1
    for topic in ("b", "c", "d"):
        for now in range(5):
            send(node, topic, float(now))
    assert list(run(node, 700.0))
    assert not list(node.counts(["t"], 700.0))
    late = send(node, "t", 700.0)
    assert late.number == late.base > 0
    assert not ear.take("t", late, 700.0)
    [gap], effects = ear.due(701.0)
    question = ear.ask(gap, 1, 701.0)
    lane = node.asked(question, 701.0)
    payload, _ = node.load(lane, 701.0)
    answer = FULL.wire.unpack(payload)
    effects += ear.answered("t", answer, FULL.wire.unpack_answer(answer), 701.0)
    assert [(type(effect).__name__, effect.frame.number) for effect in effects] == [("Delivery", late.number)]


def test_a_flood_of_new_senders_does_not_push_out_those_that_are_heard_regularly() -> None:
    full = load("pure_crowded", receiving={"KNOWN_SENDERS": 50})
    ear, next_number = receiver(full), dict.fromkeys(range(30), 0)
    forged, now = 10**6, 0.0
    for _ in range(40):
        now += 0.25
        for index in next_number:
            effects = ear.take("t", frame(origin(index), next_number[index]), now)
            assert [type(effect).__name__ for effect in effects] == ["Delivery"]
            next_number[index] += 1
        if now > 2:
            for _ in range(500):
                forged += 1
                ear.take("t", frame(origin(forged), 2**40), now)
    for index, number in next_number.items():
        assert not ear.take("t", frame(origin(index), number - 1), now), "a duplicate is not recognised"
        assert ear.take("t", frame(origin(index), number), now)
    assert len(ear._order) <= 50


def test_a_newcomer_is_delivered_where_no_sender_may_be_forgotten() -> None:
    full = load("pure_full_up", receiving={"KNOWN_SENDERS": 4})
    ear = receiver(full)
    for now in (0.0, 5.0):
        for index in range(4):
            ear.take("t", frame(origin(index), int(now > 0)), now)
    assert len(ear.take("t", frame(origin(9), 7), 5.0)) == 1
    assert origin(9) not in [stream.sender for stream in ear._order]


def test_a_sender_that_leaves_is_not_asked_for_long() -> None:
    ear = receiver()
    ear.take("t", frame(origin(1), 0), 0.0)
    ear.take("t", frame(origin(1), 5), 1.0)
    ear.left(origin(1), 1.0)
    effects = ask(ear, 2.0)
    assert [type(effect).__name__ for effect in effects] == ["Loss", "Delivery"]
    assert effects[0].count == 4
    assert ear.next_due == inf


def answer(ear: Any, node: bytes, given: int, reached: int, *replies: tuple[int, int, int]) -> list[Any]:
    """Give a receiver the answer to some questions; return what it does."""
    wire = FULL.wire
    body = wire.pack_body(wire.Answer([wire.Reply(*reply) for reply in replies], reached, False))
    frame = wire.unpack(wire.pack(1, wire.ANSWER, node, given, 0, 0, wire.ANSWERS, body))
    return list(ear.answered("t", frame, wire.unpack_answer(frame), 1.0))


def test_an_answer_from_behind_the_due_number_does_not_count_what_lies_between_as_lost() -> None:
    ear = receiver()
    ear.take("t", frame(origin(1), 1), 0.0)
    [gap], _ = ear.due(0.5)
    ear.ask(gap, 7, 0.5)
    effects = answer(ear, origin(1), 3, 3, (7, 3, 3))
    assert [(type(effect).__name__, effect.frame.number) for effect in effects] == [("Delivery", 1)]
    assert ear.has_gaps("t"), "number 2 is still asked for"


def test_the_answer_to_a_newcomer_does_not_do_for_others() -> None:
    ear = receiver()
    ear.take("t", frame(origin(1), 0), 0.0)
    ear.take("t", frame(origin(1), 9), 0.0)
    ear.overheard(FULL.wire.Question(origin(1), "t", 0, 10, 7), 0.5)
    assert not answer(ear, origin(1), 10, 10, (7, 9, 9))
    assert ear.has_gaps("t")


def test_a_forged_frame_with_the_last_number_of_all_harms_nothing() -> None:
    ear = receiver()
    ear.take("t", frame(origin(1), FULL.wire.LARGEST_NUMBER - 1), 0.0)
    assert len(ask(ear, 100.0)) == 1
    assert ear.next_due == inf


def test_the_number_of_a_refused_message_is_not_told_as_given() -> None:
    node, ear = sender(), receiver()
    ear.forget("t")
    send(node, "t", 0.0)
    lane = node.add("t", b"1", 1.0, 6.0, None)
    node.load(lane, 1.0)
    node.landed(lane, FULL.errors.PublishRefusedError("no"), 1.0)
    ear.listen("t", 2.0)
    assert not ear.told(node.id, node.counts(["t"], 3.0), True, 3.0)
    [delivery] = ear.take("t", send(node, "t", 4.0), 4.0)
    assert delivery.frame.number == 1


def test_what_comes_after_a_gap_is_held_up_to_a_limit() -> None:
    ear = receiver()
    wire = FULL.wire
    ear.take("t", frame(origin(1), 0), 0.0)
    for number in range(2, 100):
        payload = wire.pack(1, wire.MESSAGES, origin(1), number, 0, 1, wire.ANSWERS, b'["' + b"x" * 100_000 + b'"]')
        assert not ear.take("t", wire.unpack(payload), 0.0)
        assert ear._held_bytes <= FULL.receiving.HELD_BYTES
    ear.forget("t")
    assert ear._held_bytes == 0


def test_a_large_frame_that_is_on_its_way_at_three_losses_is_given_up() -> None:
    node = sender()
    lane = node.add("t", b'"' + b"x" * 300_000 + b'"', 0.0, 100.0, None)
    for loss in (1, 2, 3):
        payload, _ = node.load(lane, float(loss))
        assert payload is not None
        outcomes = node.pause(float(loss))
        node.resume(None, float(loss))
        assert [outcome.verdict.name for outcome in outcomes] == (["TOO_LARGE"] if loss == 3 else [])
    assert (node.pending, node.bytes, node.busy) == (0, 0, {})
    assert send(node, "t", 4.0).number == 1, "it may have arrived: its number is taken"


def test_a_small_frame_is_not_held_to_be_the_reason_of_losses() -> None:
    node = sender()
    lane = node.add("t", b"1", 0.0, 100.0, None)
    for loss in range(10):
        assert node.load(lane, float(loss))[0] is not None
        assert not node.pause(float(loss))
        node.resume(None, float(loss))


def life_of_topics(count: int) -> None:
    """Publish on so many topics, be asked for each, let them be told, and forgotten."""
    node = sender(FULL, history=1_000_000)
    names = [f"topic {index}" for index in range(count)]
    for name in names:
        send(node, name, 0.0)
    told = sum(len(due.told) for _, due in run(node, 500.0))
    assert told == 4 * count
    assert len(list(node.counts(names, 500.0))) == count
    assert list(run(node, 700.0))
    assert len(node.lanes) <= FULL.sending.FEW_TOPICS


def life_of_senders(count: int) -> None:
    """Hear so many senders, miss a message of each, and give all up."""
    ear = receiver(patience=2.0)
    for number in (0, 2):
        for index in range(count):
            ear.take("t", frame(origin(index), number), float(number))
    assert len(ask(ear, 100.0)) == 2 * count
    assert ear.next_due == inf


def test_ten_times_as_many_topics_take_ten_times_as_many_steps() -> None:
    few, many = calls(lambda: life_of_topics(2000)), calls(lambda: life_of_topics(20_000))
    assert many < 12 * few


def test_ten_times_as_many_senders_with_gaps_take_ten_times_as_many_steps() -> None:
    few, many = calls(lambda: life_of_senders(300)), calls(lambda: life_of_senders(3000))
    assert many < 12 * few


@settings(COMMITTED, max_examples=300)
@given(
    limit=st.sampled_from((0, 1, 8, 9, 40, 100, 257)),
    frames=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5), st.integers(0, 110)), max_size=60),
)
def test_the_history_has_the_last_frames_that_fit(limit: int, frames: list[tuple[int, int, int]]) -> None:
    history = FULL.history.History(limit)
    trails = [FULL.history.Trail() for _ in range(3)]
    written: list[tuple[int, int, int, float, bytes]] = []
    reached = [0, 0, 0]
    for index, (topic, count, size) in enumerate(frames):
        body = bytes([index]) * size
        history.add(trails[topic], reached[topic], count, float(index), body)
        written.append((topic, reached[topic], reached[topic] + count, float(index), body))
        reached[topic] += count
        kept = [[(topic, *each) for each in history.read(trail, 0)] for topic, trail in enumerate(trails)]
        left = sorted(chain(*kept), key=lambda each: each[3])
        assert left == written[len(written) - len(left) :], "what is kept are the last frames, as they were"
        used = sum(len(each[4]) + 8 for each in left)
        assert used <= limit
        if size + 8 > limit:
            assert not left
        elif len(left) < len(written):  # the end of the ring may be left empty, and the next frame is overwritten
            assert used > limit - 2 * (110 + 8)
        for topic, trail in enumerate(trails):
            for number in range(reached[topic] + 1):
                assert [each[1] for each in kept[topic] if each[2] > number] == [
                    each.number for each in history.read(trail, number)
                ]
            for time in range(index + 2):
                later = [each[1] for each in written if each[0] == topic and each[3] >= time]
                assert trail.since(float(time)) == (later[0] if later else None)
