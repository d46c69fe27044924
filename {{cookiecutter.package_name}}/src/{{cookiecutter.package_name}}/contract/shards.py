"""The topics of the broker over which a topic is spread: their names, and the one to which a key belongs."""

import re
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
        if self.number == 1 or key is None or is_private(topic):
            return topic
        return _name(topic, crc32(str.encode(key, errors="surrogatepass")) % self.number)

    def topics(self, topic: str, key: str | None) -> tuple[str, ...]:
        """Return the topics of the broker for a listener to `topic`: that of its key, or else all."""
        if self.number == 1 or key is not None or is_private(topic):
            return (self.topic(topic, key),)
        return tuple(_name(topic, shard) for shard in range(self.number))

    def is_reserved(self, topic: str) -> bool:
        """Tell whether a topic has the name of a shard, so that hosts cannot use it."""
        return self.coarse(topic) != topic

    def coarse(self, topic: str) -> str:
        """Return what the host calls a topic of the broker."""
        if self.number == 1 or is_private(topic):
            return topic
        match = _SHARD.fullmatch(topic)
        return match[1] if match else topic


def key_fault(key: object) -> str | None:
    """Say what keeps `key` from being a key, or None: any text will do."""
    return None if key is None or isinstance(key, str) else f"key = {key!r}: must be a str"


def _name(topic: str, shard: int) -> str:
    return f"{topic}--{shard}" if shard else topic
