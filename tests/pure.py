"""Nodes of the pure modules `sending` and `receiving`, joined by hand: no tasks, no broker, and a clock that a test advances."""

import importlib
import importlib.util
import json
import random
import sys
from collections import deque
from collections.abc import Iterable
from math import inf
from types import ModuleType
from typing import Any, NamedTuple

from baking import ROOT

NAME = "{{cookiecutter.package_name}}"
CONTRACT = ROOT / NAME / "src" / NAME / "contract"

CONTROL = "CONTROL"
HEARTBEAT = 1.0
TICK = HEARTBEAT / 8
"""All times are multiples of it, so that ages are exact."""
HOLD = 1.0
PUBLISH_TIMEOUT = 3.0
FORGET_AFTER = 40.0
POLL = TICK
QUIET = 10 * HEARTBEAT
"""After so much time without a frame, everything has been told."""
MAX_MESSAGE_BYTES = 1000
ALL = 2**64
FORGED = "forged"


def of_the_pack(module: str) -> ModuleType:
    """Import a module of the pack by itself."""
    path = ROOT / NAME / "tests" / "contract" / f"{module}.py"
    spec = importlib.util.spec_from_file_location(f"pack_{module}", path)
    assert spec
    assert spec.loader
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded  # dataclasses look there
    spec.loader.exec_module(loaded)
    return loaded


def load(name: str, **constants: dict[str, Any]) -> ModuleType:
    """Import a copy of the pure modules as a package of this name; set constants in some of them."""
    package = ModuleType(name)
    package.__path__ = [str(CONTRACT)]
    sys.modules[name] = package
    for module in ("errors", "wire", "serialization", "history", "sending", "receiving"):
        loaded = importlib.import_module(f"{name}.{module}")
        setattr(package, module, loaded)
        for constant, value in constants.get(module, {}).items():
            assert hasattr(loaded, constant), constant
            setattr(loaded, constant, value)
    return package


class Limits(NamedTuple):
    """What differs between runs."""

    history: int
    patience: float
    answers: bool
    """Whether the nodes may use the control topic."""


class Line:
    """The messages of one sender on one topic: the model of its numbers."""

    def __init__(self) -> None:
        self.lane: Any = None
        self.said = 0
        self.at: dict[int, int] = {}
        """By number: the index of the message that had it last."""
        self.accepted: set[int] = set()
        self.given_up: set[int] = set()
        self.settled: dict[int, str] = {}
        self.spoke = -inf


class Pair:
    """One receiver, sender and topic: what is owed since the receiver listens, and what came of it."""

    def __init__(self, line: Line, since: float) -> None:
        self.line = line
        self.since = since
        lane = line.lane
        self.lowest = lane.reached if lane else 0
        """Nothing before this number is owed."""
        self.first = line.said
        """Each accepted message is owed from the one with this index on, which is the first that is published now."""
        self.has_beginning = True
        """Whether it can be found out where the messages begin that are owed."""
        self.position: int | None = None
        """The number of the next message; None before the first delivery."""
        self.lost = 0
        self.last = -1
        self.heard: float | None = None
        self.is_answered = False
        self.gave_up = False
        self.is_forged = False
        self.got: set[int] = set()
        self.covered: set[int] = set()
        """The numbers of forged messages that were delivered in the sender's name."""

    def owed(self) -> list[int]:
        """Return the numbers of the messages that must arrive or be reported."""
        line = self.line
        return [number for number in line.accepted if self.has_beginning and line.at[number] >= self.first]

    def check_start(self, number: int, what: str) -> None:
        """Check that `number` may be the first that is owed."""
        assert number >= self.lowest, f"{what}: number {number} was not owed, only those from {self.lowest} on"
        skipped = [owed for owed in self.owed() if owed < number]
        assert not skipped, f"{what}: the numbers {skipped} are owed, and were passed over silently"


