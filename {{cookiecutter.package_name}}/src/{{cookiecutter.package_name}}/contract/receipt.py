"""A future for the answer to one message: what `publish` returns, so that awaiting many costs no task for each."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Receipt(asyncio.Future[None], Coroutine[Any, Any, None]):
    """Done when the broker has accepted a message, or when that failed, with the error.

    A transport whose client library reports each answer to it may return one, and call `settle` on the event loop's
    thread. That is the only way to settle it.

    It is a coroutine, too, since `asyncio.create_task` and its like take nothing else.
    """

    hears: Callable[[Exception | None], object] | None = None
    """Called within `settle`, with the error or None, if it is set before.

    A callback of a future waits for the next turn of the event loop, which takes 8 of the 65 µs of a lone message.
    """

    def settle(self, error: Exception | None = None) -> None:
        """Report what became of the message, unless that was done before, or nobody waits any longer; raise nothing."""
        if self.done():
            return
        if error is None:
            self.set_result(None)
        else:
            self.set_exception(error)
        if hears := self.hears:
            self.hears = None  # it may hold this receipt, and a cycle for each message keeps the collector busy
            if error is not None:
                self.exception()  # so that nobody reports that it was never retrieved
            try:
                hears(error)
            except Exception as fault:  # as the event loop does for a callback
                context = {"message": "A receipt's callback raised an exception", "exception": fault, "future": self}
                self.get_loop().call_exception_handler(context)

    def send(self, value: Any) -> Any:
        """Go on like a coroutine that awaits this future and nothing else."""
        if self.done():
            raise StopIteration(self.result())
        self._asyncio_future_blocking = True
        return self

    def throw(self, kind: Any, value: Any = None, trace: Any = None) -> Any:
        """Raise what is thrown in, as such a coroutine does."""
        raise kind if value is None else value

    def close(self) -> None:
        """End like such a coroutine, which has nothing left to end."""
