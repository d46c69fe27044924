"""What a host is told of messages that are missing, and what is logged of those and of other errors."""

from collections.abc import Callable

from .. import Connector
from ..contract import ConnectorError, MessagesLostError, SlowListenerError
from ..contract.events import log_error
from ..contract.floods import Flood


def watch(connector: Connector, topic: str, lost: Callable[[], object]) -> None:
    """Have `lost()` called when messages on `topic` are missing at this node, and cannot be had any more.

    All `error` events are logged, since a connector does that by itself only as long as it has no handler for them.
    """

    def take(error: Exception) -> None:
        log_error(error)
        if isinstance(error, MessagesLostError | SlowListenerError) and error.topic == topic:
            lost()

    connector.on("error", take)


class Unsent:
    """Logs how many messages of this node others may miss: at once, and then once a second at most.

    It is the callback of each `publish_nowait`, and is called with what that raised if the host's users are not to see it.
    """

    def __init__(self) -> None:
        self._last: Exception | None = None
        self._flood = Flood(log_error, self._word)

    def __call__(self, error: Exception | None) -> None:
        if error:
            self._last = error
            self._flood.add(1)

    def flush(self) -> None:
        """Log what has not been logged yet."""
        self._flood.flush()

    def _word(self, count: int) -> Exception:
        return ConnectorError(f"Messages of this node that others may miss: {count}. The last one: {self._last}")
