"""What `publish` returns: a future, so that awaiting many costs no task for each."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from .errors import ConnectorError


class Receipt(asyncio.Future[None], Coroutine[Any, Any, None]):
    """Done when the broker has accepted a message, or with the error that became of it.

    It is a coroutine, too, since `asyncio.create_task` and its like take nothing else.
    """

    def settle(self, error: ConnectorError | None) -> None:
        """Tell what became of the message; nobody is told who waits no longer."""
        if self.done():
            return
        if error is None:
            self.set_result(None)
        else:
            self.set_exception(error)

    def send(self, value: Any) -> Any:
        """Go on as a coroutine does that awaits this future and nothing else."""
        if self.done():
            raise StopIteration(self.result())
        self._asyncio_future_blocking = True
        return self

    def throw(self, kind: Any, value: Any = None, trace: Any = None) -> Any:
        """Raise what is thrown in, as such a coroutine does."""
        raise kind if value is None else value

    def close(self) -> None:
        """End as such a coroutine does, of which nothing is left to end."""
