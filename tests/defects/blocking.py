"""Defects of the connector for code without an event loop."""

import asyncio
import atexit
import os
import threading
import time
from contextlib import suppress
from functools import partial, update_wrapper
from types import SimpleNamespace
from typing import Any

from .patching import Machinery, defect, instead, nothing


@defect("each thread has a connection of its own", "L10/share_one")
def _(m: Machinery) -> None:
    here = threading.local()
    m.blocking.BlockingMessageConnector._running = property(
        lambda self: vars(here).get(self), lambda self, running: vars(here).update({self: running})
    )


@defect("threads that begin at once make a connection each", "L10/share_one")
def _(m: Machinery) -> None:
    @instead(m.blocking.BlockingMessageConnector, "_start")
    def start(original: Any, self: Any) -> Any:
        self._running = m.blocking.ConnectorThread(self.connector_class(self._settings), self)
        return self._running


@defect("a child process uses the thread of its parent", "L10/fork_may_come")
def _(m: Machinery) -> None:
    nothing(m.blocking, "_begin")


@defect("a fork keeps what nobody else keeps", "L4/nobody_keeps")
def _(m: Machinery) -> None:
    @instead(m.blocking.BlockingMessageConnector, "__init__")
    def init(original: Any, self: Any, settings: Any) -> None:
        original(self, settings)
        os.register_at_fork(after_in_child=self._begin)


@defect("bad settings are found at the first use", "L10/errors_are_those")
def _(m: Machinery) -> None:
    @instead(m.blocking.BlockingMessageConnector, "__init__")
    def init(original: Any, self: Any, settings: Any) -> None:
        original(self, lambda: settings)


@defect("the error of a blocking call is lost", "E1/errors_are_those")
def _(m: Machinery) -> None:
    @instead(m.blocking.BlockingMessageConnector, "_wait_for")
    def wait(original: Any, self: Any, use: Any) -> None:
        with suppress(m.errors.ConnectorError):
            original(self, use)


@defect("what is handed over has no bound", "T3/room")
def _(m: Machinery) -> None:
    for name in ("_handed_bytes", "_taken_bytes"):
        setattr(m.outbox.Outbox, name, property(lambda self: 0, lambda self, count: None))


@defect("a publish overtakes what was handed over", "M7/signal_handler T3/was_promised")
def _(m: Machinery) -> None:
    @instead(m.outbox.Outbox, "add")
    def add(original: Any, self: Any, topic: str, data: bytes, settle: Any) -> None:
        self._add_handed = bool
        try:
            original(self, topic, data, settle)
        finally:
            del self._add_handed


@defect("what was handed over and is not sent is not logged", "E2/logged_with_a_count")
def _(m: Machinery) -> None:
    @instead(m.blocking.BlockingMessageConnector, "publish_nowait")
    def publish(original: Any, self: Any, topic: str, message: Any, callback: Any = bool, key: Any = None) -> None:
        original(self, topic, message, callback, key)


@defect("a listener is called on the event loop", "M11/blocks_delays")
def _(m: Machinery) -> None:
    instead(m.blocking, "_called_aside")(lambda original, listener: listener)


@defect("all listeners share a thread", "M11/blocks_delays")
def _(m: Machinery) -> None:
    m.blocking.DaemonThreads = partial(m.threads.DaemonThreads, 1)


@defect("what a listener raises may end its thread", "M10/whatever_a_listener")
def _(m: Machinery) -> None:
    @instead(m.threads, "make")
    def make(original: Any, call: Any) -> None:
        future, function = call
        try:
            future.set_result(function())
        except Exception as error:
            future.set_exception(error)


@defect("a call on the connector's own thread waits for itself", "M9/own_thread")
def _(m: Machinery) -> None:
    @instead(m.blocking.BlockingMessageConnector, "_wait_for")
    def wait(original: Any, self: Any, use: Any) -> None:
        if self._running and self._running.is_here:
            time.sleep(10)  # not for ever, so that the run ends
        original(self, use)


@defect("close() returns before it has closed", "L4/closing_waits")
def _(m: Machinery) -> None:
    m.blocking.ConnectorThread.close = m.blocking.ConnectorThread.end


@defect("the threads of listeners do not end", "L4/closing_ends")
def _(m: Machinery) -> None:
    nothing(m.threads.DaemonThreads, "shutdown")


@defect("what was closed before its first use can be used", "L4/closing_ends")
def _(m: Machinery) -> None:
    m.blocking.BlockingMessageConnector._is_closed = property(lambda self: False, lambda self, is_closed: None)


@defect("the end does not wait for the first connection", "L4/first_connection")
def _(m: Machinery) -> None:
    @instead(m.blocking.ConnectorThread, "_end")
    async def end(original: Any, self: Any) -> None:
        await self.connector.close()
        await original(self)


@defect("the exit does not close", "L4/interpreter_exits")
def _(m: Machinery) -> None:
    nothing(m.blocking.ConnectorThread, "_close_at_exit")


@defect("the exit closes when client libraries have ended", "L4/interpreter_exits")
def _(m: Machinery) -> None:
    m.blocking.atexit = SimpleNamespace(register=bool, unregister=bool)


@defect("the end of a child process does not close", "L10/each_process")
def _(m: Machinery) -> None:
    m.blocking.Finalize = lambda *_, **__: SimpleNamespace(cancel=bool)


@defect("an exit does not wait where closing has begun", "L4/closing_has_begun")
def _(m: Machinery) -> None:
    @instead(m.blocking.ConnectorThread, "close")
    def close(original: Any, self: Any) -> None:
        if not self.is_ending:
            original(self)


@defect("an interrupted exit does not tell what it has not sent", "L4/interrupted")
def _(m: Machinery) -> None:
    @instead(m.blocking.ConnectorThread, "_close_at_exit")
    def close_at_exit(original: Any, self: Any) -> None:
        if os.getpid() == self._process:
            self.close()


@defect("a process that ends takes what it does not send", "L10/accepts_nothing")
def _(m: Machinery) -> None:
    nothing(m.blocking, "is_exiting", False)


@defect("what nobody keeps is not closed", "L4/nobody_keeps")
def _(m: Machinery) -> None:
    nothing(m.blocking.ConnectorThread, "_drop")


@defect("what nobody keeps is closed though it has listeners", "L4/nobody_keeps")
def _(m: Machinery) -> None:
    m.blocking.ConnectorThread.needed = property(lambda self: None, lambda self, user: None)


@defect("what was closed is kept until the exit", "L4/is_collected")
def _(m: Machinery) -> None:
    m.blocking.atexit = SimpleNamespace(register=atexit.register, unregister=bool)


@defect("a signal handler waits for what it has interrupted", "L4/signal_handler")
def _(m: Machinery) -> None:
    m.outbox.threading = SimpleNamespace(RLock=threading.Lock)


@defect("cancelling what was submitted does not cancel the use", "L7/was_submitted")
def _(m: Machinery) -> None:
    @instead(m.blocking.ConnectorThread, "_use")
    async def use(original: Any, self: Any, use: Any) -> Any:
        return await asyncio.shield(original(self, use))


@defect("a submitted use that exits ends the event loop", "L7/was_submitted")
def _(m: Machinery) -> None:
    @instead(m.blocking.ConnectorThread, "_use")
    async def use(original: Any, self: Any, use: Any) -> Any:
        return await use(self.connector)


@defect("a listener's attributes replace those of its wrapper", "M10/object_with")
def _(m: Machinery) -> None:
    m.blocking.update_wrapper = lambda wrapper, listener, updated: update_wrapper(wrapper, listener)
