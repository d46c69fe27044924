"""Separate sockets to two ports: one publishes, and a task polls the other."""

import asyncio

from .client import Connection, Refused, SmallTransport
from .contract import PublishRefusedError, SubscribeRefusedError


class BrokerTransport(SmallTransport):
    """A connection to publish, and one from which a task fetches what has arrived."""

    task: "asyncio.Task[None] | None" = None

    async def connect(self) -> None:
        self.connection = Connection(self.arrived, self.gone)
        self.incoming = Connection(self.arrived, self.gone)
        self.max_frame_bytes = await self.dial(self.connection)
        await self.dial(self.incoming, self.settings.subscribe_port)
        self.task = asyncio.create_task(self.poll())

    async def publish(self, topic: str, payload: bytes) -> None:
        try:
            await self.connection.ask("publish", payload, name=self.name(topic))
        except Refused as refusal:
            raise PublishRefusedError(str(refusal)) from refusal

    async def subscribe(self, topic: str) -> None:
        name = self.name(topic)
        self.topics[name] = topic
        try:
            await self.incoming.ask("subscribe", name=name, poll=True, **self.options)
        except Refused as refusal:
            del self.topics[name]
            raise SubscribeRefusedError(str(refusal)) from refusal

    async def unsubscribe(self, topic: str) -> None:
        name = self.name(topic)
        self.topics.pop(name, None)
        await self.incoming.ask("unsubscribe", name=name)

    async def poll(self) -> None:
        """Fetch for ever; end with the loss of the connection."""
        try:
            while True:
                header, body = await self.incoming.ask("fetch")
                start = 0
                for name, length, position in header["messages"]:
                    self.arrived(name, body[start : start + length], position)
                    start += length
        except Exception as error:
            self.gone(error)

    async def ping(self) -> None:
        await asyncio.gather(self.connection.ask("ping"), self.incoming.ask("ping"))

    async def close(self) -> None:
        if hasattr(self, "connection"):
            self.connection.drop()
            self.incoming.drop()
        if self.task:
            self.task.cancel()
            await asyncio.wait([self.task])
