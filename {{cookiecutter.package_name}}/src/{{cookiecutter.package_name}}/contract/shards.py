"""The topics of the broker over which a topic is spread: their names, and the one to which a key belongs."""

import re
from functools import lru_cache
from typing import NamedTuple
from zlib import crc32

from .topics import is_private

_SHARD = re.compile(r"(.+)--(?:[1-9]|[12][0-9]|3[01])", re.DOTALL)
"""The name of a shard at any node, whatever number of shards it has."""


class Shards(NamedTuple):
    """The shards of each topic. Shard 0 has the topic's own name, and takes what has no key."""

    number: int

    def topic(self, topic: str, key: str | None) -> str:
        """Return the topic of the broker for messages of `topic` with this key."""
        if self.number == 1 or key is None:
            return topic
        topics = _topics(topic, self.number)
        return topics[crc32(str.encode(key, errors="surrogatepass")) % len(topics)]

    def topics(self, topic: str, key: str | None) -> tuple[str, ...]:
        """Return the topics of the broker for a listener to `topic`: that of its key, or else all."""
        return _topics(topic, self.number) if key is None else (self.topic(topic, key),)

    def is_reserved(self, topic: str) -> bool:
        """Tell whether a topic has the name of a shard, so that hosts cannot use it."""
        return self.coarse(topic) != topic

    def coarse(self, topic: str) -> str:
        """Return the host's name for a topic of the broker."""
        return topic if self.number == 1 else _coarse(topic)


def key_fault(key: object) -> str | None:
    """Say what keeps `key` from being a key, or None: any text will do."""
    return None if key is None or isinstance(key, str) else f"key = {key!r}: must be a str"


@lru_cache(4096)
def _topics(topic: str, number: int) -> tuple[str, ...]:
    return (topic,) if is_private(topic) else (topic, *(f"{topic}--{shard}" for shard in range(1, number)))


@lru_cache(4096)
def _coarse(topic: str) -> str:
    match = None if is_private(topic) else _SHARD.fullmatch(topic)
    return match[1] if match else topic
