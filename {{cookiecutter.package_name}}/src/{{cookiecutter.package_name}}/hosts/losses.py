"""What a host is told of messages that are missing, and of all other errors that are no call's own."""

import logging
from collections.abc import Callable

from .. import Connector
from ..contract import MessagesLostError, SlowListenerError

logger = logging.getLogger(__name__.partition(".")[0])


def watch(connector: Connector, topic: str, lost: Callable[[], object]) -> None:
    """Have `lost()` called when this node has missed messages on `topic`, whoever's fault that is.

    Every `error` event is logged, since a connector does so by itself only as long as nobody listens to them.
    """

    def take(error: Exception) -> None:
        logger.error("%s: %s", type(error).__name__, error, exc_info=error.__cause__)
        if isinstance(error, MessagesLostError | SlowListenerError) and error.topic == topic:
            lost()

    connector.on("error", take)
