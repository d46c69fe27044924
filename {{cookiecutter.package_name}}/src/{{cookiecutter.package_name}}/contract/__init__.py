"""The machinery behind the contract of a message connector: the same in every package, never edited."""

from .addresses import Target
from .blocking import BlockingMessageConnector
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
    PublishRefusedError,
    PublishUnconfirmedError,
    ReconnectError,
    SerializationError,
    ShardsDifferError,
    SlowListenerError,
    SubscribeError,
    SubscribeRefusedError,
    SubscribeUnconfirmedError,
    UnsubscribeError,
)
from .escaping import escape, unescape
from .inbox import Inbox
from .receipt import Receipt
from .settings import ConnectorSettings
from .threads import DaemonThreads
from .tls import TlsSettings, ssl_context, tls_files
from .topics import Topic, private_topic
from .transport import Transport

__all__ = [
    "BadFrameError",
    "BlockingMessageConnector",
    "Bridge",
    "ClosedError",
    "ConnectError",
    "ConnectionLostError",
    "ConnectorError",
    "ConnectorSettings",
    "DaemonThreads",
    "Inbox",
    "ListenerError",
    "MessageConnector",
    "MessageTooLargeError",
    "MessagesLostError",
    "NotReadyError",
    "OutboxFullError",
    "PublishError",
    "PublishRefusedError",
    "PublishUnconfirmedError",
    "Receipt",
    "ReconnectError",
    "SerializationError",
    "ShardsDifferError",
    "SlowListenerError",
    "Stats",
    "SubscribeError",
    "SubscribeRefusedError",
    "SubscribeUnconfirmedError",
    "Target",
    "TlsSettings",
    "Topic",
    "Transport",
    "UnsubscribeError",
    "escape",
    "private_topic",
    "ssl_context",
    "tls_files",
    "unescape",
]
