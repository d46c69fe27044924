"""How messages travel through Nchan: a POST publishes, and a websocket brings what is published on a topic."""

import asyncio
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import aiohttp
import websockets

from .contract import ConnectError, PublishRefusedError, SubscribeRefusedError, Transport, escape
from .settings import Settings

REFUSED = (401, 403, 413)
PLAIN = {"close_timeout": 0.5, "compression": None, "max_size": None, "ping_interval": None, "proxy": None}
name = partial(escape, mark="_", longest=200)


class BrokerTransport(Transport[Settings]):
    """A connection for requests, and a websocket for each topic."""

    _session: aiohttp.ClientSession | None = None

    async def connect(self) -> None:
        [target] = self.settings.targets()
        user, password = self.settings.login
        headers = {"Authorization": aiohttp.encode_basic_auth(user, password or "")} if user else {}
        self._options: dict[str, Any] = {**PLAIN, "additional_headers": headers}
        self._address = f"//{target.host}:{target.port or 80}"
        self._reading: dict[str, tuple[websockets.ClientConnection, asyncio.Task[None]]] = {}
        timeout = aiohttp.ClientTimeout(self.settings.heartbeat)
        self._session = aiohttp.ClientSession(f"http:{self._address}", headers=headers, timeout=timeout)
        await self.ping()

    async def close(self) -> None:
        if self._session:
            await asyncio.gather(*map(self._stop, list(self._reading)))
            await self._session.close()

    async def publish(self, topic: str, payload: bytes) -> None:
        await self._request("POST", f"/pub/{name(topic)}", payload, PublishRefusedError)

    async def subscribe(self, topic: str) -> None:
        try:
            socket = await websockets.connect(f"ws:{self._address}/sub/{name(topic)}", **self._options)
        except websockets.InvalidStatus as error:
            raise (SubscribeRefusedError(str(error)) if error.response.status_code in REFUSED else error) from None
        self._reading[topic] = socket, asyncio.create_task(self._read(topic, socket))

    async def unsubscribe(self, topic: str) -> None:
        await self._stop(topic)

    async def ping(self) -> None:
        await self._request("GET", "/ping", b"", partial(ConnectError, refused=True))
        await asyncio.gather(*[await socket.ping() for socket, _ in self._reading.values()])

    async def _stop(self, topic: str) -> None:
        if found := self._reading.pop(topic, None):
            socket, reading = found
            reading.cancel()
            await asyncio.wait([reading, asyncio.create_task(socket.close())])

    async def _request(self, method: str, path: str, body: bytes, refusal: Callable[[str], Exception]) -> None:
        assert self._session
        async with self._session.request(method, path, data=io.BytesIO(body)) as response:
            if response.status in REFUSED:
                raise refusal(f"{response.status} {response.reason}")
            response.raise_for_status()

    async def _read(self, topic: str, socket: websockets.ClientConnection) -> None:
        try:
            while True:
                self.inbox.received(topic, await socket.recv(decode=False))
        except websockets.ConnectionClosed as error:
            self.inbox.lost(error)
