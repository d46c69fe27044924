"""The interface that a transport calls."""

from typing import Any, Protocol


class Inbox(Protocol):
    """Takes what a transport receives; its methods are called on the event loop's thread.

    From another thread, call them through a `Bridge`.

    Data that must outlive a transport is kept in two separate places. Anything that a transport writes there after
    its loss is dropped.
    """

    memory: dict[str, Any]
    """Kept for the connector's whole life: a client identifier, the name of a queue."""

    topic_memory: dict[str, Any]
    """Kept by topic, such as the position in a log; forgotten when nobody listens to that topic any more."""

    def received(self, topic: str, payload: bytes) -> None:
        """Take one payload that arrived on `topic`.

        Raises `TypeError` if they are not text and bytes, and nothing else, whatever the bytes are.
        """

    def lost(self, error: Exception) -> None:
        """Say that the connection is gone; only the first call counts."""


def check(topic: object, payload: object) -> None:
    """Raise `TypeError` if a transport has handed in something else than text and bytes."""
    if not isinstance(topic, str):
        raise TypeError(f"topic must be str, not {type(topic).__name__}")
    if not isinstance(payload, bytes | bytearray | memoryview):
        raise TypeError(f"payload must be bytes, not {type(payload).__name__}")
