"""A connector for code that has no event loop: views, tasks, scripts, threads."""

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context
from functools import partial, update_wrapper
from inspect import isawaitable, iscoroutinefunction
from multiprocessing.util import Finalize
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, TypeVar

from .connection import CLOSING_TIME
from .connector import Callback, MessageConnector
from .errors import ClosedError, ConnectorError, NotReadyError
from .listeners import Listener
from .threads import DaemonThreads
from .transport import S

T = TypeVar("T")

Use = Callable[[MessageConnector[S]], Awaitable[T]]
"""What is done with a connector, on its event loop."""


class BlockingMessageConnector(Generic[S]):
    """Does what a connector does, for code without an event loop.

    Any thread may call it, also in a process that was forked after it was made. In each process it is one node, with
    one connector on a thread of its own, from the first use on. That use, too, starts the connection in the background:
    until the broker can be reached, everything is as in an outage, and errors that are no call's own are logged.

    When the interpreter exits, and at the end of a `multiprocessing` process, it closes. A process that ends by
    `os._exit`, or by a signal, has to call `close` itself.

    `settings` are the settings, or a function that returns them, as for `MessageConnector`.
    """

    connector_class: ClassVar[type[MessageConnector[Any]]]
    """Whose connector it runs."""

    _lock: threading.Lock
    _running: "ConnectorThread[S] | None"

    def __init__(self, settings: S | Callable[[], S | Awaitable[S]]) -> None:
        self._settings = settings
        self.connector_class(settings)  # which raises at once what is wrong with them
        self._is_closed = False
        self._begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=partial(_begin, weakref.ref(self)))

    def publish(self, topic: str, message: Any, key: str | None = None) -> None:
        """Send `message`, any JSON value, to all nodes that are subscribed to `topic`; return when it was accepted.

        `key` is that of a shard, as for `MessageConnector`; here as in the other methods.

        Raises:
            SerializationError, MessageTooLargeError, OutboxFullError: the message was not taken.
            PublishRefusedError: the broker refused the message: nobody gets it.
            PublishUnconfirmedError: the broker did not confirm it within `publish_timeout`, outages included.
            ClosedError: `close()` was called, here or in the parent process before the fork.
            RuntimeError: the call comes from the connector's own thread, and would wait for itself.
        """
        self._wait_for(lambda connector: connector.publish(topic, message, key))

    def publish_nowait(
        self, topic: str, message: Any, callback: Callback | None = None, key: str | None = None
    ) -> None:
        """Send like `publish`, without waiting for the broker.

        Raises at once what is known at once. What comes later goes to `callback(error_or_None)`, which is called on the
        connector's thread and must not block, or without one, if it is an error, to the log.
        """

        async def use(connector: MessageConnector[S]) -> None:
            connector.publish_nowait(topic, message, callback, key)

        if self._running and self._running.is_here:
            self._running.connector.publish_nowait(topic, message, callback, key)
            return
        try:
            with self._lock:
                self._thread().connector.hand_over(topic, message, callback, key)
        except NotReadyError:  # the thread has only just begun
            self._wait_for(use)

    def subscribe(self, topic: str, listener: Listener, key: str | None = None) -> None:
        """Have `listener(message)` called for what other nodes publish on `topic`; return when that is so.

        A function is called on a thread that it may block, with one message after another. A coroutine function runs on
        the connector's event loop, which it must not block. After a fork, the child is a node of its own, without
        listeners.

        Raises:
            SubscribeRefusedError: the broker refused.
            SubscribeUnconfirmedError: the broker did not confirm within `publish_timeout`.
            ClosedError, RuntimeError: as for `publish`.
        """
        self._wait_for(lambda connector: connector.subscribe(topic, _called_aside(listener), key))

    def unsubscribe(self, topic: str, listener: Listener, key: str | None = None) -> None:
        """Call `listener` no more for messages on `topic`; return when the broker, if need be, has been told.

        Raises:
            UnsubscribeError: the listener is not subscribed, or the broker objects.
            ClosedError, RuntimeError: as for `publish`.
        """
        self._wait_for(lambda connector: connector.unsubscribe(topic, _called_aside(listener), key))

    def close(self) -> None:
        """Send what was accepted, let listeners finish, and end the connection and its thread, for good.

        Waits for the connection, if something is to be sent and there is none, up to `connect_timeout`; then as
        `MessageConnector.close` does. May be called from any thread, more than once, and by a listener or a callback; on
        the connector's own thread it returns at once.
        """
        with self._lock:
            running, self._is_closed = self._running, True
            if running:
                running.end()
        if running:
            running.wait()

    def submit(self, use: "Use[S, T]") -> "Future[T]":
        """Have `await use(connector)` done on the connector's event loop; return what becomes of it, from any thread.

        For adapters that need more than the methods here. Cancelling what is returned cancels `use`.

        Raises:
            ClosedError: `close()` was called.
        """
        with self._lock:
            return self._thread().submit(use)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self) -> None:
        """Begin as a process does that has not used it yet."""
        self._lock = threading.Lock()
        self._running = None

    def _thread(self) -> "ConnectorThread[S]":
        """Return the thread, which has begun; only for those who hold the lock."""
        if self._is_closed:
            raise ClosedError("The BlockingConnector is closed: make a new one.")
        if self._running is None:
            self._running = ConnectorThread(self.connector_class(self._settings), self.close)
        return self._running

    def _wait_for(self, use: "Use[S, Any]") -> None:
        if self._running and self._running.is_here:
            raise RuntimeError(
                "This call comes from the connector's own thread, and would wait for itself. Call publish_nowait, or "
                "subscribe a function in place of a coroutine function: it is called on another thread."
            )
        self.submit(use).result()


