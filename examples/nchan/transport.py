"""How messages travel through Nchan: a POST publishes, and a websocket brings what is published on a topic."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from functools import partial

import aiohttp
from websockets import ClientConnection, ConnectionClosed, InvalidStatus, connect

from .contract import ConnectError, PublishRefusedError, SubscribeRefusedError, Transport, escape
from .settings import Settings

REFUSED = (401, 403, 413)


class BrokerTransport(Transport[Settings]):
    """Connections for requests, as many as are needed at a time, and a websocket for each topic."""

    _session: aiohttp.ClientSession | None = None

    async def connect(self) -> None:
        [target] = self.settings.targets()
        user, password = self.settings.login
        self._address = f"//{target.host}:{target.port or 80}"
        self._headers = {"Authorization": aiohttp.encode_basic_auth(user, password or "")} if user else {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._readers: dict[str, asyncio.Task[None]] = {}
        timeout = aiohttp.ClientTimeout(self.settings.heartbeat)
        self._session = aiohttp.ClientSession(f"http:{self._address}", headers=self._headers, timeout=timeout)
        await self.ping()

    async def publish(self, topic: str, payload: bytes) -> None:
        async with self._turns[topic]:  # two requests could overtake each other
            await self._request("POST", f"/pub/{name(topic)}", payload, PublishRefusedError)

    async def subscribe(self, topic: str) -> None:
        often = self.settings.heartbeat / 3
        try:
            socket = await connect(
                f"ws:{self._address}/sub/{name(topic)}",
                additional_headers=self._headers,
                compression=None,
                max_size=None,
                proxy=None,
                open_timeout=None,
                ping_interval=often,
                ping_timeout=often,
                close_timeout=0.5,
            )
        except InvalidStatus as error:
            if error.response.status_code in REFUSED:
                raise SubscribeRefusedError(str(error)) from error
            raise
        self._readers[topic] = asyncio.create_task(self._read(topic, socket))

    async def unsubscribe(self, topic: str) -> None:
        if reader := self._readers.pop(topic, None):
            reader.cancel()
            await asyncio.wait([reader])

    async def ping(self) -> None:
        await self._request("GET", "/ping", b"", partial(ConnectError, refused=True))

    async def close(self) -> None:
        if self._session:
            await asyncio.gather(*map(self.unsubscribe, list(self._readers)))
            await self._session.close()

    async def _request(self, method: str, path: str, body: bytes, refusal: Callable[[str], Exception]) -> None:
        assert self._session
        async with self._session.request(method, path, data=body) as response:
            if response.status in REFUSED:
                raise refusal(f"{response.status} {response.reason}")
            response.raise_for_status()

    async def _read(self, topic: str, socket: ClientConnection) -> None:
        try:
            while True:
                self.inbox.received(topic, await socket.recv(decode=False))
        except ConnectionClosed as error:
            self.inbox.lost(error)
        finally:
            await socket.close()


def name(topic: str) -> str:
    return escape(topic, "_", longest=200)
