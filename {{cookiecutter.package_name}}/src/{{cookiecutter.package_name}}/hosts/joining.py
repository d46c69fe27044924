"""How a host begins: it starts whether or not its broker is there, and joins the others once it is."""

import asyncio
import logging
from contextlib import suppress
from typing import Any

from .. import Connector
from ..contract import ConnectError, ConnectorError, SubscribeError, SubscribeRefusedError, tasks
from ..contract.floods import Flood
from ..contract.listeners import Listener

logger = logging.getLogger(__name__.partition(".")[0])

RETRY = 5.0
"""Seconds after which a host that could not begin to hear the others tries again."""


async def start(connector: Connector) -> None:
    """Return when `connector` is connected, or when that has failed once: it goes on trying.

    So a server waits for its broker for `connect_timeout` at most, and then begins as in an outage.
    """
    try:
        await connector.connect()
    except ConnectError:
        connector.start()  # which reports in `error` events what is wrong


def log_deaf(error: Exception) -> None:
    """Log that this server does not hear the others."""
    logger.error(
        "This server does not receive messages from the others; while it runs, it tries again every %g s: %s",
        RETRY,
        error,
    )


class Joined:
    """Subscribes a listener to a topic by keys; each is tried until the broker delivers it."""

    def __init__(self, connector: Connector, topic: str, listener: Listener) -> None:
        self.keys: dict[Any, asyncio.Task[None]] = {}
        """The task that subscribes with each key, done or not; None is the key of all messages."""
        self._connector = connector
        self._topic = topic
        self._listener = listener
        self._refused: dict[str | None, SubscribeRefusedError] = {}
        self._last: SubscribeError
        self._deaf = Flood(log_deaf, lambda _: self._last)
        self._news = asyncio.Event()
        connector.on("error", lambda error: self._news.set())
        connector.on("close", self._end)

    async def join(self, *keys: str | None) -> None:
        """Return when the broker delivers all these keys; while it is away, at once, and it delivers later.

        Raises:
            SubscribeRefusedError: the broker refused. It is tried again until the key is left.
            ClosedError: the connector was closed.
        """
        joining = {key: self.keys.get(key) or self._begin(key) for key in keys}

        def is_over() -> bool:
            return all(task.done() or key in self._refused for key, task in joining.items())

        while self._connector.is_ready and not is_over():
            self._news.clear()
            await self._news.wait()
        for key, task in joining.items():
            if key in self._refused:
                raise self._refused[key]
            if task.done() and not task.cancelled():
                task.result()

    async def leave(self, *keys: str | None) -> None:
        """Return when the broker has been told which of its topics nobody here needs any more.

        Calls of `join` meanwhile come after that, with any of the keys.
        """
        leaving = []
        for key in keys:
            joining = self.keys.pop(key, None)
            self._refused.pop(key, None)
            if joining and joining.done():
                leaving.append(tasks.start(self._unsubscribe(key)))
            elif joining:
                joining.cancel()
        if leaving:
            await asyncio.wait(leaving)

    def _begin(self, key: str | None) -> "asyncio.Task[None]":
        task = self.keys[key] = tasks.start(self._subscribe(key))
        task.add_done_callback(self._done)
        return task

    async def _subscribe(self, key: str | None) -> None:
        while True:
            try:
                return await self._connector.subscribe(self._topic, self._listener, key=key)
            except SubscribeError as error:
                self._last = error
                self._deaf.add(1)
                if isinstance(error, SubscribeRefusedError):
                    self._refused[key] = error
                    self._news.set()
            await asyncio.sleep(RETRY)
            self._refused.pop(key, None)

    async def _unsubscribe(self, key: str | None) -> None:
        with suppress(ConnectorError):  # it may have been told already, or be closed
            await self._connector.unsubscribe(self._topic, self._listener, key=key)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._news.set()
        if not task.cancelled():
            task.exception()  # which `join` raises, if somebody waits

    def _end(self) -> None:
        self._deaf.flush()
        for task in self.keys.values():
            task.cancel()
