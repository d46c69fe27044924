"""Events to the host: a handler that raises is logged, and never harms the connector."""

import asyncio
import logging
from typing import Any

from pyee.asyncio import AsyncIOEventEmitter

logger = logging.getLogger(__name__.partition(".")[0])


class Events(AsyncIOEventEmitter):
    """Handlers by event; they may be functions or coroutine functions."""

    def emit(self, event: str, *args: Any, **kwargs: Any) -> bool:
        """Call the handlers of `event`; return whether there are any."""
        if event == "error":  # pyee hands in here what a handler raised
            logger.error("A handler of an event raised %r.", args[0], exc_info=args[0])
            return True
        return self._tell(event, *args, **kwargs)

    def report(self, error: Exception) -> None:
        """Emit `error` as an `error` event, or log it if nobody listens for those."""
        if self.listeners("error"):
            self._tell("error", error)
        else:
            logger.error("%s: %s", type(error).__name__, error, exc_info=error.__cause__)

    def _tell(self, event: str, *args: Any, **kwargs: Any) -> bool:
        try:
            return super().emit(event, *args, **kwargs)
        except asyncio.CancelledError as error:  # raised by a function, it cancels nobody
            logger.error("A handler of %r raised %r.", event, error)
            return True
