"""One connection, to which the broker pushes."""

from .client import Connection, Refused, SmallTransport
from .contract import PublishRefusedError, SubscribeRefusedError


class BrokerTransport(SmallTransport):
    """One connection that publishes, subscribes and pings."""

    async def connect(self) -> None:
        self.connection = Connection(self.arrived, self.gone)
        self.max_frame_bytes = await self.dial(self.connection)

    async def publish(self, topic: str, payload: bytes) -> None:
        try:
            await self.connection.ask("publish", payload, name=self.name(topic))
        except Refused as refusal:
            raise PublishRefusedError(str(refusal)) from refusal

    async def subscribe(self, topic: str) -> None:
        name = self.name(topic)
        self.topics[name] = topic
        try:
            await self.connection.ask("subscribe", name=name, **self.options)
        except Refused as refusal:
            del self.topics[name]
            raise SubscribeRefusedError(str(refusal)) from refusal

    async def unsubscribe(self, topic: str) -> None:
        name = self.name(topic)
        self.topics.pop(name, None)
        await self.connection.ask("unsubscribe", name=name)

    async def ping(self) -> None:
        await self.connection.ask("ping")

    async def close(self) -> None:
        if hasattr(self, "connection"):
            self.connection.drop()
