"""What a run is made of: its settings, and its steps in their order."""

from dataclasses import asdict, dataclass, field
from typing import Any
from zlib import crc32

HISTORY = {"ample": 16 * 1024 * 1024, "small": 4_000, "off": 0}
"""Bytes of history, by the name that a shape gives."""


def lane_of(topic: str, key: str | None, shards: int) -> str:
    """Return the topic of the broker for messages of a topic with a key."""
    shard = 0 if key is None else crc32(key.encode()) % shards
    return f"{topic}--{shard}" if shard else topic


def lanes_of(topic: str, key: str | None, shards: int) -> tuple[str, ...]:
    """Return the topics of the broker for a listener to a topic, or to a key of it."""
    if key is not None:
        return (lane_of(topic, key, shards),)
    return (topic, *(f"{topic}--{shard}" for shard in range(1, shards)))


def topic_of(lane: str) -> str:
    """Return the topic of which a topic of the broker is a part."""
    return lane.partition("--")[0]


@dataclass(frozen=True)
class Shape:
    """The settings of a run."""

    kind: str
    topics: tuple[str, ...]
    nodes: int
    duration: float
    heartbeat: float
    publish_timeout: float
    connect_timeout: float
    reconnect_delay_min: float
    reconnect_delay_max: float
    latency: tuple[float, float]
    strict: bool
    history: str
    cluster_key: bool
    max_pending_messages: int
    retention: int
    control: bool
    last_words: bool
    watches_quiet: bool
    shards: int
    size: str = "usual"


@dataclass(frozen=True)
class Step:
    """One thing that happens; `what` names a method of the world."""

    at: float
    what: str
    values: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        shown = " ".join(f"{name}={_short(value)}" for name, value in self.values.items())
        return f"{self.at:9.3f}  {self.what} {shown}"


@dataclass(frozen=True)
class Plan:
    seed: int
    shape: Shape
    steps: tuple[Step, ...]
    faults: tuple[str, ...]
    """The kinds of the faults that are drawn, for the summary."""

    def describe(self) -> str:
        return ", ".join(f"{name}={_short(value)}" for name, value in asdict(self.shape).items())


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
