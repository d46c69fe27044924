"""A client with threads of its own, whose callbacks are handed over to the event loop."""

import asyncio

from .client import Refused, SmallTransport, ThreadedClient
from .contract import Bridge, ConnectError, PublishRefusedError, SubscribeRefusedError
from .framing import Header


class BrokerTransport(SmallTransport):
    """One connection, of a client that knows nothing of asyncio."""

    async def connect(self) -> None:
        self.bridge = Bridge()
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.client = ThreadedClient(
            *self.place(),
            on_message=lambda *message: self.bridge.call(self.arrived, *message),
            on_open=lambda: self.bridge.call(settle, opened, {}),
            on_gone=lambda error: self.bridge.call(self.gone, error),
        )
        self.client.start()
        await opened
        user, password = self.settings.login
        try:
            answer = await self.ask("login", user=user, password=password)
        except Refused as refusal:
            raise ConnectError(str(refusal), refused=True) from refusal
        self.max_frame_bytes = answer["limit"]

    def ask(self, do: str, body: bytes = b"", **header: object) -> "asyncio.Future[Header]":
        """Send a request; return its answer, or `Refused`."""
        answer: asyncio.Future[Header] = asyncio.get_running_loop().create_future()
        self.client.ask(lambda said: self.bridge.call(settle, answer, said), do, body, **header)
        return answer

    async def publish(self, topic: str, payload: bytes) -> None:
        try:
            await self.ask("publish", payload, name=self.name(topic))
        except Refused as refusal:
            raise PublishRefusedError(str(refusal)) from refusal

    async def subscribe(self, topic: str) -> None:
        name = self.name(topic)
        self.topics[name] = topic
        try:
            await self.ask("subscribe", name=name, **self.options)
        except Refused as refusal:
            del self.topics[name]
            raise SubscribeRefusedError(str(refusal)) from refusal

    async def unsubscribe(self, topic: str) -> None:
        name = self.name(topic)
        self.topics.pop(name, None)
        await self.ask("unsubscribe", name=name)

    async def ping(self) -> None:
        await self.ask("ping")

    async def close(self) -> None:
        if hasattr(self, "client"):
            self.client.stop()
            await asyncio.to_thread(self.client.join)


def settle(answer: "asyncio.Future[Header]", said: Header) -> None:
    """Give an answer to who asked, if he still waits."""
    if answer.done():
        return
    if "error" in said:
        answer.set_exception(Refused(said["error"]))
    else:
        answer.set_result(said)
