"""How messages travel by STOMP 1.2, to and from the destinations `/topic/…` of RabbitMQ."""

import asyncio
from itertools import count

from .contract import ConnectError, PublishRefusedError, SubscribeRefusedError, Transport, escape
from .settings import Settings


class BrokerTransport(Transport[Settings]):
    """One connection. It asks one thing at a time, so that an ERROR, after which the server hangs up, is the answer to it."""

    _writer: asyncio.StreamWriter | None = None
    _reading: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        [target] = self.settings.targets()
        self._reader, self._writer = await asyncio.open_connection(target.host, target.port or 61613)
        self._numbers = count(1)
        self._topics: dict[str, str] = {}
        self._turn = asyncio.Lock()
        self._receipt = ""
        user, password = self.settings.login
        login = {"login": user or "guest", "passcode": password or "guest"}
        self._send("CONNECT", {"accept-version": "1.2", "host": self.settings.virtual_host, **login})
        command, headers, _ = await self._receive()
        if command != "CONNECTED":
            raise ConnectError(headers["message"], refused=True)
        self._reading = asyncio.create_task(self._read())

    async def publish(self, topic: str, payload: bytes) -> None:
        await self._ask("SEND", {"destination": destination(topic)}, payload, refusal=PublishRefusedError)

    async def subscribe(self, topic: str) -> None:
        name = destination(topic)
        self._topics[name] = topic
        await self._ask("SUBSCRIBE", {"id": name, "destination": name}, refusal=SubscribeRefusedError)

    async def unsubscribe(self, topic: str) -> None:
        await self._ask("UNSUBSCRIBE", {"id": destination(topic)})
        self._topics.pop(destination(topic), None)

    async def ping(self) -> None:
        await self._ask("SEND", {"destination": "/topic/_"})  # where no topic is

    async def close(self) -> None:
        if self._reading:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        if self._writer:
            self._writer.transport.abort()

    async def _ask(
        self, command: str, headers: dict[str, str], body: bytes = b"", refusal: type[Exception] = ConnectionError
    ) -> None:
        async with self._turn:
            self._receipt, self._refusal = str(next(self._numbers)), refusal
            self._answer = asyncio.get_running_loop().create_future()
            self._send(command, {**headers, "receipt": self._receipt}, body)
            await self._answer

    def _send(self, command: str, headers: dict[str, str], body: bytes = b"") -> None:
        assert self._writer
        lines = [command, *(f"{name}:{value}" for name, value in headers.items()), f"content-length:{len(body)}\n\n"]
        self._writer.write("\n".join(lines).encode() + body + b"\0")

    async def _read(self) -> None:
        try:
            while True:
                command, headers, body = await self._receive()
                if command == "MESSAGE":
                    if topic := self._topics.get(headers["subscription"]):
                        self.inbox.received(topic, body)
                elif command == "ERROR":
                    self._answer.set_exception(self._refusal(f"{headers['message']}: {body.decode().strip()}"))
                    await asyncio.sleep(0)  # so that it is heard before the end of the connection
                elif headers["receipt-id"] == self._receipt:
                    self._answer.set_result(None)
        except Exception as error:
            self.inbox.lost(error)

    async def _receive(self) -> tuple[str, dict[str, str], bytes]:
        head, *lines = (await self._reader.readuntil(b"\n\n")).decode().strip().split("\n")
        headers = dict(line.split(":", 1) for line in lines)
        body = await self._reader.readexactly(int(headers["content-length"]))
        await self._reader.readuntil(b"\0")
        return head, headers, body


def destination(topic: str) -> str:
    """Return where a topic is. RabbitMQ takes names of 255 characters at most, and dots and stars as patterns."""
    return f"/topic/{escape(topic, '_', longest=200)}"
