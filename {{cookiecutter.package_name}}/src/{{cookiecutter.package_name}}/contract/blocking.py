"""A connector for code that has no event loop: views, tasks, scripts, threads."""

import asyncio
import atexit
import logging
import os
import threading
import warnings
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context
from functools import partial, update_wrapper
from inspect import isawaitable, iscoroutinefunction
from multiprocessing.util import Finalize, is_exiting
from queue import SimpleQueue
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, TypeVar

from .connection import CLOSING_TIME
from .connector import Callback, MessageConnector
from .errors import ClosedError, ConnectorError, NotReadyError
from .listeners import Listener
from .threads import DaemonThreads, Gate
from .transport import S

logger = logging.getLogger(__name__.partition(".")[0])

T = TypeVar("T")

Use = Callable[[MessageConnector[S]], Awaitable[T]]
"""Uses a connector, on its event loop."""


class BlockingMessageConnector(Generic[S]):
    """Does what a connector does, for code without an event loop.

    Any thread may call it, even in a process that was forked after it was created, and so may a signal handler. In each
    process it is one node, with one connector on a thread of its own, from the first use on. That use also starts the
    connection in the background: until the broker can be reached, everything is as in an outage, and errors that belong
    to no call are logged.

    It closes when the interpreter exits, and at the end of the target of a `multiprocessing` process. It also closes in
    the background, with a `ResourceWarning`, when nobody refers to it any more and nothing was ever subscribed. Exit
    handlers that were registered before the first use come too late, and get a `ClosedError`. Before Python 3.13, so do
    threads that outlive such a target. Ctrl-C ends the wait at exit; then the number of unsent messages is logged.

    A process that ends through `os._exit`, or a signal without a handler, has to call `close` itself. So has an ASGI
    application on uvicorn, at the end of its lifespan: uvicorn ends itself with the signal that stopped it.

    `settings` are the settings, or a function that returns them, as for `MessageConnector`.
    """

    connector_class: ClassVar[type[MessageConnector[Any]]]
    """The connector that it runs."""

    _lock: threading.RLock
    _running: "ConnectorThread[S] | None"

    def __init__(self, settings: S | Callable[[], S | Awaitable[S]]) -> None:
        self._settings = settings
        self.connector_class(settings)  # raises at once if they are wrong
        self._is_closed = False
        self._begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=partial(_begin, weakref.ref(self)))

    def publish(self, topic: str, message: Any, key: str | None = None) -> None:
        """Send `message`, any JSON value, to all nodes that are subscribed to `topic`; return when it was accepted.

        `key` chooses a shard as for `MessageConnector`, here and in the other methods.

        Raises:
            SerializationError, MessageTooLargeError, OutboxFullError: the message was not taken.
            PublishRefusedError: the broker refused the message: nobody gets it.
            PublishUnconfirmedError: the broker did not confirm it within `publish_timeout`, outages included.
            ClosedError: `close()` was called, here or in the parent process before the fork; or the process is ending.
            RuntimeError: the call comes from the connector's own thread and would deadlock.
        """
        self._wait_for(lambda connector: connector.publish(topic, message, key))

    def publish_nowait(
        self, topic: str, message: Any, callback: Callback | None = None, key: str | None = None
    ) -> None:
        """Send like `publish`, without waiting for the broker.

        Raises known errors at once. The later outcome goes to `callback(error_or_None)`, which is called on the
        connector's thread and must not block. Without one, a later error is logged, at most one line a second.
        """

        async def use(connector: MessageConnector[S]) -> None:
            connector.publish_nowait(topic, message, callback or connector.log_unsent, key)

        running = self._thread()
        connector = running.connector
        if running.is_here:
            connector.publish_nowait(topic, message, callback or connector.log_unsent, key)
            return
        try:
            connector.hand_over(topic, message, callback or connector.log_unsent, key)
        except NotReadyError:  # the thread has only just begun
            self._wait_for(use)

    def subscribe(self, topic: str, listener: Listener, key: str | None = None) -> None:
        """Call `listener(message)` for what other nodes publish on `topic`; return when it is subscribed.

        A function is called on a thread that it may block, with one message after another. A coroutine function runs on
        the connector's event loop, which it must not block. After a fork, the child is a node of its own, without
        listeners.

        Without a connection, this waits for one, however long.

        Raises:
            SubscribeRefusedError: the broker refused.
            SubscribeUnconfirmedError: the broker, once connected, did not confirm within `publish_timeout`.
            ClosedError, RuntimeError: as for `publish`.
        """
        self._wait_for(lambda connector: connector.subscribe(topic, _called_aside(listener), key))
        if self._running:
            self._running.needed = self

    def unsubscribe(self, topic: str, listener: Listener, key: str | None = None) -> None:
        """Stop calling `listener` for messages on `topic`; return when the broker, if need be, has been told.

        Raises:
            UnsubscribeError: the listener is not subscribed, or the broker objects.
            ClosedError, RuntimeError: as for `publish`.
        """
        self._wait_for(lambda connector: connector.unsubscribe(topic, _called_aside(listener), key))

    def close(self) -> None:
        """Send what was accepted, let listeners finish, and end the connection and its thread, for good.

        If messages wait and there is no connection, waits for one up to `connect_timeout`; then goes on as
        `MessageConnector.close` does. May be called from any thread, more than once, and by a listener or a callback; on
        the connector's own thread it returns at once.
        """
        self._is_closed = True
        if self._running:
            self._running.close()

    def submit(self, use: "Use[S, T]") -> "Future[T]":
        """Run `await use(connector)` on the connector's event loop, from any thread; return a future of its result.

        For adapters that need more than the methods here. Cancelling the future cancels `use`.

        Raises:
            ClosedError: as for `publish`.
        """
        return self._thread().submit(use)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self) -> None:
        """Begin as in a process that has not used it yet."""
        self._lock = threading.RLock()
        self._running = None

    def _thread(self) -> "ConnectorThread[S]":
        """Return the thread, which has begun."""
        running = self._running or self._start()
        if self._is_closed:
            running.end()
        if running.is_ending:
            raise _closed()
        return running

    def _start(self) -> "ConnectorThread[S]":
        with self._lock:
            if self._running:
                return self._running
            if self._is_closed:
                raise _closed()
            if is_exiting():
                raise ClosedError("The process is ending and sends no new messages: call earlier.")
            made = ConnectorThread(self.connector_class(self._settings), self)
            if self._running:  # a signal handler has used it meanwhile
                made.end()
                return self._running
            self._running = made
            return made

    def _wait_for(self, use: "Use[S, Any]") -> None:
        if self._running and self._running.is_here:
            raise RuntimeError(
                "This call comes from the connector's own thread and would deadlock. Use publish_nowait, or subscribe a "
                "plain function, which is called on another thread."
            )
        outcome: SimpleQueue[asyncio.Task[Any]] = SimpleQueue()  # a future's lock could keep a signal handler waiting

        async def tell(connector: MessageConnector[S]) -> None:
            task = asyncio.current_task()
            assert task
            task.add_done_callback(outcome.put)
            await use(connector)

        self._thread().submit(tell)
        try:
            outcome.get().result()
        except asyncio.CancelledError:
            raise _closed() from None


