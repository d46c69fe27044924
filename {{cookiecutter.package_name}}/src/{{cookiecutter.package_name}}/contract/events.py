"""Events to the host: the failure of a handler harms no other one, nor the connector."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from inspect import isawaitable
from time import monotonic
from typing import Any

from pyee.base import EventEmitter

from . import tasks
from .errors import ConnectionLostError, ConnectorError, ListenerError, ReconnectError
from .floods import Flood, counted

logger = logging.getLogger(__name__.partition(".")[0])

Handler = Callable[..., Any]
"""A function or a coroutine function."""

CLOSING_TIME = 1.0
"""Seconds that handlers may take to end when the connector closes, and once more after they were cancelled."""

_handler: ContextVar["asyncio.Task[Any] | None"] = ContextVar("handler", default=None)
"""The task of the handler that we run in, even in the tasks that it has started."""


class Events:
    """The host's handlers by event; `on`, `once` and `remove_listener` are those of pyee."""

    def __init__(self) -> None:
        self._emitter = EventEmitter()
        self._running: dict[asyncio.Task[None], None] = {}
        self._is_over = False
        self._outage = OutageLog()
        self._unsent: Exception | None = None
        self._has_told_unsent = False
        self._flood = Flood(log_error, self._tell_unsent)

    def on(self, event: str, handler: Handler | None = None) -> Any:
        """Call `handler` at each `event`; without a handler, return a decorator. A handler is added once only."""
        if handler is None:
            return lambda function: self.on(event, function)
        self._emitter.on(event, _Guard(self, event, handler))
        return handler

    def once(self, event: str, handler: Handler | None = None) -> Any:
        """Call `handler` at the next `event` only; without a handler, return a decorator."""
        if handler is None:
            return lambda function: self.once(event, function)
        self._emitter.once(event, _Guard(self, event, handler))
        return handler

    def remove_listener(self, event: str, handler: Handler) -> None:
        """Take back what `on` or `once` did; raise `KeyError` if they did not."""
        guard = _Guard(self, event, handler)
        if guard not in self._emitter.listeners(event):
            raise KeyError(handler)
        self._emitter.remove_listener(event, guard)

    def emit(self, event: str, *args: Any) -> bool:
        """Call the handlers of `event`, and start those that are coroutine functions; return whether there are any.

        Raises nothing: what a handler raises is logged.
        """
        return bool(self._emitter.listeners(event)) and self._emitter.emit(event, *args)

    def report(self, error: Exception) -> None:
        """Emit `error` as an `error` event, or log it if nobody listens for those; raise nothing."""
        if not self.emit("error", error):
            self._outage.add(error)

    def ready(self, where: str) -> None:
        """Emit `ready`, and log that an outage is over if its beginning was logged; raise nothing."""
        self._outage.end(where)
        self.emit("ready")

    def log_unsent(self, error: Exception) -> None:
        """Log why a message was not sent, together with others, once a second at most; raise nothing."""
        self._unsent = error
        self._flood.add(1)

    async def close(self) -> None:
        """Log what waits for that; wait `CLOSING_TIME` seconds for the handlers that still run, then cancel them.

        It does not wait for a handler that calls it.
        """
        self._flood.flush()
        others = [task for task in self._running if task is not _handler.get()]
        if others:
            await asyncio.wait(others, timeout=CLOSING_TIME)
        self._is_over = True
        if others := [task for task in others if not task.done()]:
            for task in others:
                task.cancel()
            await asyncio.wait(others, timeout=CLOSING_TIME)

    def is_calling_us(self) -> bool:
        """Tell whether this runs in a handler, a coroutine function, that has not returned yet."""
        return _handler.get() in self._running

    def start(self, event: str, result: Awaitable[Any]) -> None:
        """Run what a handler of `event` has returned."""
        task = tasks.start(self._run(event, result))
        self._running[task] = None
        task.add_done_callback(self._running.pop)

    def _tell_unsent(self, count: int) -> Exception:
        lost = counted(count, "more " if self._has_told_unsent else "")
        self._has_told_unsent = True
        return ConnectorError(f"{lost} of this node may be lost. The last error: {shown(self._unsent, str)}")

    async def _run(self, event: str, result: Awaitable[Any]) -> None:
        _handler.set(asyncio.current_task())
        try:
            await result
        except BaseException as error:  # a task that raises SystemExit would end the loop
            if not (self._is_over and isinstance(error, asyncio.CancelledError)):
                log_failure(event, error)


class _Guard:
    """Calls a handler and raises nothing; equals other guards of that handler, so that pyee finds it."""

    def __init__(self, events: Events, event: str, handler: Handler) -> None:
        self.events = events
        self.event = event
        self.handler = handler

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Guard) and bool(self.handler == other.handler)

    def __hash__(self) -> int:
        return hash(self.handler)

    def __call__(self, *args: Any) -> None:
        try:
            result = self.handler(*args)
            if isawaitable(result):
                self.events.start(self.event, result)
        except BaseException as error:
            log_failure(self.event, error)


def shown(value: object, form: Callable[[Any], str] = repr) -> str:
    """Return `form(value)`, or the name of the value's type if that raises."""
    try:
        return form(value)
    except BaseException:
        return f"<{type(value).__name__}>"


def log_error(error: Exception) -> None:
    """Log what an `error` event says, in one line; with a traceback where the fault is in the host's own code."""
    is_hosts_own = isinstance(error, ListenerError)
    _log(f"{type(error).__name__}: {shown(error, str)}", error.__cause__ if is_hosts_own else None)


class OutageLog:
    """Logs what `error` events say, and how long an outage lasted that is over."""

    def __init__(self) -> None:
        self._since: float | None = None

    def add(self, error: Exception) -> None:
        """Log an error; one of those that tell an outage begins it, unless it has begun."""
        log_error(error)
        if self._since is None and isinstance(error, ConnectionLostError | ReconnectError):
            self._since = monotonic()

    def end(self, where: str) -> None:
        """Log that there is a connection to the broker at `where`, if an outage has begun here."""
        if self._since is not None:
            since, self._since = self._since, None
            _log(f"Connected to {where} after an outage of {monotonic() - since:.1f} s.", None, logging.WARNING)


def log_failure(event: str, error: BaseException) -> None:
    """Log what a handler of `event` raised."""
    _log(f"A handler of the event {event!r} raised {shown(error)}; fix the handler.", error)


def _log(text: str, cause: BaseException | None, level: int = logging.ERROR) -> None:
    for shown_cause in (cause, None):
        try:
            logger.log(level, "%s", text, exc_info=shown_cause)
            return
        except BaseException:  # from a filter of the host, or from a cause that cannot be shown
            continue
