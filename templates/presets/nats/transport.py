"""How messages travel through NATS: core publish/subscribe, over one connection."""

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any

from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from nats.errors import Error, NoServersError
from nats.protocol.command import pub_cmd, sub_cmd, unsub_cmd

from .contract import ConnectError, PublishRefusedError, SubscribeRefusedError, Transport, escape
from .settings import Settings

LONGEST_SUBJECT = 1000
"""Characters; a server takes 4096 for a whole command."""

REFUSALS = "permissions violation", "maximum subscriptions exceeded"
"""What an -ERR says that is about one request; all others end the connection."""

REJECTIONS = "authorization violation", "authentication expired", "authentication revoked"
"""What an -ERR says to a user that may not enter."""


class BrokerTransport(Transport[Settings]):
    """One connection, on which each request is followed by a PING, and is done when the PONG comes.

    The server answers in order, so an -ERR belongs to the request whose PONG is due next.
    """

    _client: "NatsClient | None" = None

    async def connect(self) -> None:
        troubles: list[Exception] = []

        async def note(error: Exception) -> None:
            troubles.append(error)

        self._numbers: dict[str, int] = {}
        self._topics: dict[int, str] = {}
        self._next_number = count(1)
        self._client = client = NatsClient()
        client.received, client.lost = self._received, self.inbox.lost
        try:
            await client.connect(
                error_cb=note,
                no_echo=True,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                **self.settings.client_options(),
            )
        except NoServersError:
            raise troubles[-1] from None
        except Error as error:
            refused = any(rejection in str(error).lower() for rejection in REJECTIONS)
            raise ConnectError(str(error), refused=refused) from error
        self.max_frame_bytes = client.max_payload

    async def publish(self, topic: str, payload: bytes) -> None:
        try:
            await self._ask(pub_cmd(_subject(topic), "", payload))
        except Refusal as refusal:
            raise PublishRefusedError(str(refusal)) from None

    async def subscribe(self, topic: str) -> None:
        if topic not in self._numbers:
            self._numbers[topic] = next(self._next_number)
        number = self._numbers[topic]
        self._topics[number] = topic
        try:
            await self._ask(sub_cmd(_subject(topic), "", number))
        except Refusal as refusal:
            raise SubscribeRefusedError(str(refusal)) from None

    async def unsubscribe(self, topic: str) -> None:
        number = self._numbers.pop(topic)
        await self._ask(unsub_cmd(number, 0))
        del self._topics[number]

    async def ping(self) -> None:
        await self._ask(b"")

    async def close(self) -> None:
        if self._client:
            wire = self._client._transport
            if isinstance(wire, TcpTransport) and wire._io_writer:
                wire._io_writer.transport.abort()  # unsent bytes would keep the socket open
            await self._client.close()

    async def _ask(self, command: bytes) -> None:
        assert self._client
        await self._client.ask(command)

    def _received(self, number: int, payload: bytes) -> None:
        if topic := self._topics.get(number):
            self.inbox.received(topic, payload)


class Refusal(Exception):
    """What the server said instead of doing what it was asked."""


class NatsClient(Client):
    """The library's client, which here hands on what it reads at once, and tells which request an -ERR is about."""

    received: Callable[[int, bytes], None]
    lost: Callable[[Exception], None]

    async def ask(self, command: bytes) -> None:
        """Send a request and a PING; return at its PONG, or raise the `Refusal` that came before it."""
        assert self._transport
        answer = asyncio.get_running_loop().create_future()
        self._pongs.append(answer)
        self._transport.write(command + b"PING\r\n")
        await self._transport.drain()  # type: ignore[no-untyped-call]
        await answer

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> None:
        self.received(sid, data)

    async def _process_pong(self) -> None:
        answer = self._pongs.pop(0)
        if not answer.done():  # given up, or refused
            answer.set_result(None)

    async def _process_err(self, err_msg: str) -> None:
        text = err_msg.strip("'")
        if not text.startswith(REFUSALS):
            self.lost(Error(f"nats: {text}"))
        elif self._pongs and not self._pongs[0].done():
            self._pongs[0].set_exception(Refusal(text))

    async def _process_op_err(self, e: Exception) -> None:
        self.lost(e)

    def _connect_command(self) -> bytes:
        if "tls" in self.options and not self._server_info.get("tls_required"):
            raise Error("nats: TLS is asked for, but the server does not speak it")
        return super()._connect_command()


def _subject(topic: str) -> str:
    return escape(topic, longest=LONGEST_SUBJECT)
