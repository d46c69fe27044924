"""What a host is told of messages that are missing, and of all other errors that are no call's own."""

import logging
from collections.abc import Callable

from .. import Connector
from ..contract import MessagesLostError, SlowListenerError

logger = logging.getLogger(__name__.partition(".")[0])


def watch(connector: Connector, topic: str, lost: Callable[[], object]) -> None:
    """Have `lost()` called when messages on `topic` are missing at this node, and cannot be had any more.

    All `error` events are logged, since a connector does that by itself only as long as it has no handler for them.
    """

    def take(error: Exception) -> None:
        logger.error("%s: %s", type(error).__name__, error, exc_info=error.__cause__)
        if isinstance(error, MessagesLostError | SlowListenerError) and error.topic == topic:
            lost()

    connector.on("error", take)