class Node:
    """One node: its numbers as a sender and as a receiver, and its connection."""

    def __init__(self, package: Any, index: int, limits: Limits) -> None:
        self.index = index
        self.id = bytes([65 + index]) * 16
        codec = package.serialization.by_name("json")
        self.sender = package.sending.Sender(self.id, codec, limits.history, HEARTBEAT, FORGET_AFTER, MAX_MESSAGE_BYTES)
        self.receiver = package.receiving.Receiver(HEARTBEAT, limits.patience)
        self.is_up = True
        self.is_behind = False
        self.max_frame_bytes: int | None = None
        self.release_at = inf
        self.flying: dict[Any, bytes] = {}
        self.lines: dict[str, Line] = {}
        self.pairs: dict[tuple[int, str], Pair] = {}

    def has_something(self, lane: Any) -> bool:
        """Tell whether a lane has something to send now."""
        return bool(lane.has_repairs or (lane.has_messages and not self.sender.is_held))

    @property
    def sendable(self) -> list[Any]:
        """The lanes that may send a frame now."""
        lanes = [line.lane for line in self.lines.values() if line.lane]
        return [lane for lane in lanes if lane not in self.flying and self.is_up and self.has_something(lane)]


class World:
    """Some nodes and the frames between them; it does by hand what `outbox`, `repair` and `node_inbox` do."""

    def __init__(self, package: Any, nodes: int, limits: Limits) -> None:
        self.package = package
        self.limits = limits
        self.now = 100.0
        self.nodes = [Node(package, index, limits) for index in range(nodes)]
        self.queues: dict[tuple[int, int, str], deque[bytes]] = {}
        """By receiver, sender and topic."""
        self.late: list[tuple[int, int, str, bytes]] = []
        self.asked: dict[int, Pair | None] = {}
        """By question: what it is about."""
        self.has_small_limit = False
        for node in self.nodes:
            node.sender.answers = node.receiver.can_ask = limits.answers
            node.sender.resume(None, self.now)

    # Senders.

    def line(self, node: Node, topic: str) -> Line:
        return node.lines.setdefault(topic, Line())

    def publish(self, node: Node, topic: str, size: int) -> None:
        line = self.line(node, topic)
        data = json.dumps([node.index, topic, line.said, "x" * size]).encode()
        receipt = (line, line.said)
        line.said += 1
        line.lane = node.sender.add(topic, data, self.now, self.now + PUBLISH_TIMEOUT, receipt)

    def load(self, node: Node, lane: Any) -> bool:
        """Begin to send the next frame of a lane; return whether there is one."""
        payload, outcomes = node.sender.load(lane, self.now)
        self.settle(node, outcomes)
        if payload is None:
            self.settle(node, node.sender.landed(lane, None, self.now))
            return False
        node.flying[lane] = payload
        frame = self.package.wire.unpack(payload)
        if frame.kind in (self.package.wire.MESSAGES, self.package.wire.AGAIN):
            assert len(payload) <= (node.max_frame_bytes or inf), "a frame is larger than the broker takes"
        if frame.kind == self.package.wire.MESSAGES:
            line = node.lines[lane.topic]
            for number, message in enumerate(json.loads(frame.body), frame.number):
                line.at[number] = message[2]
        return True

    def land(self, node: Node, lane: Any, took: bool, error: Exception | None = None) -> None:
        """End the sending of a frame: the broker took it or not, and said so or not."""
        payload = node.flying.pop(lane)
        if took:
            self.route(node, lane.topic, payload)
        self.settle(node, node.sender.landed(lane, error, self.now))

    def settle(self, node: Node, outcomes: Iterable[Any]) -> None:
        verdicts = self.package.sending.Verdict
        for outcome in outcomes:
            for message in outcome.messages:
                line, index = message.receipt
                assert index not in line.settled, "a message is settled twice"
                line.settled[index] = outcome.verdict.name
                if outcome.verdict is verdicts.ACCEPTED:
                    number = next(number for number, said in reversed(line.at.items()) if said == index)
                    line.accepted.add(number)
            line = node.lines[outcome.topic]
            line.spoke = self.now

    def cut(self, node: Node, took: bool) -> None:
        """Break the connection of a node; what was on its way to the broker may have arrived."""
        for lane, payload in node.flying.items():
            if took:
                self.route(node, lane.topic, payload)
        node.flying.clear()
        node.is_up = node.is_behind = False
        self.settle(node, node.sender.pause(self.now))
        node.sender.is_held = False
        node.release_at = inf
        for key in self.queues:
            if key[0] == node.index:
                self.queues[key].clear()
        self.late = [each for each in self.late if each[0] != node.index]

    def resume(self, node: Node, max_frame_bytes: int | None, is_held: bool) -> None:
        node.is_up = True
        node.max_frame_bytes = max_frame_bytes
        self.has_small_limit |= max_frame_bytes is not None
        node.receiver.resume(self.now)
        if is_held:
            node.sender.is_held = True
            node.release_at = self.now + HOLD
        node.sender.resume(max_frame_bytes, self.now)
        self.say(node, topics=node.receiver.topics, is_back=True)

    # The way between them.

    def route(self, node: Node, topic: str, payload: bytes) -> None:
        """The broker takes a frame: it is on its way to all that are subscribed now."""
        for other in self.nodes:
            if other is not node and other.is_up and (topic == CONTROL or topic in other.receiver.topics):
                self.queues.setdefault((other.index, node.index, topic), deque()).append(payload)

    def say(self, node: Node, **words: Any) -> None:
        """Send a control frame."""
        if node.is_up and self.limits.answers:
            wire = self.package.wire
            self.route(node, CONTROL, node.sender.pack_control(CONTROL, wire.Control(**words)))

    # Receivers.

    def listen(self, node: Node, topic: str) -> None:
        """Subscribe, with some time before and after, so that it is clear what is owed.

        Numbers that were told before arrive before: others would count as news, and more than what is owed be asked for.
        """
        for origin in range(len(self.nodes)):
            queue = self.queues.get((node.index, origin, CONTROL), deque())
            while queue:
                self.receive(node, origin, CONTROL, queue.popleft())
        self.late = [each for each in self.late if (each[0], each[2]) != (node.index, CONTROL)]
        self.tick()
        node.receiver.listen(topic, self.now)
        for other in self.nodes:
            if other is not node:
                pair = node.pairs[other.index, topic] = Pair(self.line(other, topic), self.now)
                pair.has_beginning = self.limits.answers
        self.say(node, topics=[topic])
        self.tick()

    def forget(self, node: Node, topic: str) -> None:
        node.receiver.forget(topic)
        for key in self.queues:
            if key[0] == node.index and key[2] == topic:
                self.queues[key].clear()
        self.late = [each for each in self.late if (each[0], each[2]) != (node.index, topic)]
        for other in self.nodes:
            node.pairs.pop((other.index, topic), None)

    def receive(self, node: Node, origin: int, topic: str, payload: bytes) -> None:
        """Take one frame, as `NodeInbox.received` does."""
        wire, receiver, now = self.package.wire, node.receiver, self.now
        frame = wire.unpack(payload)
        if frame.kind == wire.CONTROL:
            self.take_control(node, topic, frame, wire.unpack_control(frame))
            return
        if topic not in receiver.topics:
            return
        pair = node.pairs.get((origin, topic))
        if pair and pair.heard is None:
            pair.heard = now
        if frame.kind == wire.ANSWER:
            effects = receiver.answered(topic, frame, wire.unpack_answer(frame), now)
            if pair:
                pair.is_answered = True
        elif frame.kind == wire.AGAIN and not receiver.wants(topic, frame):
            effects = []
        else:
            effects = receiver.take(topic, frame, now)
        self.handle(node, effects)

    def take_control(self, node: Node, topic: str, frame: Any, control: Any) -> None:
        counts = [count for count in control.counts if topic in (CONTROL, count.topic)]
        for count in counts:
            for other in self.nodes:
                pair = node.pairs.get((other.index, count.topic))
                if pair and other.id == frame.sender and pair.heard is None:
                    pair.heard = self.now
        answers = bool(frame.flags & self.package.wire.ANSWERS)
        effects = node.receiver.told(frame.sender, counts, answers, self.now)
        if topic == CONTROL:
            for question in control.questions:
                if question.target == node.id:
                    self.answer(node, question)
                else:
                    node.receiver.overheard(question, self.now)
            if control.is_leaving:
                node.receiver.left(frame.sender, self.now)
            if control.topics or control.is_back:
                self.say(node, counts=list(node.sender.counts(control.topics, self.now)))
        self.handle(node, effects)

    def answer(self, node: Node, question: Any) -> None:
        pair = self.asked[question.id]
        if pair and question.age is not None and self.now - question.age / 1_000_000 > pair.since:
            pair.has_beginning = False  # the question came late, so that the age in it is too low
        self.line(node, question.topic).lane = node.sender.asked(question, self.now)

    def handle(self, node: Node, effects: Iterable[Any], gave_up: bool = False) -> None:
        """Check what is to be delivered or reported."""
        receiving, wire = self.package.receiving, self.package.wire
        for effect in effects:
            if isinstance(effect, receiving.Delivery):
                frame = effect.frame
                pair = self.pair(node, frame.sender, effect.topic)
                body = wire.unpack_again(frame)[1] if frame.kind == wire.AGAIN else frame.body
                messages = json.loads(body)
                assert 0 <= effect.skip < frame.count == len(messages)
                if pair:
                    self.delivered(node, pair, frame.number + effect.skip, messages[effect.skip :])
            elif isinstance(effect, receiving.Loss):
                pair = self.pair(node, effect.sender, effect.topic)
                assert effect.count > 0
                if pair:
                    self.missed(node, pair, effect.count, gave_up)
            else:
                assert any(pair.is_forged for pair in node.pairs.values()), "an honest frame is called bogus"

    def pair(self, node: Node, sender: bytes, topic: str) -> Pair | None:
        return next(
            (pair for (index, name), pair in node.pairs.items() if self.nodes[index].id == sender and name == topic),
            None,
        )

    def delivered(self, node: Node, pair: Pair, number: int, messages: list[Any]) -> None:
        if pair.is_forged:
            for at, message in enumerate(messages, number):
                if message == FORGED:
                    pair.covered.add(at)
                else:
                    self.check_message(pair, at, message)
            return
        if pair.position is None:
            pair.position = number - pair.lost
            pair.check_start(pair.position, "the first delivery")
            pair.position = number
        assert number == pair.position, f"number {number} is delivered, {pair.position} was due"
        for at, message in enumerate(messages, number):
            self.check_message(pair, at, message)
        pair.position = number + len(messages)

    def check_message(self, pair: Pair, number: int, message: list[Any]) -> None:
        origin, topic, index, _ = message
        assert self.line(self.nodes[origin], topic) is pair.line
        assert pair.line.at[number] == index, f"message {index} came with the number {number} of another"
        assert index > pair.last, f"message {index} came after {pair.last}"
        pair.last = index
        pair.got.add(number)

    def missed(self, node: Node, pair: Pair, count: int, gave_up: bool) -> None:
        pair.lost += count
        pair.gave_up |= gave_up
        if pair.is_forged:
            return
        lane, line = pair.line.lane, pair.line
        if pair.position is not None:
            first, pair.position = pair.position, pair.position + count
            assert pair.position <= lane.number, f"{count} lost from {first} on, but only {lane.number} were given"
            if self.must_repair(pair):
                excused = {number for number in range(first, pair.position) if number not in line.accepted}
                assert count == len(excused), f"{count} lost from {first} on, {len(excused)} were never accepted"
        assert pair.lost <= lane.number - pair.lowest, "more is reported as lost than was owed"

    def must_repair(self, pair: Pair) -> bool:
        """Whether all that was accepted must arrive."""
        return (
            self.limits.answers
            and self.limits.history >= 100_000
            and not pair.gave_up
            and not self.has_small_limit
            and self.now - pair.line.spoke < FORGET_AFTER
        )

    # Time.

    def tick(self, took: bool = False) -> None:
        """Let a moment pass; a frame that is given up then may have been taken."""
        self.now += TICK
        for node in self.nodes:
            for pair in node.pairs.values():
                waited = pair.heard is not None and not pair.is_answered and self.now - pair.heard > 2 * HEARTBEAT
                if pair.position is None and (waited or self.now - pair.line.spoke >= FORGET_AFTER):
                    pair.has_beginning = False  # it is asked for no longer
            self.run_sender(node, took)
            self.run_receiver(node)

    def run_sender(self, node: Node, took: bool) -> None:
        if node.release_at <= self.now:
            node.sender.is_held, node.release_at = False, inf
        turns = 0
        while node.sender.next_due <= self.now:
            turns += 1
            assert turns < 100, "an entry of the sender's agenda spins"
            due = node.sender.due(self.now)
            for lane in due.given_up:
                payload = node.flying.pop(lane)
                if took:
                    self.route(node, lane.topic, payload)
            self.settle(node, due.outcomes)
            if node.sender.answers:
                if due.told:
                    self.say(node, counts=[node.sender.count(lane, self.now) for lane in due.told])
            else:
                for lane in due.told:
                    lane.owes_count = True

    def run_receiver(self, node: Node) -> None:
        turns = 0
        while node.is_up and node.receiver.next_due <= self.now:
            turns += 1
            assert turns < 100, "an entry of the receiver's agenda spins"
            gaps, effects = node.receiver.due(self.now)
            questions = []
            for gap in gaps:
                if node.is_behind:
                    node.receiver.postpone(gap, self.now, POLL)
                else:
                    question = node.receiver.ask(gap, random.getrandbits(64), self.now)
                    self.asked[question.id] = self.pair(node, question.target, question.topic)
                    questions.append(question)
            if questions:
                self.say(node, questions=questions)
            self.handle(node, effects, gave_up=True)

    # The end.

    def exchange(self) -> bool:
        """Send and deliver all that can be, and return whether there was something."""
        was_busy = False
        for node in self.nodes:
            for lane in node.sendable:
                self.load(node, lane)
            for lane in list(node.flying):
                self.land(node, lane, took=True)
                was_busy = True
        for index, origin, topic, payload in self.late:
            self.receive(self.nodes[index], origin, topic, payload)
        self.late.clear()
        for (index, origin, topic), queue in list(self.queues.items()):
            while queue:
                self.receive(self.nodes[index], origin, topic, queue.popleft())
                was_busy = True
        return was_busy

    def settle_down(self) -> None:
        """Let everything be sent, told, asked and answered until nothing is left to be said."""
        quiet_since, limit = self.now, self.now + 600 + self.limits.patience
        while self.now - quiet_since <= QUIET or any(node.receiver.next_due < inf for node in self.nodes):
            rounds = 0
            while self.exchange():
                quiet_since = self.now
                rounds += 1
                assert rounds < 200, "the nodes talk for ever"
            self.tick()
            assert self.now < limit, "the nodes do not come to rest"

    def heal(self) -> None:
        """Mend all connections, and let each node ask for the numbers that it may have missed."""
        for node in self.nodes:
            node.is_behind = node.sender.is_held = False
            if not node.is_up:
                self.resume(node, None, is_held=False)
        for node in self.nodes:
            self.say(node, topics=node.receiver.topics)
        self.settle_down()

    def check_rest(self, all_told: bool) -> None:
        """Check that nothing is left over, and that the sums are right.

        Unless `all_told`, a receiver that cannot ask may have missed also the numbers that were told.
        """
        for node in self.nodes:
            sender, receiver = node.sender, node.receiver
            assert (sender.pending, sender.bytes, len(sender.busy)) == (0, 0, 0)
            assert (receiver._held_bytes, len(receiver._gaps)) == (0, 0)
            assert sum(len(line.settled) for line in node.lines.values()) == sum(
                line.said for line in node.lines.values()
            )
            for pair in node.pairs.values():
                if pair.line.lane and (self.limits.answers or all_told):
                    self.check_sum(pair)

    def check_sum(self, pair: Pair) -> None:
        lane = pair.line.lane
        assert lane.reached == lane.number
        if pair.is_forged:
            missing = sorted({*pair.owed()} - pair.got - pair.covered)
            assert not missing, f"the numbers {missing} were dropped because of forged frames"
        elif pair.position is None:
            pair.check_start(lane.number - pair.lost, f"{pair.lost} lost in the end")
        else:
            assert pair.position == lane.number, f"{lane.number} were given, the receiver is at {pair.position}"
