"""How a host learns that messages are missing."""

from collections.abc import Callable

from .. import Connector
from ..contract import MessagesLostError, SlowListenerError
from ..contract.events import OutageLog


def watch(connector: Connector, topic: str, lost: Callable[[], object]) -> None:
    """Call `lost()` when messages on `topic` are missing at this node, and cannot be repaired any more.

    All `error` events are logged, and the end of an outage, since a connector does so by itself only as long as it has
    no handler for them.
    """
    log = OutageLog()

    def take(error: Exception) -> None:
        log.add(error)
        if isinstance(error, MessagesLostError | SlowListenerError) and error.topic == topic:
            lost()

    connector.on("error", take)
    connector.on("ready", lambda: log.end(connector.settings.where))
