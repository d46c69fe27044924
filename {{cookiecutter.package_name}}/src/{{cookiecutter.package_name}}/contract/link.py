"""One connection after another: connect, notice a loss, back off, connect again, restore."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from itertools import count
from typing import Any, Generic

from .errors import ClosedError
from .transport import S, Transport

logger = logging.getLogger(__name__.partition(".")[0])

CLOSING_TIME = 1.0
"""Seconds that a transport may take to close."""

Receive = Callable[[str, bytes], None]


class Lost(Exception):
    """The connection on which something was asked is gone; `__cause__` is why."""


class Connection(Generic[S]):
    """One transport and its inbox, of which no other transport knows.

    What an abandoned transport still says goes to an inbox that nobody reads.
    """

    def __init__(
        self,
        make_transport: Callable[[S, "Connection[S]"], Transport[S]],
        settings: S,
        memory: dict[str, Any],
        receive: Receive,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._receive = receive
        self._strays: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None
        self.memory = memory
        self.gone: asyncio.Future[Exception] = self._loop.create_future()
        self.heard = self._loop.time()
        self.transport = make_transport(settings, self)

    def received(self, topic: str, payload: bytes) -> None:
        if not self.gone.done():
            self.heard = self._loop.time()
            self._receive(topic, payload)

    def lost(self, error: Exception) -> None:
        if not self.gone.done():
            self.gone.set_result(error)
            self.memory = self.memory.copy()  # what the transport still remembers, it has not handed in

    async def call(self, operation: Coroutine[Any, Any, None], within: float) -> None:
        """Run one method of the transport, raced against the loss, for `within` seconds at most.

        Raises what the method raised, `Lost`, or `TimeoutError`. Cancelling gives the method up.
        """
        task = self._loop.create_task(operation)
        try:
            patience = within
            while patience > within / 100 and not (task.done() or self.gone.done()):
                began = self._loop.time()
                await asyncio.wait((task, self.gone), timeout=patience, return_when="FIRST_COMPLETED")
                # A loop that its host had blocked heard nothing meanwhile: it listens for as long again.
                patience = self._loop.time() - began - patience
        finally:
            if not task.done():
                self.abandon(task)
        if self.gone.done():
            if task.done() and not task.cancelled():
                task.exception()
            raise Lost from self.gone.result()
        if not task.done():
            raise TimeoutError(f"no answer within {within:.3g} s")
        if task.cancelled():
            raise ConnectionAbortedError("the client library cancelled the call")
        task.result()

    def abandon(self, task: asyncio.Task[None]) -> None:
        """Cancel a call that nobody waits for any more, and wait for its end when closing."""
        self._strays.add(task)
        task.add_done_callback(self._forget)
        task.cancel()

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._strays.discard(task)
        if not task.cancelled():
            task.exception()

    async def leave(self, within: float) -> None:
        """Have the transport undo what would outlive it at the broker, unless it is gone already."""
        if self.gone.done():
            return
        try:
            await self.call(self.transport.leave(), within)
        except Exception as error:
            logger.warning("Something may be left at the broker: %s.", type(reason(error)).__name__)

    async def close(self) -> None:
        """Close the transport, come what may, within about `CLOSING_TIME`; who is cancelled waits for it, too."""
        closing = self._loop.create_task(self._close())
        cancelled: asyncio.CancelledError | None = None
        while not closing.done():
            try:
                await asyncio.wait((closing,))
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled:
            raise cancelled
        closing.result()

    async def _close(self) -> None:
        self.lost(ConnectionAbortedError("closed"))
        if self._watching:
            await asyncio.wait((self._watching,))
        if self._strays:
            await asyncio.wait(self._strays, timeout=CLOSING_TIME)
        closing = self._loop.create_task(self.transport.close())
        await asyncio.wait((closing,), timeout=CLOSING_TIME)
        if not closing.done():
            self.abandon(closing)
            logger.warning("The transport did not close within %g s.", CLOSING_TIME)
        elif not closing.cancelled() and (error := closing.exception()):
            logger.debug("The transport did not close cleanly: %s.", type(error).__name__)

    def watch(self, heartbeat: float) -> None:
        """Notice within `heartbeat` seconds of silence that the connection is gone."""
        self.heard = self._loop.time()
        self._watching = self._loop.create_task(self._watch(heartbeat))

    async def _watch(self, heartbeat: float) -> None:
        third = heartbeat / 3
        while not self.gone.done():
            await asyncio.wait((self.gone,), timeout=third)
            silence = self._loop.time() - self.heard
            if self.gone.done() or silence < third:
                continue
            try:
                await self.call(self.transport.ping(), max(0.95 * heartbeat - silence, 0.28 * heartbeat))
                self.heard = self._loop.time()
            except Lost:
                pass
            except Exception as error:
                self.lost(error)


class Link(Generic[S]):
    """Keeps one connection up; tells of each coming (`on_up`) and going (`on_down`).

    `restore` brings a new connection to where the last one was; if it raises, the next is tried.
    """

    def __init__(
        self,
        settings: S,
        make_connection: Callable[[], Connection[S]],
        restore: Callable[[Connection[S]], Awaitable[None]],
        on_up: Callable[[Connection[S]], None],
        on_down: Callable[[Exception], None],
    ) -> None:
        self._settings = settings
        self._make_connection = make_connection
        self._restore = restore
        self._on_up = on_up
        self._on_down = on_down
        self._connection: Connection[S] | None = None
        self._changed = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def is_up(self) -> bool:
        """Whether there is a connection that nobody has called lost."""
        return self._connection is not None and not self._connection.gone.done()

    async def open(self) -> None:
        """Connect for the first time, with one attempt, and keep connected from then on.

        Raises what the attempt raised; nothing of it is left. Cancelling undoes the attempt.
        """
        connection = await self._establish()
        self._keeper = asyncio.get_running_loop().create_task(self._keep(connection))
        self._begin(connection)

    async def up(self) -> Connection[S]:
        """Return the connection, after waiting for one if need be; raise `ClosedError` once this is closed."""
        while not self._is_closed:
            if self._connection is not None:
                if not self._connection.gone.done():
                    return self._connection
                self._end()  # lost, though its keeper has not come to it yet
            await self._changed.wait()
        raise ClosedError(f"The connector to {self._settings.where} was closed meanwhile: make a new one.")

    async def close(self) -> None:
        """End the connection for good, or the attempts at one."""
        if self._connection is not None:
            await self._connection.leave(self._settings.heartbeat)
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait((self._keeper,))
        self._end()
        self._is_closed = True
        self._changed.set()

    def _begin(self, connection: Connection[S]) -> None:
        self._connection = connection
        self._changed.set()
        self._on_up(connection)

    def _end(self) -> None:
        self._connection = None
        self._changed.clear()

    async def _keep(self, connection: Connection[S]) -> None:
        while True:
            try:
                await asyncio.wait((connection.gone,))
                self._end()
                self._on_down(connection.gone.result())
            finally:
                await connection.close()
            connection = await self._reconnect()
            self._begin(connection)

    async def _reconnect(self) -> Connection[S]:
        settings = self._settings
        for attempt in count():
            longest = min(settings.reconnect_delay_min * 2 ** min(attempt, 30), settings.reconnect_delay_max)
            await asyncio.sleep(longest * random.uniform(0.5, 1))
            try:
                return await self._establish()
            except Exception as error:
                logger.warning(
                    "Attempt %d to reconnect to %s failed: %s.",
                    attempt + 1,
                    settings.where,
                    settings.describe(reason(error)),
                )
        raise AssertionError("count() has no end")

    async def _establish(self) -> Connection[S]:
        connection = self._make_connection()
        try:
            await connection.call(connection.transport.connect(), self._settings.connect_timeout)
            connection.watch(self._settings.heartbeat)
            await self._restore(connection)
            if connection.gone.done():
                raise Lost from connection.gone.result()
        except BaseException:
            await connection.close()
            raise
        return connection


def reason(error: Exception) -> BaseException:
    """Return what made a connection go, rather than that it is gone."""
    return error.__cause__ or error if isinstance(error, Lost) else error
