"""Every error that a connector raises, calls back or emits, under one base."""


class ConnectorError(Exception):
    """The base of all errors of a connector."""


class ConnectError(ConnectorError):
    """`connect()` could not reach the broker, or was refused by it."""


class NotReadyError(ConnectorError):
    """An operation came before `connect()`."""


class ClosedError(ConnectorError):
    """An operation came after `close()`, or was still waiting when the connector closed."""


class PublishError(ConnectorError):
    """The broker refused a message, or did not confirm it within `publish_timeout`.

    After a time-out it means "not confirmed", not "not delivered": whoever missed the message is
    told by a `MessagesLostError`.
    """


class SubscribeError(ConnectorError):
    """The broker refused a subscription, or did not confirm it within `publish_timeout`."""


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


class BadFrameError(ConnectorError):
    """A payload arrived on a topic that is no frame of a connector, or of an unknown version."""


class ListenerError(ConnectorError):
    """A listener, or the callback of a publish, raised; `__cause__` is what it raised."""


class SlowListenerError(ConnectorError):
    """A listener fell behind by more than `max_pending_messages`; `count` messages were dropped."""

    def __init__(self, text: str, *, count: int) -> None:
        super().__init__(text)
        self.count = count


class MessagesLostError(ConnectorError):
    """`count` messages of the sender `node` (its id in frames, in hex) on `topic` did not arrive."""

    def __init__(self, text: str, *, topic: str, node: str, count: int) -> None:
        super().__init__(text)
        self.topic = topic
        self.node = node
        self.count = count
