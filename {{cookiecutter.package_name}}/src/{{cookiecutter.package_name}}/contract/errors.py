"""Every error that a connector raises, calls back or emits, under one base."""


class ConnectorError(Exception):
    """The base of all errors of a connector."""


class ConnectError(ConnectorError):
    """`connect()` failed; `refused` is True if the broker said no, so that trying again is futile."""

    def __init__(self, text: str = "", *, refused: bool = False) -> None:
        super().__init__(text)
        self.refused = refused


class NotReadyError(ConnectorError):
    """An operation came before `connect()` or `start()`."""


class ClosedError(ConnectorError):
    """An operation came after `close()`, or was still waiting when the connector closed."""


class PublishError(ConnectorError):
    """A message to `topic` was not confirmed by the broker; the two subclasses say what that means."""

    def __init__(self, text: str = "", *, topic: str = "") -> None:
        super().__init__(text)
        self.topic = topic


class PublishRefusedError(PublishError):
    """The broker refused the message: nobody gets it."""


class PublishUnconfirmedError(PublishError):
    """The broker did not confirm the message within `publish_timeout`: it may arrive.

    Each node that misses it gets a `MessagesLostError`.
    """


class SubscribeError(ConnectorError):
    """A subscription to `topic` failed; the two subclasses say why."""

    def __init__(self, text: str = "", *, topic: str = "") -> None:
        super().__init__(text)
        self.topic = topic


class SubscribeRefusedError(SubscribeError):
    """The broker refused the subscription."""


class SubscribeUnconfirmedError(SubscribeError):
    """The broker did not confirm the subscription within `publish_timeout`; nothing of it is left."""


class UnsubscribeError(ConnectorError):
    """The listener was not subscribed, or the broker did not end the subscription."""


class SerializationError(ConnectorError):
    """A message holds something that JSON cannot carry unaltered."""


class MessageTooLargeError(ConnectorError):
    """A message is over `max_message_bytes`, or over what the broker takes."""


class OutboxFullError(ConnectorError):
    """The messages that wait to be sent fill `max_outbox_bytes`."""


class ConnectionLostError(ConnectorError):
    """The connection broke or fell silent; the connector reconnects by itself."""


class ReconnectError(ConnectorError):
    """An attempt to connect again failed for a new reason; `refused` as in `ConnectError`."""

    def __init__(self, text: str = "", *, refused: bool = False) -> None:
        super().__init__(text)
        self.refused = refused


class BadFrameError(ConnectorError):
    """`count` payloads arrived on `topic` that no sender of this contract can have sent."""

    def __init__(self, text: str = "", *, topic: str = "", count: int = 1) -> None:
        super().__init__(text)
        self.topic = topic
        self.count = count


class ListenerError(ConnectorError):
    """A listener, or the callback of a publish, raised; `__cause__` is the exception that it raised."""


class SlowListenerError(ConnectorError):
    """A listener of `topic` fell behind; its `count` oldest messages were dropped."""

    def __init__(self, text: str = "", *, topic: str = "", count: int = 0) -> None:
        super().__init__(text)
        self.topic = topic
        self.count = count


class ShardsDifferError(ConnectorError):
    """The sender `node` (its id in frames, in hex) has another number of shards, `theirs`, than this node, `mine`.

    So messages with a key may not arrive. It was seen on `topic`, and is reported once for each sender.
    """

    def __init__(self, text: str = "", *, topic: str = "", node: str = "", mine: int = 1, theirs: int = 1) -> None:
        super().__init__(text)
        self.topic = topic
        self.node = node
        self.mine = mine
        self.theirs = theirs


class MessagesLostError(ConnectorError):
    """`count` messages of the sender `node` (its id in frames, in hex) on `topic` are lost."""

    def __init__(self, text: str = "", *, topic: str = "", node: str = "", count: int = 0) -> None:
        super().__init__(text)
        self.topic = topic
        self.node = node
        self.count = count
