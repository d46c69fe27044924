"""A message connector: joins a node of a cluster of realtime servers to the others through a broker."""

from .about import BROKER_NAME, SERIALIZATION, __version__
from .contract import BlockingMessageConnector, MessageConnector, Topic, private_topic
from .settings import Settings
from .transport import BrokerTransport

__all__ = ["BlockingConnector", "Connector", "Settings", "Topic", "__version__", "private_topic"]


class Connector(MessageConnector[Settings]):
    """Joins a node to the others; see `MessageConnector` for all that it does."""

    name = BROKER_NAME
    version = __version__
    Settings = Settings
    transport_class = BrokerTransport
    default_serialization = SERIALIZATION


class BlockingConnector(BlockingMessageConnector[Settings]):
    """Does the same for code without an event loop, in any thread; see `BlockingMessageConnector`."""

    connector_class = Connector