class ConnectorThread(Generic[S]):
    """Runs one connector on an event loop of its own, and closes it when its user is collected or the interpreter exits."""

    def __init__(self, connector: MessageConnector[S], user: object) -> None:
        self._thread = threading.Thread(target=self._run, name=f"{connector.name} connector", daemon=True)
        self._process = os.getpid()
        self.connector = connector
        self.needed: object = None
        """Not collected as long as this runs."""
        self._loop = asyncio.SelectorEventLoop()  # the only loop that every client library takes everywhere
        self._aside = DaemonThreads()
        self._loop.set_default_executor(self._aside)
        self._loop.call_soon(connector.start, context=Context())
        atexit.register(self._close_at_exit)  # now, so that it runs before client libraries' handlers
        self._at_exit = Finalize(None, self._close_at_exit, exitpriority=0)  # at the end of a `multiprocessing` process
        self._at_drop = weakref.finalize(user, self._drop)
        self._at_drop.atexit = False
        self._uses: set[asyncio.Task[Any]] = set()
        self.is_ending = False
        """Whether new work is refused."""
        self._is_over = False
        self._ending: asyncio.Task[None] | None = None
        self._closed = Gate()
        self._ended = Gate()
        self._thread.start()

    @property
    def is_here(self) -> bool:
        """Whether this is the thread."""
        return threading.current_thread() is self._thread

    def submit(self, use: "Use[S, T]") -> "Future[T]":
        """Run `await use(connector)`; return a future of its result. Raise `ClosedError` if this is ending."""
        if not self.is_ending:
            using = self._use(use)
            try:
                future = asyncio.run_coroutine_threadsafe(using, self._loop)
            except RuntimeError:  # the loop is closed
                using.close()
            else:
                if not self._is_over:
                    return future
        raise _closed()

    async def _use(self, use: "Use[S, T]") -> T:
        task = asyncio.current_task()
        assert task
        self._uses.add(task)
        task.add_done_callback(self._uses.discard)
        try:
            return await use(self.connector)
        except (KeyboardInterrupt, SystemExit) as error:  # either would end the event loop
            raise RuntimeError(f"it raised {type(error).__name__}") from error

    def end(self) -> None:
        """Begin to end, unless that has begun."""
        self.is_ending = True
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._begin_to_end)

    def close(self) -> None:
        """End; return when the connector is closed, and the thread has ended. A listener does not wait for itself."""
        self.end()
        if self.is_here:
            return
        self._closed.wait()
        if threading.current_thread() not in self._aside.threads:
            self._ended.wait()
            self._thread.join(CLOSING_TIME)
            self._aside.join(CLOSING_TIME)

    def _drop(self) -> None:
        if not self.is_ending and os.getpid() == self._process:
            self.end()
            warnings.warn(
                f"{self.connector!r} was dropped without being closed; closing it now", ResourceWarning, stacklevel=2
            )

    def _close_at_exit(self) -> None:
        if os.getpid() != self._process:
            return
        self._at_exit.cancel()
        try:
            self.close()
        except KeyboardInterrupt:
            logger.error("%d messages were not sent before the process exited", self.connector.stats()["pending"])
            raise

    def _run(self) -> None:
        try:
            self._loop.run_forever()
            self._is_over = True
            self._loop.run_until_complete(self._cancel_all())
            self._loop.close()
        finally:
            atexit.unregister(self._close_at_exit)
            self._at_exit.cancel()
            self._at_drop.detach()
            self.needed = None
            self._closed.open()
            self._ended.open()

    def _begin_to_end(self) -> None:
        if self._ending is None:
            self._ending = self._loop.create_task(self._end())

    async def _end(self) -> None:
        try:
            if self.connector.stats()["pending"]:
                with suppress(ConnectorError):
                    await self.connector.connect()
            await self.connector.close()
            if self._uses:
                await asyncio.wait(self._uses, timeout=CLOSING_TIME)
        finally:
            self._closed.open()
            self._stopping = self._loop.create_task(self._stop())

    async def _stop(self) -> None:
        """Stop when the listener that closed the connector has returned."""
        left = asyncio.all_tasks().difference([asyncio.current_task()])
        if left:
            await asyncio.wait(left, timeout=CLOSING_TIME)
        self._loop.stop()

    async def _cancel_all(self) -> None:
        await asyncio.sleep(0)  # so that everything submitted until then has begun
        left = asyncio.all_tasks().difference([asyncio.current_task()])
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)


class _CalledAside:
    """A listener that may block: an event loop awaits its end on another thread."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        update_wrapper(self, listener, updated=())  # a callable object keeps its own attributes

    async def __call__(self, message: Any) -> None:
        result = await asyncio.to_thread(self._listener, message)
        if isawaitable(result):
            await result

    def __repr__(self) -> str:
        return repr(self._listener)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _CalledAside) and self._listener == other._listener

    def __hash__(self) -> int:
        return hash(self._listener)


def _called_aside(listener: Listener) -> Listener:
    return listener if iscoroutinefunction(listener) or not callable(listener) else _CalledAside(listener)


def _closed() -> ClosedError:
    return ClosedError("The BlockingConnector is closed: create a new one.")


def _begin(connector: "weakref.ref[BlockingMessageConnector[Any]]") -> None:
    if found := connector():
        found._begin()
