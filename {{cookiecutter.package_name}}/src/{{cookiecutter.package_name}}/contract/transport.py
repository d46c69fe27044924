"""The blanks' base class: what a contributor writes for a broker, and what the machinery gives for it."""

from abc import ABC, abstractmethod
from typing import Any, Generic, Protocol, TypeVar

from .settings import ConnectorSettings

S = TypeVar("S", bound=ConnectorSettings)


class Inbox(Protocol):
    """Where a transport hands in what it gets; to be called on the event loop's thread."""

    memory: dict[str, Any]
    """Outlives the transport: a log's position, a queue's name. What is kept under the name of a topic is forgotten
    when nobody listens to the topic any more; nothing is kept of what is written after the loss."""

    def received(self, topic: str, payload: bytes) -> None:
        """Take one payload that arrived on `topic`; never raises."""

    def lost(self, error: Exception) -> None:
        """Take the news that the connection is gone; only the first call counts."""


class Transport(ABC, Generic[S]):
    """One connection to the broker, from `connect()` to `close()`, which are called once each.

    A lost transport is thrown away and a new one made. A transport neither reconnects, nor
    serialises, nor filters, nor batches, nor counts, nor watches the clock. Each method is raced
    against `inbox.lost`, ends within a bound, and is not cancelled because a caller was.
    """

    max_frame_bytes: int | None = None
    """The largest payload that the broker takes, in bytes, if it has a limit; set by `connect()`."""

    def __init__(self, settings: S, inbox: Inbox) -> None:
        self.settings = settings
        self.inbox = inbox

    @abstractmethod
    async def connect(self) -> None:
        """Open the connection; return when the broker has let us in. Bound: `connect_timeout`.

        Raises any exception with a text that helps: it becomes the `ConnectError`.
        """

    @abstractmethod
    async def publish(self, topic: str, payload: bytes) -> None:
        """Send `payload` to all who are subscribed to `topic`; return once the broker accepted it.

        Raises `PublishError` if the broker refused it: told to the caller. Any other exception:
        tried again, on this connection or the next, until `publish_timeout`.
        """

    @abstractmethod
    async def subscribe(self, topic: str) -> None:
        """Have the broker deliver `topic` to `inbox.received`; return once it will.

        Raises `SubscribeError` if the broker refused it; any other exception is tried again.
        """

    @abstractmethod
    async def unsubscribe(self, topic: str) -> None:
        """End what `subscribe` began; return once nothing more of `topic` will arrive."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of all that `connect()` took, also half-made or broken, within a second."""

    async def ping(self) -> None:
        """Make a round trip to the broker, behind what it sent before.

        Without this method the client's own keepalive must notice silence within `heartbeat`.
        """
        return

    async def leave(self) -> None:
        """Undo what would outlive the connection at the broker: a subscription, a queue.

        Called before `close()`, and only when the connector closes for good on a connection that is up; then
        nothing more is to be delivered. After a loss it is not: the next transport goes on with what is there.
        """
        return
