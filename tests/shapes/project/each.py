"""A connection to publish, and one more for each subscription."""

import asyncio

from .client import Connection, Refused, SmallTransport
from .contract import PublishRefusedError, SubscribeRefusedError


class BrokerTransport(SmallTransport):
    """Connections that each have one thing to do."""

    async def connect(self) -> None:
        self.connection = Connection(self.arrived, self.gone)
        self.subscriptions: dict[str, Connection] = {}
        self.max_frame_bytes = await self.dial(self.connection)

    async def publish(self, topic: str, payload: bytes) -> None:
        try:
            await self.connection.ask("publish", payload, name=self.name(topic))
        except Refused as refusal:
            raise PublishRefusedError(str(refusal)) from refusal

    async def subscribe(self, topic: str) -> None:
        name = self.name(topic)
        self.topics[name] = topic
        connection = self.subscriptions[name] = Connection(self.arrived, self.gone)
        try:
            await self.dial(connection)
            await connection.ask("subscribe", name=name, **self.options)
        except Refused as refusal:
            await self.unsubscribe(topic)
            raise SubscribeRefusedError(str(refusal)) from refusal

    async def unsubscribe(self, topic: str) -> None:
        name = self.name(topic)
        self.topics.pop(name, None)
        if connection := self.subscriptions.pop(name, None):
            connection.drop()

    async def ping(self) -> None:
        there = [each for each in self.subscriptions.values() if each.is_let_in and each.is_open]
        await asyncio.gather(*(each.ask("ping") for each in (self.connection, *there)))

    async def close(self) -> None:
        if hasattr(self, "connection"):
            for each in (self.connection, *self.subscriptions.values()):
                each.drop()
