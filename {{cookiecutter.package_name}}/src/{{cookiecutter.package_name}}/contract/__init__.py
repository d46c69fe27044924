"""The machinery behind the contract of a message connector: the same in every package, never edited."""

from .bridge import Bridge
from .connector import MessageConnector, Stats
from .errors import (
    BadFrameError,
    ClosedError,
    ConnectError,
    ConnectionLostError,
    ConnectorError,
    ListenerError,
    MessagesLostError,
    MessageTooLargeError,
    NotReadyError,
    OutboxFullError,
    PublishError,
    SerializationError,
    SlowListenerError,
    SubscribeError,
    UnsubscribeError,
)
from .escaping import escape, unescape
from .settings import ConnectorSettings
from .topics import Topic, private_topic
from .transport import Inbox, Transport

__all__ = [
    "BadFrameError",
    "Bridge",
    "ClosedError",
    "ConnectError",
    "ConnectionLostError",
    "ConnectorError",
    "ConnectorSettings",
    "Inbox",
    "ListenerError",
    "MessageConnector",
    "MessageTooLargeError",
    "MessagesLostError",
    "NotReadyError",
    "OutboxFullError",
    "PublishError",
    "SerializationError",
    "SlowListenerError",
    "Stats",
    "SubscribeError",
    "Topic",
    "Transport",
    "UnsubscribeError",
    "escape",
    "private_topic",
    "unescape",
]
