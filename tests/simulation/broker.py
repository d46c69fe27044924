"""An in-memory broker: connections with latency, and what it delivers to whom, by the rules of the faults in force."""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from .clock import VirtualLoop

Marks = tuple[tuple[str, str, int], ...]
"""The messages of one payload: sender, topic, index."""

MARK = re.compile(rb"<(n\d+)\|([^|]+)\|(\d+)>")
REQUEST_BYTES = 60
REPLY_BYTES = 20


@dataclass
class Rule:
    """A fault that is in force for a while, for one node or all, one topic or all."""

    what: str
    node: str | None
    topic: str | None
    until: float
    how: str = ""
    values: dict[str, float] = field(default_factory=dict)


class Watcher(Protocol):
    """Is told what the broker sees."""

    def routed(self, node: str, topic: str, marks: Marks, payload: bytes, is_ghost: bool) -> None: ...
    def missed(self, node: str, topic: str, marks: Marks, why: str) -> None: ...
    def refused(self, node: str, topic: str, how: str) -> None: ...
    def note(self, *words: object) -> None: ...


class Peer(Protocol):
    """The node's side of a connection; `gone` once the node has given it up."""

    gone: bool

    def frame(self, topic: str, payload: bytes, position: int) -> None: ...
    def answer(self, number: int, result: object) -> None: ...
    def lost(self, error: Exception) -> None: ...


class Way:
    """One direction of a connection. It keeps the order of what it carries, as a whole or within each topic."""

    def __init__(self, loop: VirtualLoop, chance: random.Random, latency: tuple[float, float], strict: bool) -> None:
        self._loop = loop
        self._chance = chance
        self._latency = latency
        self._strict = strict
        self._last: dict[str, float] = {}
        self._floor = 0.0
        self._busy = 0.0
        self._rate = 0.0
        self.slow_until = 0.0
        self.queued = 0
        self.dead = False
        self.silent = False
        self._held: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def send(self, key: str, size: int, deliver: Callable[..., None], *args: Any) -> None:
        """Carry something over; what has the key "" overtakes nothing and is overtaken by nothing."""
        if self.dead:
            return
        now = self._loop.time()
        at = now + self._chance.uniform(*self._latency)
        if now < self.slow_until:
            self._busy = max(self._busy, now) + size / self._rate
            at = max(at, min(self._busy, self.slow_until))
        if self._strict:
            key = ""
        at = max(at, self._floor + 1e-6, self._last.get(key, 0.0) + 1e-6)
        if key:
            self._last[key] = at
        else:
            self._floor = max(at, *self._last.values()) + 1e-6 if self._last else at
            at = self._floor
        self.queued += size
        self._loop.call_at(at, self._arrive, size, deliver, args)

    def _arrive(self, size: int, deliver: Callable[..., None], args: tuple[Any, ...]) -> None:
        self.queued -= size
        if self.dead:
            return
        if self.silent:
            self._held.append((deliver, args))
        else:
            deliver(*args)

    def slow_down(self, rate: float, until: float) -> None:
        """Carry so many bytes a second until then."""
        self._rate, self.slow_until = rate, until

    def resume(self) -> None:
        """End a silence: all that was held comes at once."""
        self.silent = False
        held, self._held = self._held, []
        for deliver, args in held:
            deliver(*args)

    def kill(self) -> None:
        self.dead = True
        self._held.clear()


class Line:
    """One connection of a node; each side may believe for a while longer than the other that it is there."""

    def __init__(self, broker: "Broker", node: str, peer: Peer) -> None:
        self._loop = broker.loop
        self.node = node
        self.peer = peer
        self.up = Way(broker.loop, broker.chance, broker.latency, broker.strict)
        self.down = Way(broker.loop, broker.chance, broker.latency, broker.strict)
        self.topics: dict[str, int] = {}
        self.troubled = False
        """Whether a fault has touched this connection, so that the node may call it lost."""
        self.spoke = 0.0
        """When a silence of this connection ended."""

    def kill(self) -> None:
        """Lose what is on its way, both ways; neither side is told."""
        self.troubled = True
        self.up.kill()
        self.down.kill()

    def hush(self, direction: str, silent: bool) -> None:
        """Begin or end a silence: `up`, `down` or `both`."""
        self.troubled = True
        for name, way in (("up", self.up), ("down", self.down)):
            if direction in (name, "both"):
                if silent:
                    way.silent = True
                else:
                    way.resume()
                    self.spoke = self._loop.time()


