"""python-socketio on several servers: `AsyncServer(client_manager=ConnectorManager(Connector(settings)))`.

Only two methods are particular to a broker, `_publish` and `_listen`: python-socketio's base classes say that each
manager implements them. Rooms, namespaces, binary data, acknowledgements and disconnections across servers are theirs.

Messages that were lost in spite of all repair cause an `error` event of the connector, a `MessagesLostError` or a
`SlowListenerError`. A handler of that event can tell the clients of this server: `emit("missed", ignore_queue=True)`.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from queue import Queue
from typing import Any
from uuid import uuid4

from socketio import PubSubManager
from socketio.async_pubsub_manager import AsyncPubSubManager
from socketio.base_manager import BaseManager

from .. import BlockingConnector, Connector
from ..contract import ClosedError, ConnectorError, NotReadyError, OutboxFullError
from . import joining


class _Manager(BaseManager):
    """The base of both managers."""

    name = "connector"

    def __init__(self, connector: Any, channel: str = "socketio", **options: Any) -> None:
        super().__init__(channel=channel, **options)
        self.connector = connector
        self._process = os.getpid()

    def initialize(self) -> None:
        """Begin with the server. In a process that was forked after its creation, this manager is a host of its own."""
        if os.getpid() != self._process:
            self.host_id = uuid4().hex
        super().initialize()


class ConnectorManager(_Manager, AsyncPubSubManager):
    """Joins an `AsyncServer` to the others through a connector, which is the server's own.

    The connector is started with the first client, or the first emit, and need not be connected before; while the
    broker is away, emits wait in the connector. When the server stops, close the connector; it delivers what waits if
    the broker is there: `ASGIApp(server, on_shutdown=connector.close)`.

    `options` are those of python-socketio's managers: `write_only`, `logger` and `json`.
    """

    connector: Connector

    async def _publish(self, data: Any) -> None:
        text = self.json.dumps(data)
        try:
            self.connector.start()
            self.connector.publish_nowait(self.channel, text, self.connector.log_unsent)
        except (ClosedError, NotReadyError, OutboxFullError) as error:
            self.connector.log_unsent(error)
        await asyncio.sleep(0)  # so that a server that emits without end does not block its loop

    async def _listen(self) -> AsyncIterator[Any]:
        while True:
            try:
                self.connector.start()
                async with self.connector.messages(self.channel) as messages:
                    async for message in messages:
                        yield message
                break
            except ClosedError:
                break
            except (ConnectorError, RuntimeError) as error:  # python-socketio would try again at once, forever
                joining.log_deaf(error)
                await asyncio.sleep(joining.RETRY)
        raise asyncio.CancelledError  # which ends the server's task without a complaint


class BlockingConnectorManager(_Manager, PubSubManager):
    """Emits from code without an event loop, in any thread: `BlockingConnectorManager(connector, write_only=True)`.

    It emits to the clients of all servers, without being one. An emit does not wait for the broker; the connector
    delivers what waits when it is closed, and when the interpreter exits. After that, an emit raises `ClosedError`.

    Without `write_only`, it joins a `Server` of threads to the others. `options` are those of `ConnectorManager`.
    """

    connector: BlockingConnector

    def _publish(self, data: Any) -> None:
        text = self.json.dumps(data)
        try:
            self.connector.publish_nowait(self.channel, text)
        except OutboxFullError as error:
            self.connector.submit(partial(_log_unsent, error))

    def _listen(self) -> Iterator[Any]:
        heard: Queue[Any] = Queue(1)  # the rest waits in the connector, which bounds it
        while True:
            try:
                self.connector.subscribe(self.channel, heard.put)
                break
            except ClosedError:
                return
            except ConnectorError as error:
                joining.log_deaf(error)
                time.sleep(joining.RETRY)
        while True:
            yield heard.get()


async def _log_unsent(error: Exception, connector: Connector) -> None:
    connector.log_unsent(error)
