"""How messages travel through MQTT 5: published and delivered with QoS 1, over one connection."""

import asyncio
import math
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

from paho.mqtt.client import Client, MQTTMessage, MQTTv5, error_string
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from .contract import ConnectError, PublishRefusedError, SubscribeRefusedError, Transport, escape
from .settings import Settings

LONGEST_NAME = 1000
"""Bytes of a topic's name at the broker."""

LARGEST_PACKET = 268_435_455
"""Bytes, by the protocol; a broker that takes less says so."""

REJECTIONS = "Client identifier not valid", "Bad user name or password", "Not authorized", "Banned"
"""What a broker says to a node that may not enter."""

NO_TOPIC = "no/topic"
"""The name of no topic, since `escape` leaves no slash in one."""


class BrokerTransport(Transport[Settings]):
    """One connection of paho's client, whose socket the event loop watches.

    Each request has a number, by which its acknowledgement is known.
    """

    _client: Client | None = None
    _opening: asyncio.Future[socket.socket] | None = None

    async def connect(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._topics: dict[str, str] = {}
        self._asked: dict[int, asyncio.Future[ReasonCode]] = {}
        self._greeted = self._loop.create_future()
        name = self.settings.client_id or self.inbox.memory.setdefault("name", f"deepstream-{uuid4().hex}")
        self._client = client = Client(CallbackAPIVersion.VERSION2, name, protocol=MQTTv5, reconnect_on_failure=False)
        self.settings.apply_to(client)
        client.on_connect = self._on_connect
        client.on_disconnect = lambda client, data, flags, reason, _: self.inbox.lost(ConnectionError(str(reason)))
        client.on_message = self._on_message
        client.on_publish = lambda client, data, number, reason, _: self._on_answers(client, data, number, [reason])
        client.on_subscribe = client.on_unsubscribe = self._on_answers
        # paho blocks while it connects: that is for a thread, and all that follows for the event loop.
        thread = ThreadPoolExecutor(1)
        self._opening = self._loop.run_in_executor(thread, self._open, client)
        thread.shutdown(wait=False)
        sock = await asyncio.shield(self._opening)
        client.on_socket_register_write = lambda *_: self._loop.add_writer(sock, client.loop_write)
        client.on_socket_unregister_write = lambda *_: self._loop.remove_writer(sock)  # type: ignore[assignment]
        client.on_socket_close = lambda *_: self._loop.remove_reader(sock)  # type: ignore[assignment]
        self._loop.add_reader(sock, self._read, client)
        await self._greeted

    async def publish(self, topic: str, payload: bytes) -> None:
        assert self._client
        sent = self._client.publish(_name(topic), payload, qos=1)
        reason = await self._answer(sent.rc, sent.mid)
        if reason.is_failure:
            raise PublishRefusedError(str(reason))

    async def subscribe(self, topic: str) -> None:
        assert self._client
        self._topics[_name(topic)] = topic
        options = SubscribeOptions(qos=1, noLocal=True, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        reason = await self._answer(*self._client.subscribe(_name(topic), options=options))
        if reason.is_failure:
            raise SubscribeRefusedError(str(reason))

    async def unsubscribe(self, topic: str) -> None:
        assert self._client
        await self._answer(*self._client.unsubscribe(_name(topic)))
        del self._topics[_name(topic)]

    async def ping(self) -> None:
        """Ask for the end of what never began: the answer stands behind all that was sent, and needs no rights."""
        assert self._client
        await self._answer(*self._client.unsubscribe(NO_TOPIC))

    async def close(self) -> None:
        if self._opening:
            try:
                await asyncio.wait((self._opening,))
            finally:
                self._opening.add_done_callback(self._hang_up)
            await asyncio.sleep(0)

    def _open(self, client: Client) -> socket.socket:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.ReceiveMaximum = 65_535  # or a broker holds messages back, and answers overtake them
        keepalive = min(math.ceil(2 * self.settings.heartbeat), 65_535)
        client.connect(*self.settings.host_and_port(), keepalive, clean_start=True, properties=properties)
        sock = client.socket()
        assert isinstance(sock, socket.socket)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _hang_up(self, _: object) -> None:
        assert self._client
        self._client.disconnect()
        self._client.loop_write()
        self._client._reset_sockets()  # in case not all could be written

    async def _answer(self, error: MQTTErrorCode, number: int | None) -> Any:
        if error or number is None:
            raise ConnectionError(error_string(error))
        answer = self._asked[number] = self._loop.create_future()
        try:
            return await answer
        finally:
            self._asked.pop(number, None)

    def _on_answers(self, client: Client, data: Any, number: int, reasons: list[ReasonCode], *_: Any) -> None:
        answer = self._asked.get(number)
        if answer and not answer.done():
            answer.set_result(reasons[0])

    def _on_connect(self, client: Client, data: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        if reason.is_failure:
            self.inbox.lost(ConnectError(str(reason), refused=str(reason) in REJECTIONS))
        elif not self._greeted.done():
            client._max_inflight_messages = getattr(properties, "ReceiveMaximum", 65_535)  # its setter is too early
            self.max_frame_bytes = getattr(properties, "MaximumPacketSize", LARGEST_PACKET) - LONGEST_NAME - 10
            self._greeted.set_result(None)

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


def _name(topic: str) -> str:
    return escape(topic, longest=LONGEST_NAME)