class Broker:
    """Routes payloads by topic; if it keeps them, a subscription begins at a position."""

    def __init__(
        self,
        loop: VirtualLoop,
        chance: random.Random,
        watcher: Watcher,
        *,
        latency: tuple[float, float],
        strict: bool,
        keeps: bool,
        retention: int,
    ) -> None:
        self.loop = loop
        self.chance = chance
        self.latency = latency
        self.strict = strict
        self.keeps = keeps
        self.retention = retention
        self.lines: list[Line] = []
        self.rules: list[Rule] = []
        self.is_down = False
        self.frames = 0
        self.pings = 0
        self._watcher = watcher
        self._serial = 0
        self._subscribers: dict[str, dict[Line, int]] = {}
        self._logs: dict[str, list[tuple[bytes, Marks]]] = {}

    def rule(self, what: str, node: str, topic: str = "") -> Rule | None:
        """Return the fault of this kind that is in force here and now, if any."""
        now = self.loop.time()
        for rule in self.rules:
            if rule.what == what and rule.node in (None, node) and rule.topic in (None, topic) and now < rule.until:
                return rule
        return None

    def open(self, node: str, peer: Peer) -> Line:
        """Let a node in."""
        line = Line(self, node, peer)
        self.lines.append(line)
        if slow := self.rule("slow", node):
            line.down.slow_down(slow.values["rate"], slow.until)
            line.troubled = True
        return line

    def of(self, node: str | None) -> list[Line]:
        """Return the connections of a node, or of all."""
        return [line for line in self.lines if node in (None, line.node)]

    def drop(self, line: Line) -> None:
        """Forget a connection, as when the broker notices that it is gone."""
        if line in self.lines:
            self.lines.remove(line)
        for topic in line.topics:
            self._subscribers[topic].pop(line, None)
        line.topics.clear()

    def cut(self, line: Line, node_notices: float, broker_notices: float) -> None:
        """Break a connection; each side notices after so many seconds."""
        line.kill()
        self.loop.call_later(node_notices, line.peer.lost, ConnectionResetError("the connection was reset"))
        self.loop.call_later(broker_notices, self.drop, line)

    def ask(self, line: Line, number: int, what: str, topic: str, payload: bytes, position: int) -> None:
        """Take a request that has arrived from a node, and send the answer."""
        if line not in self.lines:
            return
        node = line.node
        if what == "ping":
            self.pings += 1
            self._reply(line, "", number, None)
        elif what == "publish":
            self._publish(line, number, topic, payload)
        elif what == "unsubscribe":
            if line.topics.pop(topic, None) is not None:
                self._subscribers[topic].pop(line, None)
            self._reply(line, topic, number, None)
        elif refused := self.rule("refuse_subscribe", node, topic):
            self._watcher.refused(node, topic, refused.how)
            self._reply(line, topic, number, refused.how)
        else:
            self._subscribe(line, number, topic, position)

    def _subscribe(self, line: Line, number: int, topic: str, position: int) -> None:
        if topic not in line.topics:
            self._serial += 1
            line.topics[topic] = self._serial
            self._subscribers.setdefault(topic, {})[line] = self._serial
        log = self._logs.get(topic, [])
        start = position if position >= 0 else len(log)
        self._reply(line, topic, number, start)
        first = max(len(log) - self.retention, 0) if self.retention else 0
        for place in range(start, len(log)):
            payload, marks = log[place]
            if place < first:
                self._watcher.missed(line.node, topic, marks, "retention")
            else:
                self._push(line, topic, payload, place)

    def _publish(self, line: Line, number: int, topic: str, payload: bytes) -> None:
        refused = self.rule("refuse_publish", line.node, topic)
        if refused and refused.how != "error after":
            self._reply(line, topic, number, refused.how)
            return
        self.frames += 1
        marks = tuple((sender.decode(), name.decode(), int(index)) for sender, name, index in MARK.findall(payload))
        self._watcher.routed(line.node, topic, marks, payload, line.peer.gone)
        place = -1
        if self.keeps:
            log = self._logs.setdefault(topic, [])
            place = len(log)
            log.append((payload, marks))
        for subscriber in list(self._subscribers.get(topic, ())):
            self._route(subscriber, topic, payload, place, marks)
        late = self.rule("late", line.node)
        if late and self.chance.random() < late.values["share"]:
            self.loop.call_later(self.chance.uniform(0, late.values["delay"]), self._reply, line, topic, number, None)
        else:
            self._reply(line, topic, number, refused.how if refused else None)

    def _route(self, line: Line, topic: str, payload: bytes, place: int, marks: Marks) -> None:
        rule = None if self.keeps else self.rule("frames", line.node, topic)
        fate = self.chance.random() if rule else 1.0
        if rule and fate < rule.values["drop"]:
            self._watcher.missed(line.node, topic, marks, "dropped")
            return
        if rule and fate < rule.values["drop"] + rule.values["double"] + rule.values["delay"]:
            wait = self.chance.uniform(0, rule.values["wait"])
            self.loop.call_later(wait, self._stray, line, topic, line.topics[topic], payload)
            if fate < rule.values["drop"] + rule.values["delay"]:
                self._watcher.missed(line.node, topic, marks, "delayed")
                return
        self._push(line, topic, payload, place)
        slow = self.rule("slow", line.node)
        if slow and line.down.queued > slow.values["limit"]:
            self._watcher.note("cut off as too slow", line.node)
            self.cut(line, self.chance.uniform(0, 0.01), 0)
            self.drop(line)

    def _stray(self, line: Line, topic: str, serial: int, payload: bytes) -> None:
        if line.topics.get(topic) == serial and not (line.down.dead or line.down.silent):
            line.peer.frame(topic, payload, -1)

    def _push(self, line: Line, topic: str, payload: bytes, place: int) -> None:
        line.down.send(topic, len(payload), line.peer.frame, topic, payload, place)

    def _reply(self, line: Line, key: str, number: int, result: object) -> None:
        line.down.send(key, REPLY_BYTES, line.peer.answer, number, result)
