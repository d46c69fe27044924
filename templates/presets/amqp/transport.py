"""How messages travel through AMQP 0-9-1: a topic exchange, and one queue per node."""

import asyncio
import logging
import math
import ssl
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import aiormq
from aiormq.abc import AbstractChannel, DeliveredMessage

from .contract import (
    ConnectError,
    MessageTooLargeError,
    PublishRefusedError,
    SubscribeRefusedError,
    Target,
    Transport,
    escape,
    ssl_context,
)
from .settings import Settings

LOG = logging.getLogger("aiormq")
LONGEST_KEY = 255
REJECTIONS = aiormq.ProbableAuthenticationError, aiormq.AuthenticationError, aiormq.ChannelAccessRefused
LARGEST = 16 * 1024 * 1024
"""Bytes of AMQP's frames, of which a message may have many; brokers make them no larger than 128 KiB, unless told."""
AT_A_TIME = 32  # publishes, each on a channel of its own, since the broker closes it to refuse


class BrokerTransport(Transport[Settings]):
    """One connection to send and one to receive: a broker that is short of memory stops reading from senders.

    A routing key is an escaped topic, in which nothing is special. The queue ends with its connection.
    """

    _connections: tuple["Connection", ...] = ()

    async def connect(self) -> None:
        try:
            await self._open()
        except REJECTIONS as refusal:
            raise ConnectError(str(refusal), refused=True) from refusal
        except aiormq.InvalidFrameError as error:  # what aiormq makes of the refusal
            text = f"virtual host {self._sending.vhost!r} is missing or forbidden, or this is not an AMQP 0-9-1 server"
            raise ConnectError(text, refused=True) from error

    async def _open(self) -> None:
        if LOG.level == logging.NOTSET:
            LOG.setLevel(logging.CRITICAL)  # it warns of what the connector reports as events, or does itself
        settings = self.settings
        self.max_frame_bytes = settings.max_frame_bytes
        self._topics: dict[str, str] = {}
        self._idle: list[AbstractChannel] = []
        self._slots = asyncio.Semaphore(AT_A_TIME)
        self._binding: AbstractChannel | None = None
        self._turn = asyncio.Lock()
        tls = await asyncio.to_thread(ssl_context, settings) if settings.uses_tls else None
        self._sending, self._receiving = self._connections = tuple(Connection(_url(settings), tls) for _ in range(2))
        for connection in self._connections:
            await connection.connect()
            connection.closing.add_done_callback(self._lost)
        try:
            await (await self._binder()).exchange_declare(settings.exchange, passive=True)
        except aiormq.ChannelNotFoundEntity:
            await (await self._binder()).exchange_declare(settings.exchange, exchange_type="topic", durable=True)
        self._inlet = await self._receiving.channel(publisher_confirms=False)
        self._inlet.closing.add_done_callback(self._lost)
        self._inlet.on_consumer_cancel_callbacks.add(self._cancelled)
        self._queue = f"{settings.exchange}.{uuid4().hex}"
        await self._inlet.queue_declare(
            self._queue, exclusive=True, auto_delete=True, arguments={"x-max-length-bytes": settings.max_queue_bytes}
        )
        await self._inlet.basic_consume(self._queue, self._received, no_ack=True)

    async def publish(self, topic: str, payload: bytes) -> None:
        key = escape(topic, longest=LONGEST_KEY)
        async with self._slots:
            channel = self._idle.pop() if self._idle else await self._sending.channel()
            try:
                await channel.basic_publish(payload, exchange=self.settings.exchange, routing_key=key)
            except aiormq.ChannelPreconditionFailed as refusal:
                raise MessageTooLargeError(str(refusal)) from refusal
            except (aiormq.ChannelAccessRefused, aiormq.ChannelNotFoundEntity) as refusal:
                raise PublishRefusedError(str(refusal)) from refusal
            finally:
                if not channel.is_closed:
                    self._idle.append(channel)

    async def subscribe(self, topic: str) -> None:
        key = escape(topic, longest=LONGEST_KEY)
        self._topics[key] = topic
        try:
            await asyncio.shield(self._in_turn("queue_bind", key))
        except (aiormq.ChannelAccessRefused, aiormq.ChannelNotFoundEntity) as refusal:
            raise SubscribeRefusedError(str(refusal)) from refusal

    async def unsubscribe(self, topic: str) -> None:
        key = escape(topic, longest=LONGEST_KEY)
        await asyncio.shield(self._in_turn("queue_unbind", key))
        await self._inlet.basic_qos()
        self._topics.pop(key, None)

    async def ping(self) -> None:
        """Ask on both connections, but not on one that a broker short of memory does not read: it has heartbeats."""
        await self._inlet.basic_qos()
        if not await self._sending.is_blocked():
            channel = self._idle.pop() if self._idle else await self._sending.channel()
            await channel.basic_qos()
            self._idle.append(channel)

    async def close(self) -> None:
        closing = [asyncio.ensure_future(connection.close()) for connection in self._connections]
        if closing:
            await asyncio.wait(closing, timeout=0.5)
            for connection in self._connections:
                connection.abort()
            await asyncio.wait(closing)

    async def _in_turn(self, method: str, key: str) -> None:
        """Bind or unbind; never cancelled: that costs the channel, and on another one the next call may overtake it."""
        async with self._turn:
            await getattr(await self._binder(), method)(self._queue, self.settings.exchange, key)

    async def _binder(self) -> AbstractChannel:
        """Return the channel for requests that the broker may refuse: that ends the channel; the queue has another."""
        if self._binding is None or self._binding.is_closed:
            self._binding = await self._receiving.channel(publisher_confirms=False)
        return self._binding

    async def _received(self, message: DeliveredMessage) -> None:
        if topic := self._topics.get(getattr(message.delivery, "routing_key", "")):
            self.inbox.received(topic, message.body)

    def _cancelled(self, _: object) -> None:
        self.inbox.lost(ConnectionResetError("the broker deleted the queue"))

    def _lost(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        self.inbox.lost(error if isinstance(error, Exception) else ConnectionResetError("the connection was closed"))


def _url(settings: Settings) -> str:
    """Return the settings as a url for aiormq, which it can read in only one way."""
    host, port = settings.targets()[0]
    place = Target(host, port or (5671 if settings.uses_tls else 5672))
    login = ":".join(quote(part or "guest", safe="") for part in settings.login)
    path = settings.address.rest if settings.virtual_host is None else f"/{quote(settings.virtual_host, safe='')}"
    heartbeat = max(2, math.ceil(settings.heartbeat / 2))
    return f"amqp://{login}@{place}{path or '/'}?heartbeat={heartbeat}&auth={settings.sasl_mechanism}"


class Connection(aiormq.Connection, aiormq.TransportFactory):
    """A connection that notices silence within about two AMQP heartbeats, and whose socket can be closed at once."""

    HEARTBEAT_GRACE_MULTIPLIER = 1
    _socket: asyncio.StreamWriter | None = None

    def __init__(self, url: str, tls: ssl.SSLContext | None) -> None:
        super().__init__(url, context=tls, transport_factory=self)

    async def create(self, url: Any, **_options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop, reader = asyncio.get_running_loop(), Reader()
        protocol = asyncio.StreamReaderProtocol(reader)
        socket, _ = await loop.create_connection(lambda: protocol, url.host, url.port, ssl=self.ssl_context)
        self._socket = asyncio.StreamWriter(socket, protocol, reader, loop)
        return reader, self._socket

    async def is_blocked(self) -> bool:
        """Tell whether the broker has said that it is short of memory, and reads no more."""
        try:
            async with asyncio.timeout(0):
                await self.ready()
        except TimeoutError:
            return True
        return False

    def abort(self) -> None:
        if self._socket:
            self._socket.transport.abort()


class Reader(asyncio.StreamReader):
    """A reader that keeps no more than a frame, whatever length the broker claims."""

    async def readexactly(self, n: int) -> bytes:
        if n > LARGEST:
            raise ConnectionAbortedError(f"the server does not speak AMQP 0-9-1: a frame of {n} bytes")
        return await super().readexactly(n)
