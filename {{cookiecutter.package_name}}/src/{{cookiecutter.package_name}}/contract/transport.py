"""The blanks' base class: what a contributor writes for a broker, and what the machinery owes it."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Sequence
from typing import Generic, TypeVar

from .addresses import Target
from .inbox import Inbox
from .settings import ConnectorSettings

S = TypeVar("S", bound=ConnectorSettings)


class Transport(ABC, Generic[S]):
    """One connection to the broker, from `connect()` to `close()`, each of which is called once.

    A lost transport is thrown away and a new one is made. A transport neither reconnects, nor
    serialises, nor filters, nor batches, nor counts, nor watches the clock. Each method is raced
    against `inbox.lost`, ends within a bound, and is not cancelled because a caller was. Its
    `publish`, `subscribe`, `unsubscribe` and `ping` may run at the same time, but never two `publish` for one topic.
    """

    max_frame_bytes: int | None = None
    """The largest payload that the broker takes, in bytes, if it has a limit; set by `connect()`."""

    announced: Sequence[Target] = ()
    """Further hosts of the cluster, as the broker names them; after a loss they are tried, too, after those of the url."""

    takes_all_hosts: bool = False
    """Whether the client itself handles a url with several hosts; otherwise `settings.url` names one."""

    keeps_messages: bool = False
    """Whether the broker delivers later what a node missed while it was away, so that no sender needs a history."""

    def __init__(self, settings: S, inbox: Inbox) -> None:
        self.settings = settings
        self.inbox = inbox

    @abstractmethod
    async def connect(self) -> None:
        """Open the connection; return when the broker has let us in. Bound: `connect_timeout`.

        Raises `ConnectError(text, refused=True)` if the broker said no (credentials, rights). Any
        other exception is a failed attempt; its text becomes part of the `ConnectError`.
        """

    @abstractmethod
    async def close(self) -> None:
        """Release all that `connect()` took, even half-made or broken, within a second."""

    @abstractmethod
    def publish(self, topic: str, payload: bytes) -> Awaitable[None]:
        """Send `payload` to all who are subscribed to `topic`; return once the broker accepted it.

        Usually a coroutine function. A function that returns a future saves a task: 15 % of the time of a lone message.
        If the future is a `Receipt`, its `settle` reports the outcome at once. That saves a turn of the event loop, and
        10 % more. The next `publish` may be called before `settle` returns.

        Raises `PublishRefusedError` if the broker refused it: the caller is told. Any other
        exception: tried again, on this connection or the next, until `publish_timeout`.
        """

    @abstractmethod
    async def subscribe(self, topic: str) -> None:
        """Have the broker deliver `topic` to `inbox.received`; return once it will.

        Raises `SubscribeRefusedError` if the broker refused it; any other exception is tried again.
        """

    @abstractmethod
    async def unsubscribe(self, topic: str) -> None:
        """End what `subscribe` began; return once nothing more of `topic` will arrive.

        It is also called after a `subscribe` that failed or took too long.
        """

    async def ping(self) -> None:
        """Make a round trip to the broker on every connection that the transport holds.

        It is called every third of a `heartbeat`; its failure or silence is a loss. Without this
        method the client's own keepalive must notice silence within `heartbeat`.
        """
        return

    async def leave(self) -> None:
        """Undo what would outlive the connection at the broker: a subscription, a queue.

        Called before `close()`, and only when the connector closes for good on a connection that is up; then
        nothing more is to be delivered. It is not called after a loss: the next transport goes on with what is there.
        """
        return
