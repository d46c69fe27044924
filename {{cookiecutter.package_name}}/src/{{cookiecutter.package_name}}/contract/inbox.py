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
        """Take one payload that arrived on `topic`; raises nothing."""

    def lost(self, error: Exception) -> None:
        """Say that the connection is gone; only the first call counts."""
