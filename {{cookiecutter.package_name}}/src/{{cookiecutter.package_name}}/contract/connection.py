"""One transport and its inbox, and the one way to call a transport: raced against the loss, and bounded."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from inspect import CORO_CREATED, getcoroutinestate, iscoroutine
from math import inf
from typing import Any, Generic

import msgspec

from . import tasks
from .receipt import Receipt
from .transport import S, Transport

logger = logging.getLogger(__name__.partition(".")[0])

CLOSING_TIME = 1.0
"""Seconds that abandoned calls may take to end, and then the transport to close."""

MOST_AT_ONCE = 1000
"""How many calls may end in one turn of the loop, so that no number of them blocks it."""

LOOKS = 10
"""How often the clock is checked while a call runs, so that a block of the loop is noticed whenever it comes."""

STEP = 2e-6
"""The least seconds between two looks, for each running call, so that looking never fills the time of the loop."""

Operation = Awaitable[None]
"""A coroutine, which needs a task to run in, or a future, which needs none."""

Receive = Callable[[str, bytes], None]
Done = Callable[[Exception | None], None]


class Lost(Exception):
    """The connection of a call is gone; `__cause__` is why."""


class Again(Lost):
    """The connection of a call is gone, and a new one may fare better."""


def reason(error: Exception) -> BaseException:
    """Return the reason of a loss if `error` is a `Lost`, else `error`."""
    return error.__cause__ or error if isinstance(error, Lost) else error


class Call(msgspec.Struct, eq=False):
    """A running call of one of the transport's methods."""

    _connection: "Connection[Any]"
    _operation: Operation
    within: float
    began: float
    deadline: float
    _done: Done | None
    _task: asyncio.Task[None] | None = None
    """The task in which a coroutine runs."""
    _longest_block: float = 0.0

    def start(self) -> None:
        """See that the operation's outcome is reported, in the same turn of the event loop if it is a `Receipt`."""
        operation = self._operation
        if isinstance(operation, Receipt) and not operation.done():
            operation.hears = self._tell
        elif isinstance(operation, asyncio.Future):
            operation.add_done_callback(self._came)
        else:
            self._task = tasks.start(self._run(), self._connection.loop)

    def give_up(self) -> None:
        """Cancel the operation, and never call `done`; do nothing if `done` was called already."""
        if self._take_done():
            self._abandon()

    def fail(self) -> None:
        """Give the operation up, and report that the connection is lost or else that the time is over."""
        if done := self._take_done():
            self._abandon()
            gone = self._connection.gone.done()
            done(self._connection.loss() if gone else TimeoutError(f"no answer within {self.within:.3g} s"))

    def excuse(self, late: float, now: float) -> None:
        """Move the deadline, after the host has blocked the loop until `now`, for about `late` seconds.

        Answers that arrived meanwhile have yet to be read. So a block at the end of the call's time adds as much time
        again, but only if it is longer than all before: a loop that is always late would never notice a silence.
        """
        if late > self.within / 100:
            self.deadline += late
            if late > self._longest_block:
                self._longest_block = late
                self.deadline = max(self.deadline, now + min(late, self.within))

    async def _run(self) -> None:
        """Run a coroutine, and report its outcome from here: that is cheaper than a callback of the task."""
        self._tell(await _outcome(self._operation))

    def _came(self, future: "asyncio.Future[None]") -> None:
        """Report the outcome of a future."""
        if future.cancelled():
            self._tell(ConnectionAbortedError("the client library cancelled the call"))
        else:
            error = future.exception()
            self._tell(error if error is None or isinstance(error, Exception) else _as_exception(error))

    def _tell(self, error: Exception | None) -> None:
        if done := self._take_done():
            connection = self._connection
            done(connection.loss() if connection.gone.done() else error)

    def _take_done(self) -> Done | None:
        done, self._done = self._done, None
        if done:
            del self._connection.running[self]
        return done

    def _abandon(self) -> None:
        operation = self._operation
        future: asyncio.Future[None] | None = self._task
        if isinstance(operation, asyncio.Future):
            future = operation
        elif iscoroutine(operation) and getcoroutinestate(operation) == CORO_CREATED:
            operation.close()  # its task, cancelled before its first step, never runs it
        assert future
        self._connection.abandon(future)


