"""python-socketio on several servers: `AsyncServer(client_manager=ConnectorManager(Connector(settings)))`.

All that is particular to a broker is two methods, `_publish` and `_listen`: python-socketio's base classes say that each
manager implements them. Rooms, namespaces, binary data, acknowledgements and disconnections across servers are theirs.

What was lost on the way here, in spite of all repair, is an `error` event of the connector, a `MessagesLostError` or a
`SlowListenerError`. A handler of that event can tell the clients of this server: `emit("missed", ignore_queue=True)`.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Iterator
from queue import Queue
from typing import Any
from uuid import uuid4

from socketio import PubSubManager
from socketio.async_pubsub_manager import AsyncPubSubManager

from .. import BlockingConnector, Connector
from ..contract import ClosedError, ConnectorError, NotReadyError, OutboxFullError

RETRY = 5.0
"""Seconds after which a server that could not begin to hear the others tries again."""


class _Complaints:
    """What a manager logs, to the logger to which python-socketio's own managers log."""

    logger: logging.Logger | None
    server: Any

    def _sent(self, error: ConnectorError | None) -> None:
        if error:
            self._complain("Other servers, and their clients, may miss what this one sent: %s", error)

    def _is_deaf(self, error: Exception) -> None:
        self._complain("This server does not hear the others; it tries again in %g s: %s", RETRY, error)

    def _complain(self, text: str, *values: object) -> None:
        logger = self.logger or (self.server.logger if self.server else logging.getLogger("socketio"))
        logger.error(text, *values)


class ConnectorManager(_Complaints, AsyncPubSubManager):
    """Joins an `AsyncServer` to the others through a connector, which is the server's own.

    The connector is started with the first client, or the first emit, and need not be connected before; while the
    broker is away, emits wait in the connector. When the server stops, close the connector, which delivers what waits:
    `ASGIApp(server, on_shutdown=connector.close)`.

    `options` are those of python-socketio's managers: `write_only`, `logger` and `json`.
    """

    name = "connector"

    def __init__(self, connector: Connector, channel: str = "socketio", **options: Any) -> None:
        super().__init__(channel=channel, **options)
        self.connector = connector
        self._process = os.getpid()

    def initialize(self) -> None:
        """Begin with the server. In a process that was forked since this manager was made, it is a host of its own."""
        if os.getpid() != self._process:
            self.host_id = uuid4().hex
        super().initialize()

    async def _publish(self, data: Any) -> None:
        text = self.json.dumps(data)
        try:
            self.connector.start()
            self.connector.publish_nowait(self.channel, text, self._sent)
        except (ClosedError, NotReadyError, OutboxFullError) as error:
            self._sent(error)
        await asyncio.sleep(0)  # a server that emits without end does not block its loop

    async def _listen(self) -> AsyncIterator[Any]:
        while True:
            try:
                self.connector.start()
                async with self.connector.messages(self.channel) as messages:
                    async for message in messages:
                        yield message
            except ClosedError:
                pass
            except (ConnectorError, RuntimeError) as error:  # any that is raised here comes back at once, for ever
                self._is_deaf(error)
                await asyncio.sleep(RETRY)
                continue
            raise asyncio.CancelledError  # which ends the server's task without a complaint


class BlockingConnectorManager(_Complaints, PubSubManager):
    """Emits from code without an event loop, in any thread: `BlockingConnectorManager(connector, write_only=True)`.

    It emits to the clients of all servers, without being one. An emit does not wait for the broker; the connector
    delivers what waits when it is closed, and when the interpreter exits.

    Without `write_only`, it joins a `Server` of threads to the others. `options` are those of `ConnectorManager`.
    """

    name = "connector"

    def __init__(self, connector: BlockingConnector, channel: str = "socketio", **options: Any) -> None:
        super().__init__(channel=channel, **options)
        self.connector = connector
        self._process = os.getpid()

    def initialize(self) -> None:
        """Begin with the server. In a process that was forked since this manager was made, it is a host of its own."""
        if os.getpid() != self._process:
            self.host_id = uuid4().hex
        super().initialize()

    def _publish(self, data: Any) -> None:
        text = self.json.dumps(data)
        try:
            self.connector.publish_nowait(self.channel, text, self._sent)
        except (ClosedError, OutboxFullError) as error:
            self._sent(error)

    def _listen(self) -> Iterator[Any]:
        heard: Queue[Any] = Queue(1)  # what waits beyond it waits in the connector, which bounds it
        while True:
            try:
                self.connector.subscribe(self.channel, heard.put)
                break
            except ClosedError:
                return
            except ConnectorError as error:
                self._is_deaf(error)
                time.sleep(RETRY)
        while True:
            yield heard.get()
