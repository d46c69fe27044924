"""How messages travel through Redis: publish/subscribe, over one connection."""

import asyncio
from collections import deque
from contextlib import suppress

import hiredis
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, NoPermissionError

from .contract import (
    ConnectError,
    Inbox,
    PublishRefusedError,
    Receipt,
    SubscribeRefusedError,
    Transport,
    UnsubscribeError,
)
from .settings import Settings


class BrokerTransport(Transport[Settings]):
    """One connection, which with RESP3 may publish, subscribe and ping at the same time.

    redis-py opens it; then it is ours, so that an answer is read where it arrives.
    """

    _connection: AbstractConnection | None = None

    async def connect(self) -> None:
        settings = self.settings
        user, password = settings.login
        pool = ConnectionPool.from_url(
            settings.url.get_secret_value(),
            protocol=3,
            socket_connect_timeout=settings.connect_timeout,
            driver_info=None,
            **{name: value for name, value in (("username", user), ("password", password)) if value},
        )
        self._connection = pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await self._connection.connect()
        except (AuthenticationError, NoPermissionError) as refusal:
            raise ConnectError(str(refusal), refused=True) from refusal
        assert self._connection._writer
        socket = self._connection._writer.transport
        self._dialogue = Dialogue(self.inbox, socket)
        socket.set_protocol(self._dialogue)

    def publish(self, topic: str, payload: bytes) -> Receipt:
        return self._dialogue.ask(PublishRefusedError, "PUBLISH", topic, payload)

    async def subscribe(self, topic: str) -> None:
        await self._dialogue.ask(SubscribeRefusedError, "SUBSCRIBE", topic)

    async def unsubscribe(self, topic: str) -> None:
        await self._dialogue.ask(UnsubscribeError, "UNSUBSCRIBE", topic)

    async def ping(self) -> None:
        with suppress(PingRefused):  # a user without the right to PING is told so, and that is a sign of life
            await self._dialogue.ask(PingRefused, "PING")

    async def close(self) -> None:
        if self._connection:
            if self._connection._writer:
                self._connection._writer.transport.abort()  # unsent bytes would keep the socket open
            await self._connection.disconnect(nowait=True)


class PingRefused(Exception):
    """The user has no right to PING."""


class Dialogue(asyncio.Protocol):
    """The server's answers, in the order of the questions; what it pushes stands between them."""

    def __init__(self, inbox: Inbox, socket: asyncio.WriteTransport) -> None:
        self._inbox = inbox
        self._socket = socket
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._asked: deque[tuple[Receipt, type[Exception]]] = deque()

    def ask(self, refused: type[Exception], *command: str | bytes) -> Receipt:
        """Send a command; return its answer, which is an error of the class `refused` if the server says no."""
        self._socket.write(hiredis.pack_command(command))  # type: ignore[arg-type]
        answer = Receipt(loop=self._loop)
        self._asked.append((answer, refused))
        return answer

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (said := self._reader.gets()) is not False:
            if isinstance(said, hiredis.PushNotification) and said[0] == b"message":
                self._inbox.received(said[1].decode(), said[2])
                continue
            answer, refused = self._asked.popleft()
            answer.settle(refused(str(said)) if isinstance(said, hiredis.ReplyError) else None)

    def connection_lost(self, error: Exception | None) -> None:
        self._inbox.lost(error or ConnectionResetError("the server closed the connection"))
