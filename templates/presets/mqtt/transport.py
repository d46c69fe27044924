"""How messages travel through MQTT 5: published and delivered with QoS 1, over one connection."""

import asyncio
import logging
import math
import socket
import ssl
from functools import partial
from typing import Any
from uuid import uuid4

from paho.mqtt.client import Client, MQTTMessage, MQTTv5, error_string
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from .contract import ConnectError, PublishRefusedError, SubscribeRefusedError, Transport, escape, ssl_context
from .settings import Settings

LONGEST_NAME = 1000
"""Bytes of a topic's name at the broker."""

LARGEST_PACKET = 268_435_455
"""Bytes, in the protocol; a broker that takes less says so."""

REJECTIONS = "Client identifier not valid", "Bad user name or password", "Not authorized", "Banned"
"""How a broker refuses a login."""

NO_TOPIC = "no/topic"
"""No topic has this name, since `escape` leaves no slash in one."""

_name = partial(escape, longest=LONGEST_NAME)


class BrokerTransport(Transport[Settings]):
    """One connection of paho's client, whose socket the event loop watches.

    Each request has a number, which identifies its acknowledgement.
    """

    _client: Client
    _opening: asyncio.Future[socket.socket] | None = None

    async def connect(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._topics: dict[str, str] = {}
        self._asked: dict[int, asyncio.Future[ReasonCode]] = {}
        self._greeted = self._loop.create_future()
        name = self.settings.client_id or self.inbox.memory.setdefault("name", f"deepstream-{uuid4().hex}")
        self._client = client = Client(CallbackAPIVersion.VERSION2, name, protocol=MQTTv5, reconnect_on_failure=False)
        self._complaints = Complaints("paho", logging.ERROR)
        client.enable_logger(self._complaints)
        client.max_inflight_messages = 65_535  # the broker's limit is known later, and obeyed in `publish`
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = client.on_unsubscribe = self._on_answers
        # paho blocks while it connects: that runs in a thread, and all that follows on the event loop.
        self._opening = self._loop.run_in_executor(None, self._open, client)
        sock = await asyncio.shield(self._opening)
        try:
            self._loop.add_reader(sock, self._read, client)
        except NotImplementedError as error:
            text = f"{type(self._loop).__name__} cannot watch sockets, which this needs: use asyncio.SelectorEventLoop"
            raise ConnectError(text) from error
        client.on_socket_register_write = lambda *_: self._loop.add_writer(sock, client.loop_write)
        client.on_socket_unregister_write = lambda *_: self._loop.remove_writer(sock)  # type: ignore[assignment]
        client.on_socket_close = lambda *_: self._loop.remove_reader(sock)  # type: ignore[assignment]
        await self._greeted

    async def publish(self, topic: str, payload: bytes) -> None:
        await self._room.acquire()
        sent = self._client.publish(_name(topic), payload, qos=1)
        reason = await self._answer(sent.rc, sent.mid)
        if reason.is_failure:
            raise PublishRefusedError(str(reason))

    async def subscribe(self, topic: str) -> None:
        self._topics[_name(topic)] = topic
        options = SubscribeOptions(qos=1, noLocal=True, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        reason = await self._answer(*self._client.subscribe(_name(topic), options=options))
        if reason.is_failure:
            raise SubscribeRefusedError(str(reason))

    async def unsubscribe(self, topic: str) -> None:
        await self._answer(*self._client.unsubscribe(_name(topic)))
        del self._topics[_name(topic)]

    async def ping(self) -> None:
        """End a subscription that never began: the answer comes after all that was sent, and needs no rights."""
        await self._answer(*self._client.unsubscribe(NO_TOPIC))

    async def close(self) -> None:
        if self._opening:
            self._opening.add_done_callback(self._hang_up)
            await asyncio.wait((self._opening,))
            await asyncio.sleep(0)

    def _open(self, client: Client) -> socket.socket:
        """Connect; this blocks, for at most `connect_timeout` in each step."""
        client.username, client.password = (part or None for part in self.settings.login)
        client.connect_timeout = self.settings.connect_timeout
        if self.settings.uses_tls:
            context = ssl_context(self.settings)
            context.sslsocket_class = TlsSocket
            client.tls_set_context(context)
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.ReceiveMaximum = 65_535  # or a broker holds messages back, and answers overtake them
        keepalive = min(math.ceil(2 * self.settings.heartbeat), 65_535)
        host, port = self.settings.targets()[0]
        port = port or (8883 if self.settings.uses_tls else 1883)
        client.connect(host, port, keepalive, clean_start=True, properties=properties)
        sock = client.socket()
        assert isinstance(sock, socket.socket)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _hang_up(self, opening: asyncio.Future[socket.socket]) -> None:
        if not opening.cancelled():
            opening.exception()  # perhaps nobody has waited for it; asyncio would complain
        self._client.disconnect()
        self._client.loop_write()
        if isinstance(sock := self._client.socket(), socket.socket):  # not all could be written
            self._loop.remove_reader(sock)
            self._loop.remove_writer(sock)
            self._client.on_socket_unregister_write = self._client.on_socket_close = None
            sock.close()

    async def _answer(self, error: MQTTErrorCode, number: int | None) -> Any:
        if error or number is None:
            raise ConnectionError(error_string(error))
        answer = self._asked[number] = self._loop.create_future()
        try:
            return await answer
        finally:
            self._asked.pop(number, None)

    def _on_publish(self, client: Client, data: Any, number: int, reason: ReasonCode, properties: Any) -> None:
        self._room.release()
        self._on_answers(client, data, number, [reason])

    def _on_answers(self, client: Client, data: Any, number: int, reasons: list[ReasonCode], *_: Any) -> None:
        answer = self._asked.get(number)
        if answer and not answer.done():
            answer.set_result(reasons[0])

    def _on_connect(self, client: Client, data: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        if reason.is_failure:
            self.inbox.lost(ConnectError(str(reason), refused=str(reason) in REJECTIONS))
        elif not self._greeted.done():
            self._room = asyncio.Semaphore(getattr(properties, "ReceiveMaximum", 65_535))
            told = getattr(properties, "MaximumPacketSize", LARGEST_PACKET) - LONGEST_NAME - 10
            self.max_frame_bytes = min(told, self.settings.max_frame_bytes or told)
            self._greeted.set_result(None)

    def _on_disconnect(self, client: Client, data: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        text = str(reason) if flags.is_disconnect_packet_from_server else self._complaints.last
        if (name := self.settings.client_id) and reason == "Session taken over":
            text += f": another node has connected with client_id = {name!r}, which no two nodes may have"
        elif name:
            text += f"; if that goes on, see whether another node has client_id = {name!r}, too"
        self.inbox.lost(ConnectionError(text))

    def _on_message(self, client: Client, data: Any, message: MQTTMessage) -> None:
        if topic := self._topics.get(message.topic):
            self.inbox.received(topic, bytes(message.payload))

    def _read(self, client: Client) -> None:
        try:
            client.loop_read()
            while getattr(client.socket(), "pending", int)():  # what TLS has decrypted already
                client.loop_read()
        except Exception as error:
            self.inbox.lost(error)


class Complaints(logging.Logger):
    """Keeps what paho writes only into its log when a connection breaks."""

    last = "the connection ended without a reason"

    def handle(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage()


class TlsSocket(ssl.SSLSocket):
    """Closes when the handshake fails, which paho leaves to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise
