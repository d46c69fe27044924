"""The record of what was said, heard and reported; what must hold always is judged at once."""

from dataclasses import dataclass, field
from typing import Any

from .broker import Marks
from .clock import VirtualLoop

SLACK = 0.3
"""Seconds that a time-out may be late, besides the time for which the loop was blocked."""

NOTHING = frozenset({"refused", "full", "large", "early"})
"""Outcomes after which nobody gets the message, and nobody misses it."""


@dataclass(slots=True, eq=False)
class Said:
    """One message, from the call of `publish` on; `topic` is the broker's, and `index` counts there."""

    sender: str
    topic: str
    index: int
    called: float
    blocked: float
    settled: float = 0.0
    outcome: str = "waiting"
    routed: float | None = None
    again: float = 0.0
    """When it was last routed."""
    ghost: float = 0.0
    """When it was last routed on a connection that its sender had given up."""
    missed: dict[str, str] = field(default_factory=dict)

    @property
    def mark(self) -> str:
        return f"<{self.sender}|{self.topic}|{self.index}>"


@dataclass(slots=True, eq=False)
class Ear:
    """One listener of one node: when it listened, and what it got of each sender on each topic of the broker."""

    name: str
    node: str
    topic: str
    key: str | None
    lanes: tuple[str, ...]
    """The topics of the broker on which its messages travel."""
    called: float
    live: float | None = None
    left: float | None = None
    gone: float | None = None
    raised: int = 0
    got: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict)
    last: dict[tuple[str, str], int] = field(default_factory=dict)


@dataclass(slots=True)
class Fault:
    """One breach of the contract, for the story."""

    clause: str
    text: str
    at: float
    node: str = ""
    sender: str = ""
    topic: str = ""
    index: int = -1

    def __str__(self) -> str:
        return f"{self.clause}: {self.text}"


class Model:
    """What everybody did, and whether that was right."""

    def __init__(self, loop: VirtualLoop, *, beginnings: bool, asks: bool, publish_timeout: float) -> None:
        self.loop = loop
        self.beginnings = beginnings
        self.asks = asks
        """Whether a sender can be asked; if not, a newcomer may take a frame that comes late for the first that is due."""
        self.publish_timeout = publish_timeout
        self.faults: list[Fault] = []
        self.trace: list[tuple[object, ...]] = []
        self.said: dict[tuple[str, str], list[Said]] = {}
        self.ears: list[Ear] = []
        self.differing: dict[tuple[str, str], int] = {}
        """By node and sender: how often the node was told that their shards differ."""
        self.reported: dict[tuple[str, str, str], int] = {}
        self.slow: dict[tuple[str, str], int] = {}
        self.heads: dict[str, bytes] = {}
        """The beginning of a frame of each node: it holds the id by which others report it."""
        self.away: dict[str, list[float]] = {}
        self.exempt: set[tuple[str, str]] = set()
        self.refusals: set[tuple[str, str]] = set()
        """By node and topic: subscriptions that the broker has refused at least once."""
        self.limited: set[str] = set()
        """Nodes that could not send all of it again: they were away for too long, or the broker took only small frames."""
        self.deliveries = 0

    def note(self, *words: object) -> None:
        self.trace.append((round(self.loop.time(), 6), *words))

    def fault(self, clause: str, text: str, **where: Any) -> None:
        self.note("FAULT", clause, text)
        self.faults.append(Fault(clause, text, self.loop.time(), **where))

    def say(self, sender: str, topic: str) -> Said:
        """Record a call of `publish`."""
        line = self.said.setdefault((sender, topic), [])
        said = Said(sender, topic, len(line), self.loop.time(), self.loop.blocked)
        line.append(said)
        return said

    def settle(self, said: Said, outcome: str) -> None:
        """Record what became of a message."""
        now = self.loop.time()
        if said.outcome != "waiting":
            self.fault("E1", f"{said.mark} was settled twice: {said.outcome}, then {outcome}")
        said.settled, said.outcome = now, outcome
        self.note("settled", said.mark, outcome)
        took = now - said.called
        if took > self.publish_timeout + (self.loop.blocked - said.blocked) + SLACK:
            self.fault(
                "R3",
                f"publish of {said.mark} took {took:.2f} s ({outcome}), publish_timeout is {self.publish_timeout:g} s",
                node=said.sender,
                sender=said.sender,
                topic=said.topic,
                index=said.index,
            )

    def routed(self, node: str, topic: str, marks: Marks, payload: bytes, is_ghost: bool) -> None:
        """Record that the broker has taken a payload."""
        self.note("ghost" if is_ghost else "frame", node, topic, len(payload), *marks[:1])
        now = self.loop.time()
        for sender, name, index in marks:
            said = self.said[sender, name][index]
            if node != sender or name != topic:
                self.fault("M1", f"{said.mark} was published by {node} on {topic}")
            said.again = now
            if is_ghost:
                said.ghost = now
            if said.routed is None:
                said.routed = now
                if said.outcome == "closed" and not is_ghost:  # what was on its way before cannot be called back
                    self.fault("L4", f"{said.mark} was sent after its caller was told that it failed", node=node)
        self.heads.setdefault(node, payload[:32])

    def missed(self, node: str, topic: str, marks: Marks, why: str) -> None:
        """Record that a receiver did not get a payload."""
        self.note(why, node, topic, *marks[:1])
        for sender, name, index in marks:
            self.said[sender, name][index].missed[node] = why

    def delivered(self, ear: Ear, sender: str, topic: str, index: int) -> None:
        """Record a delivery, and check at once what must hold always."""
        now = self.loop.time()
        self.deliveries += 1
        self.note("got", ear.name, sender, topic, index)
        said = self.said[sender, topic][index]
        where = {"node": ear.node, "sender": sender, "topic": topic, "index": index}
        line = sender, topic
        last = ear.last.get(line, -1)
        if topic not in ear.lanes:
            self.fault("M6", f"{ear.name} listens to {ear.lanes} and got {said.mark}", **where)
        if sender == ear.node:
            self.fault("M2", f"{ear.name} got its own node's {said.mark}", **where)
        if index in ear.got.setdefault(line, {}):
            self.fault("M1", f"{ear.name} got {said.mark} twice", **where)
        elif index < last:
            self.fault("M7", f"{ear.name} got {said.mark} after number {last}", **where)
        if ear.gone is not None:
            self.fault("M5", f"{ear.name} got {said.mark} {now - ear.gone:.3f} s after it had left", **where)
        is_old = said.outcome == "ok" and said.settled < ear.called and said.ghost < ear.called
        if (is_old or said.again < ear.called) and (why := said.missed.get(ear.node, "arrived")) != "delayed":
            early = ear.called - (said.routed or 0.0)
            text = f"{ear.name} got {said.mark}, which the broker had {early:.3f} s before subscribe was called ({why})"
            self.fault("M3", text, **where)
        ear.got[line][index] = now
        ear.last[line] = max(last, index)

    def reports(self, node: str, sender_id: str, topic: str, count: int) -> None:
        """Record a `MessagesLostError`."""
        sender = self.name_of(sender_id)
        self.note("reported", node, sender, topic, count)
        key = node, sender, topic
        self.reported[key] = self.reported.get(key, 0) + count
        if sender not in self.heads or count <= 0:
            self.fault("R4", f"{node} reported {count} lost messages of {sender} on {topic}", node=node, topic=topic)

    def name_of(self, sender_id: str) -> str:
        """Return the name of the node that has this id in its frames."""
        wanted = bytes.fromhex(sender_id)
        return next((name for name, head in self.heads.items() if wanted in head), sender_id[:8])

    def slowed(self, node: str, topic: str, count: int) -> None:
        self.note("slow", node, topic, count)
        self.slow[node, topic] = self.slow.get((node, topic), 0) + count

    def refused(self, node: str, topic: str, how: str) -> None:
        """Record that the broker refused a subscription: a node that listens already may hear nothing any more."""
        self.note("refused to subscribe", node, topic, how)
        self.refusals.add((node, topic))
        listens = any(ear.node == node and topic in ear.lanes and ear.live and not ear.gone for ear in self.ears)
        if how == "refused" and listens:
            self.exempt.add((node, topic))
