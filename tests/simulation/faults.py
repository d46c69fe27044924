"""What happens in a run, drawn from the seed: its settings, what the nodes do, and the faults."""

import random
from typing import Any

from .plan import Plan, Shape, Step, lanes_of, topic_of

LONG = 700.0
"""Seconds of silence in a long run: more than the ten minutes after which a sender forgets a topic."""

KEYS: tuple[str | None, ...] = (None, *"abcdefgh")


def draw(seed: int, kind: str) -> Plan:
    """Draw the plan of a run; `kind` is `loses` or `keeps`."""
    return _Drawing(random.Random(f"{kind}/{seed}/plan"), random.Random(f"{kind}/{seed}/keys"), kind).plan(seed)


class _Drawing:
    def __init__(self, chance: random.Random, keys: random.Random, kind: str) -> None:
        self.r = chance
        self.k = keys
        self.kind = kind
        self.steps: list[Step] = []
        self.faults: list[str] = []
        self.ears: list[tuple[float, str, str, str]] = []
        self.born: dict[str, float] = {}

    def plan(self, seed: int) -> Plan:
        r = self.r
        dice = r.random()
        size = "large" if dice < 0.05 else "long" if dice < 0.1 else "usual"
        heartbeat = r.choice((0.5, 1.0, 2.0))
        slowest = r.choice((0.001, 0.005, 0.02)) if heartbeat >= 1 else 0.005
        topics = ("RECORD", "EVENT", "a.b/ü*")[: r.randint(1, 3)]
        self.shape = shape = Shape(
            kind=self.kind,
            topics=topics,
            nodes=r.randint(4, 9) if size == "large" else r.randint(2, 4),
            duration=r.uniform(8, 25),
            heartbeat=heartbeat,
            publish_timeout=r.choice((1.5, 3.0, 8.0)),
            connect_timeout=r.choice((0.5, 1.0, 3.0)),
            reconnect_delay_min=r.choice((0.02, 0.1)),
            reconnect_delay_max=r.choice((0.2, 1.0)),
            latency=(slowest / 10, slowest),
            strict=r.random() < 0.6,
            history=r.choices(("ample", "small", "off"), (6, 2, 1))[0],
            cluster_key=r.random() < 0.3,
            max_pending_messages=20 if r.random() < 0.08 else 100_000,
            retention=r.choice((40, 200)) if self.kind == "keeps" and r.random() < 0.3 else 0,
            control=r.random() >= 0.04,
            last_words=r.random() < 0.5,
            watches_quiet=r.random() < 0.25,
            shards=self.k.choices((1, 2, 3, 8), (5, 2, 2, 1))[0],
            size=size,
        )
        for number in range(shape.nodes):
            self.come(f"n{number}", r.uniform(0, 0.5))
        if r.random() < 0.3:
            self.come(f"n{shape.nodes}", r.uniform(1, shape.duration), twin=r.choice(list(self.born)))
            self.faults.append("twin")
        self.talk()
        kinds = [name for name in dir(self) if name.startswith("fault_")]
        for _ in range(r.choice((0, 1, 2, 3, 4, 5, 6, 8))):
            name = r.choice(kinds)
            at = r.uniform(1, shape.duration * 0.9)
            getattr(self, name)(at)
            if r.random() < 0.5:
                self.say(max(at + r.uniform(-0.3, 1), 0.6), self.node(at), self.topic())
            self.faults.append(name.removeprefix("fault_"))
        end = shape.duration
        if size == "long":
            self.long_silence(end)
            end += LONG + 5
        steps = sorted(self.steps, key=lambda step: step.at)
        return Plan(seed, shape, (*steps, Step(end, "heal")), tuple(self.faults))

    def step(self, at: float, what: str, **values: Any) -> None:
        self.steps.append(Step(at, what, values))

    def node(self, at: float = 1e9) -> str:
        return self.r.choice([name for name, born in self.born.items() if born <= at])

    def anyone(self) -> str | None:
        return None if self.r.random() < 0.25 else self.node()

    def topic(self) -> str:
        return self.r.choice(self.shape.topics)

    def lane(self) -> str:
        """Return a topic of the broker."""
        topic = self.topic()
        return self.k.choice((topic, *lanes_of(topic, None, self.shape.shards)))

    def key(self) -> str | None:
        return self.k.choice(KEYS)

    def span(self, longest: float) -> float:
        """Return how long something lasts: short ones are the most frequent."""
        return self.r.uniform(0.05, 1) ** 2 * longest

    def come(self, name: str, at: float, twin: str = "") -> None:
        """A node comes, listens, and goes on."""
        r = self.r
        self.born[name] = at
        self.step(
            at,
            "come",
            node=name,
            serialization=r.choice(("json", "msgpack")),
            twin=twin,
            how=r.choice(("connect", "connect", "start", "function")),
            shards=self.k.choice((1, 2, 3, 8)) if self.k.random() < 0.02 else self.shape.shards,
        )
        for topic in self.shape.topics:
            if r.random() < 0.85:
                self.listen(at + r.choice((0.001, 0.1, 1.0)), name, topic)

    def listen(self, at: float, node: str, topic: str, cancel: float = 0) -> str:
        r = self.r
        name = f"{node}.{len(self.ears)}"
        kind = r.choices(("plain", "async", "slow", "raises", "pulled", "answers"), (8, 3, 2, 1, 2, 1))[0]
        self.ears.append((at, name, node, topic))
        key = self.key() if self.k.random() < 0.3 else None
        self.step(at, "listen", node=node, topic=topic, ear=name, kind=kind, cancel=cancel, key=key)
        return name

    def talk(self) -> None:
        r = self.r
        many = 12 if self.shape.size == "large" else 1
        for node, born in list(self.born.items()):
            for topic in self.shape.topics:
                for _ in range(r.choice((0, 1, 2, 3))):
                    self.say(r.uniform(born + 0.01, self.shape.duration), node, topic, many)

    def say(self, at: float, node: str, topic: str, many: int = 1) -> None:
        r = self.r
        self.step(
            at,
            "say",
            node=node,
            topic=topic,
            count=r.choice((1, 2, 5, 15, 40)) * many,
            gap=r.choice((0, 0, 0.003, 0.03, 0.3)) / many,
            size=r.choice((0, 0, 50, 500, 5000)),
            how=r.choice(("task", "await", "nowait", "cancel")),
            keys=self.keys(),
        )

    def stream(self, at: float, topic: str) -> None:
        """One node says much on a topic, while something happens there."""
        self.step(
            at, "say", node=self.node(at), topic=topic, count=60, gap=0.003, size=50, how="nowait", keys=self.keys()
        )

    def keys(self) -> tuple[str | None, ...]:
        """Return the keys that messages have in turn."""
        return (None,) if self.k.random() < 0.4 else tuple(self.key() for _ in range(self.k.choice((1, 2, 5))))

    def long_silence(self, end: float) -> None:
        """Nobody speaks for more than ten minutes, some are away meanwhile, and then they speak again."""
        r = self.r
        for name in self.born:
            if r.random() < 0.5:
                self.step(
                    end + r.uniform(0, 2),
                    "refuse",
                    request="connect",
                    node=name,
                    topic=None,
                    how="error",
                    span=r.uniform(5, LONG),
                )
                self.step(end + 2.1, "cut", node=name, node_notices=0.01, broker_notices=0.01)
                self.faults.append("long_outage")
        for name in self.born:
            for topic in self.shape.topics:
                if r.random() < 0.6:
                    self.say(end + r.choice((1, LONG - 1, LONG + 2)), name, topic)

    def fault_cut(self, at: float) -> None:
        r = self.r
        self.step(at, "cut", node=self.anyone(), node_notices=r.uniform(0, 0.01), broker_notices=r.uniform(0, 0.01))

    def fault_cut_noticed_late(self, at: float) -> None:
        late = self.span(4)
        sides = self.r.choice(((0.0, late), (late, 0.0), (late, late)))
        self.step(at, "cut", node=self.node(at), node_notices=sides[0], broker_notices=sides[1])

    def fault_silence(self, at: float) -> None:
        r = self.r
        self.step(
            at,
            "silence",
            node=self.anyone(),
            direction=r.choice(("up", "down", "both")),
            span=self.span(6),
            ends=r.choice(("reset", "resume")),
        )

    def fault_refused_connect(self, at: float) -> None:
        r = self.r
        node = self.anyone()
        self.step(
            at,
            "refuse",
            request="connect",
            node=node,
            topic=None,
            how=r.choice(("refused", "error", "hang")),
            span=self.span(6),
        )
        self.step(at + 0.01, "cut", node=node, node_notices=0.001, broker_notices=0.001)

    def fault_refused_publish(self, at: float) -> None:
        self.step(
            at,
            "refuse",
            request="publish",
            node=self.anyone(),
            topic=self.lane(),
            how=self.r.choice(("refused", "error before", "error after")),
            span=self.span(3),
        )

    def fault_refused_subscribe(self, at: float) -> None:
        lane, node = self.lane(), self.node(at)
        self.step(
            at,
            "refuse",
            request="subscribe",
            node=node,
            topic=lane,
            how=self.r.choice(("refused", "error")),
            span=self.span(2),
        )
        self.listen(at + 0.01, node, topic_of(lane))

    def fault_restart(self, at: float) -> None:
        self.step(at, "restart", span=self.span(4), apart=self.span(3))
        if self.r.random() < 0.7:
            self.say(at + self.r.uniform(-0.1, 3), self.node(at), self.topic())

    def fault_slow_link(self, at: float) -> None:
        r = self.r
        node, topic = self.node(at), self.topic()
        self.step(
            at, "slow", node=node, rate=r.choice((3_000, 30_000)), limit=r.choice((5_000, 50_000)), span=self.span(8)
        )
        for _ in range(2):
            self.say(at + r.uniform(0, 1), self.node(at), topic)

    def fault_frames(self, at: float) -> None:
        r = self.r
        if self.kind == "keeps":
            return
        share = r.choice((0.02, 0.1, 0.5))
        drop, double, delay = (share * r.choice((0, 1, 1)) / 2 for _ in range(3))
        self.step(
            at,
            "frames",
            node=self.anyone(),
            topic=r.choice((None, self.lane())),
            drop=drop,
            double=double,
            delay=delay,
            wait=r.choice((0.01, 0.3, 2.0)),
            span=self.span(8),
        )

    def fault_late(self, at: float) -> None:
        r = self.r
        node = self.node(at)
        span = self.span(6)
        self.step(at, "late", node=node, share=r.choice((0.3, 1)), delay=r.choice((0.1, 2.0, 10.0)), span=span)
        self.say(at + r.uniform(0, span), node, self.topic())
        if r.random() < 0.5:
            self.step(at + r.uniform(0, span), "cut", node=node, node_notices=0.001, broker_notices=0.001)

    def fault_blocked(self, at: float) -> None:
        self.step(at, "block", seconds=self.span(self.r.choice((0.5, 12))))

    def fault_come(self, at: float) -> None:
        self.come(f"n{len(self.born)}", at)
        self.say(at + self.r.uniform(0.01, 3), list(self.born)[-1], self.topic())

    def fault_go(self, at: float) -> None:
        self.step(at, "go", node=self.node(at), cancel=self.r.choice((0, 0, 0.0005)))

    def fault_crash(self, at: float) -> None:
        self.step(at, "crash", node=self.node(at), notices=self.span(3))

    def fault_listen(self, at: float) -> None:
        r = self.r
        node, topic = self.node(at), self.topic()
        self.stream(at - 0.1, topic)
        for _ in range(r.randint(1, 4)):
            name = self.listen(at, node, topic, cancel=r.choice((0, 0, 0.0005, 0.005)))
            at += r.choice((0.02, self.span(3)))
            if r.random() < 0.7:
                self.step(at, "leave", ear=name, cancel=r.choice((0, 0, 0.0005)))
            at += r.choice((0, 0.0001, 0.01, 1))

    def fault_leave(self, at: float) -> None:
        r = self.r
        there = [(name, node, topic) for since, name, node, topic in self.ears if since < at]
        if there:
            name, node, topic = r.choice(there)
            self.stream(at - 0.1, topic)
            self.step(at, "leave", ear=name, cancel=0)
            if r.random() < 0.7:
                self.listen(at + r.choice((0, 0.0001, 0.01, 1)), node, topic)

    def fault_frame_limit(self, at: float) -> None:
        node = self.node(at)
        self.step(at, "frame_limit", node=node, bytes=self.r.choice((1_000, 6_000)), span=self.span(6))
        self.step(at + 0.01, "cut", node=node, node_notices=0.001, broker_notices=0.001)

    def fault_close_hangs(self, at: float) -> None:
        self.step(at, "close_hangs", node=self.anyone(), seconds=self.r.choice((0.5, 3.0)), span=self.span(6))
