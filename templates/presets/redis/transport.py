"""How messages travel through Redis: publish/subscribe, over one connection."""

import asyncio
from collections import deque
from contextlib import suppress

import hiredis
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection

from .contract import Inbox, PublishError, SubscribeError, Transport
from .settings import Settings


class BrokerTransport(Transport[Settings]):
    """One connection, which with RESP3 may publish, subscribe and ping at the same time.

    redis-py opens it; then it is ours, so that an answer is read where it arrives.
    """

    _connection: AbstractConnection | None = None

    async def connect(self) -> None:
        settings = self.settings
        login = {"username": settings.username, "password": settings.password and settings.password.get_secret_value()}
        pool = ConnectionPool.from_url(
            settings.url.get_secret_value(),
            protocol=3,
            socket_connect_timeout=settings.connect_timeout,
            driver_info=None,
            **{name: value for name, value in login.items() if value},
        )
        self._connection = pool.make_connection()  # type: ignore[no-untyped-call]
        await self._connection.connect()
        assert self._connection._writer
        self._socket = self._connection._writer.transport
        self._dialogue = Dialogue(self.inbox)
        self._socket.set_protocol(self._dialogue)

    async def publish(self, topic: str, payload: bytes) -> None:
        try:
            await self._ask("PUBLISH", topic, payload)
        except hiredis.ReplyError as refusal:
            raise PublishError(str(refusal)) from refusal

    async def subscribe(self, topic: str) -> None:
        try:
            await self._ask("SUBSCRIBE", topic)
        except hiredis.ReplyError as refusal:
            raise SubscribeError(str(refusal)) from refusal

    async def unsubscribe(self, topic: str) -> None:
        await self._ask("UNSUBSCRIBE", topic)

    async def ping(self) -> None:
        with suppress(hiredis.ReplyError):  # who has no right to PING is told so, and that is a sign of life
            await self._ask("PING")

    async def close(self) -> None:
        if self._connection:
            if self._connection._writer:
                self._connection._writer.transport.abort()  # unsent bytes would keep the socket open
            await self._connection.disconnect(nowait=True)

    async def _ask(self, *command: str | bytes) -> None:
        self._socket.write(hiredis.pack_command(command))  # type: ignore[arg-type]
        await self._dialogue.answer()


class Dialogue(asyncio.Protocol):
    """The server's answers, in the order of the questions; what it pushes stands between them."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._reader = hiredis.Reader()
        self._asked: deque[asyncio.Future[None]] = deque()

    def answer(self) -> asyncio.Future[None]:
        """Return the answer to the question that was asked last."""
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        return answer

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (said := self._reader.gets()) is not False:
            if isinstance(said, hiredis.PushNotification) and said[0] == b"message":
                self._inbox.received(said[1].decode(), said[2])
            elif not (answer := self._asked.popleft()).done():
                if isinstance(said, hiredis.ReplyError):
                    answer.set_exception(said)
                else:
                    answer.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._inbox.lost(error or ConnectionResetError("the server closed the connection"))