class ConnectorThread(Generic[S]):
    """Runs one connector on an event loop of its own; `close` is called when the interpreter exits."""

    def __init__(self, connector: MessageConnector[S], close: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=self._run, name=f"{connector.name} connector", daemon=True)
        self.connector = connector
        self._loop = asyncio.SelectorEventLoop()  # of all systems' loops the one that every client library takes
        self._aside = DaemonThreads()
        self._loop.set_default_executor(self._aside)
        self._loop.call_soon(connector.start, context=Context())
        self._close = close
        atexit.register(close)  # now, so that it comes before what client libraries have registered
        self._at_exit = Finalize(None, close, exitpriority=0)  # where a process of `multiprocessing` ends
        self._uses: set[asyncio.Task[Any]] = set()
        self._ending: Future[None] | None = None
        self._thread.start()

    @property
    def is_here(self) -> bool:
        """Whether this is the thread."""
        return threading.current_thread() is self._thread

    def submit(self, use: "Use[S, T]") -> "Future[T]":
        """Have `await use(connector)` done; return what becomes of it."""
        return asyncio.run_coroutine_threadsafe(self._use(use), self._loop)

    async def _use(self, use: "Use[S, T]") -> T:
        task = asyncio.current_task()
        assert task
        self._uses.add(task)
        task.add_done_callback(self._uses.discard)
        return await use(self.connector)

    def end(self) -> None:
        """Begin to end, unless that has begun."""
        if self._ending is None:
            self._at_exit.cancel()
            atexit.unregister(self._close)
            self._ending = asyncio.run_coroutine_threadsafe(self._end(), self._loop)

    def wait(self) -> None:
        """Return when the connector is closed, and the thread has ended; a listener is not kept waiting for itself."""
        if self._ending and not self.is_here:
            self._ending.result()
            if threading.current_thread() not in self._aside.threads:
                self._thread.join()
                self._aside.join(CLOSING_TIME)

    def _run(self) -> None:
        self._loop.run_forever()
        if left := asyncio.all_tasks(self._loop):
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.wait(left))
        self._loop.close()

    async def _end(self) -> None:
        try:
            if self.connector.stats()["pending"]:
                with suppress(ConnectorError):
                    await self.connector.connect()
            await self.connector.close()
            if self._uses:
                await asyncio.wait(self._uses, timeout=CLOSING_TIME)
        finally:
            self._stopping = self._loop.create_task(self._stop(asyncio.current_task()))

    async def _stop(self, *ending: "asyncio.Task[Any] | None") -> None:
        """Stop when the listener has returned that has closed the connector."""
        left = asyncio.all_tasks().difference(ending, [asyncio.current_task()])
        if left:
            await asyncio.wait(left, timeout=CLOSING_TIME)
        self._loop.stop()


class _CalledAside:
    """A listener that may block: an event loop awaits its end on another thread."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        update_wrapper(self, listener)

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


def _begin(connector: "weakref.ref[BlockingMessageConnector[Any]]") -> None:
    if found := connector():
        found._begin()