class Connection(Generic[S]):
    """One transport and its inbox, which no other transport knows; implements `Inbox`.

    An abandoned transport delivers to an inbox that nobody reads, and writes to dicts that nobody keeps.
    """

    def __init__(
        self,
        transport_class: type[Transport[S]],
        settings: S,
        memory: dict[str, Any],
        topic_memory: dict[str, Any],
        receive: Receive,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.memory = memory
        self.topic_memory = topic_memory
        self.gone: asyncio.Future[Exception] = self.loop.create_future()
        self.running: dict[Call, None] = {}
        self._receive = receive
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = inf
        self._next_ping: asyncio.TimerHandle | None = None
        self._strays: dict[asyncio.Future[Any], None] = {}
        self._closing: asyncio.Task[None] | None = None
        self.transport = transport_class(settings, self)

    def received(self, topic: str, payload: bytes) -> None:
        if not self.gone.done():
            self._receive(topic, payload)

    def lost(self, error: Exception) -> None:
        if not self.gone.done():
            self.gone.set_result(error)
            self.memory = self.memory.copy()
            self.topic_memory = self.topic_memory.copy()
            self.loop.call_soon(self._fail_all)  # not now: the transport that calls us may be in the midst of things

    def loss(self) -> Lost:
        """Return the error for a call of this connection, which is gone."""
        lost = Lost("the connection was lost")
        lost.__cause__ = self.gone.result()
        return lost

    def perform(self, operation: Operation, within: float, done: Done, now: float | None = None) -> Call:
        """Run one method of the transport, a coroutine in a task of its own, for `within` seconds at most.

        Time for which the host blocks the loop does not count. `now` is the loop's time, if the caller knows it. `done`
        raises nothing. It is called exactly once, unless the call was given up before, and never before this returns,
        with:

        - None: the method has returned;
        - the exception that the method raised. A `CancelledError` becomes a `ConnectionAbortedError`. Anything else
          that is not an `Exception` becomes a `RuntimeError`;
        - `Lost`: the connection is gone;
        - `TimeoutError`: the time is over.

        In the last two cases, the operation is cancelled and left to itself.
        """
        if self.gone.done():
            self.loop.call_soon(self._fail_all)  # ahead of the first step of the operation
        began = self.loop.time() if now is None else now
        call = Call(self, operation, within, began, began + within, done)
        call.start()
        self.running[call] = None
        if (look := began + within / LOOKS) < self._alarm_at:
            self._look_at(look)
        return call

    def publish(self, topic: str, payload: bytes) -> Operation:
        """Have the transport begin to publish; an exception before it returns an awaitable counts as the outcome."""
        try:
            return self.transport.publish(topic, payload)
        except Exception as error:
            failed: asyncio.Future[None] = self.loop.create_future()
            failed.set_exception(error)
            return failed

    async def call(self, operation: Operation, within: float) -> None:
        """Run one method of the transport like `perform`, and wait for it; cancelling gives it up.

        Raises what the method raised, `Lost`, or `TimeoutError`.
        """
        outcome: asyncio.Future[Exception | None] = self.loop.create_future()
        call = self.perform(operation, within, partial(tasks.settle, outcome))
        try:
            error = await outcome
        except asyncio.CancelledError:
            call.give_up()
            raise
        if error is not None:
            raise error

    def watch(self, heartbeat: float) -> None:
        """Notice within `heartbeat` seconds of silence that the connection is gone.

        A ping begins a third of a heartbeat after the last one's end, and may take six tenths.
        """
        if not self.gone.done():
            self._next_ping = self.loop.call_later(heartbeat / 3, self._ping, heartbeat)

    def _ping(self, heartbeat: float) -> None:
        if not self.gone.done():
            self.perform(_begin(self.transport.ping), 0.6 * heartbeat, partial(self._pinged, heartbeat))

    def _pinged(self, heartbeat: float, error: Exception | None) -> None:
        if error is None:
            self.watch(heartbeat)
        else:
            self.lost(error)

    def abandon(self, task: "asyncio.Future[Any]") -> None:
        """Cancel a task or a future; only `close` waits for it, for a while."""
        self._strays[task] = None
        task.add_done_callback(self._forget)
        task.cancel()

    def _forget(self, task: "asyncio.Future[Any]") -> None:
        del self._strays[task]
        if not task.cancelled():
            task.exception()

    def _fail_all(self) -> None:
        self._fail(list(reversed(self.running)))

    def _fail(self, calls: list[Call]) -> None:
        """End `calls`, the last one first; those beyond `MOST_AT_ONCE` end in the next turn of the loop."""
        try:
            for _ in range(min(len(calls), MOST_AT_ONCE)):
                calls.pop().fail()
        finally:
            if calls:
                self.loop.call_soon(self._fail, calls)

    def _look_at(self, when: float) -> None:
        if self._alarm:
            self._alarm.cancel()
        self._alarm_at = when
        self._alarm = self.loop.call_at(when, self._look, when)

    def _look(self, planned: float) -> None:
        """End the calls whose time is over. One timer serves all calls; it stops when it finds none running."""
        self._alarm, self._alarm_at = None, inf
        if not self.running:
            self.running = {}  # a dict keeps the memory that it once needed
        if not self.running or self.gone.done():
            return
        now = max(self.loop.time(), planned)
        if now - planned > min(call.within for call in self.running) / 100:
            for call in self.running:
                if call.began <= planned:
                    call.excuse(now - planned, now)
        self._fail([call for call in reversed(self.running) if call.deadline <= now + STEP])
        if self.running:
            deadline = min(call.deadline for call in self.running)
            step = min(call.within for call in self.running) / LOOKS
            look = max(min(deadline, now + step), now + STEP * len(self.running))
            if look < self._alarm_at:
                self._look_at(look)

    async def leave(self, within: float) -> None:
        """Have the transport undo, within `within` seconds, what would outlive it at the broker, unless it is lost."""
        if self.gone.done():
            return
        try:
            await self.call(_begin(self.transport.leave), within)
        except Exception as error:
            logger.warning("The broker may still have resources of this node: %s.", type(reason(error)).__name__)

    async def close(self) -> None:
        """Close the transport once, whatever happens, within about `CLOSING_TIME`.

        Raises nothing but its own `CancelledError`: when cancelled, it still waits for the end first.
        """
        if self._closing is None:
            self._closing = tasks.start(self._close())
        cancelled: asyncio.CancelledError | None = None
        while not self._closing.done():
            try:
                await asyncio.wait((self._closing,))
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled:
            raise cancelled

    async def _close(self) -> None:
        self.lost(ConnectionAbortedError("closed"))
        while self.running:
            self._fail_all()
            await asyncio.sleep(0)
        for timer in (self._alarm, self._next_ping):
            if timer:
                timer.cancel()
        if self._strays:
            await asyncio.wait(list(self._strays), timeout=CLOSING_TIME)
        closing = tasks.start(_outcome(_begin(self.transport.close)))
        await asyncio.wait((closing,), timeout=CLOSING_TIME)
        if not closing.done():
            self.abandon(closing)
            logger.warning("The transport did not close within %g s.", CLOSING_TIME)
        elif (error := closing.result()) is not None:
            logger.debug("The transport did not close cleanly: %s.", type(error).__name__)


async def _begin(method: Callable[[], Operation]) -> None:
    """Call `method` within the operation, so that an exception counts even if it is not a coroutine function."""
    await method()


async def _outcome(operation: Operation) -> Exception | None:
    """Run `operation`; return what it raised, as an `Exception`.

    A `SystemExit` in a task would end the loop. A `KeyboardInterrupt` should: the interpreter raises it anywhere.
    """
    try:
        await operation
    except Exception as error:
        return error
    except asyncio.CancelledError:
        return ConnectionAbortedError("the client library cancelled the call")
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        return _as_exception(error)
    return None


def _as_exception(error: BaseException) -> Exception:
    failure = RuntimeError(f"the client library raised {type(error).__name__}")
    failure.__cause__ = error
    return failure
