"""How messages travel through NATS: core publish/subscribe, over one connection, in NATS's own protocol."""

import asyncio
import re
from collections import deque
from contextlib import suppress
from functools import lru_cache
from itertools import count
from typing import Any

import msgspec

from .about import __version__
from .client import Info, credentials
from .contract import (
    ConnectError,
    Inbox,
    PublishRefusedError,
    Receipt,
    SubscribeRefusedError,
    Transport,
    escape,
    ssl_context,
)
from .settings import Settings

LONGEST_SUBJECT = 1000
"""Characters; a server takes 4096 for a whole command."""

LONGEST_LINE = 65_536
"""Bytes of what a server says besides payloads; its INFO is the longest."""

LARGEST_PAYLOAD = 64 * 1024 * 1024
"""Bytes; no server takes more."""

MESSAGE = re.compile(rb"MSG [!-~]+ ([0-9]+) (?:[!-~]+ )?([0-9]{1,8})\r\n")

REJECTIONS = re.compile("authorization violation|authentication (expired|revoked)", re.IGNORECASE)
"""What an -ERR says to a user whose login it refuses."""


class BrokerTransport(Transport[Settings], asyncio.Protocol):
    """One connection, on which each request is followed by a PING, and is done when the PONG comes.

    The server answers in order, so an -ERR belongs to the request whose PONG is due next.
    """

    _socket: Any = None
    _unsent: list[bytes] | None = None

    def __init__(self, settings: Settings, inbox: Inbox) -> None:
        super().__init__(settings, inbox)
        self._greeting: asyncio.Future[Info] = asyncio.get_running_loop().create_future()
        self._next_number = count(1)
        self._numbers: dict[str, bytes] = {}
        self._topics: dict[bytes, str] = {}
        self._asked: deque[tuple[Receipt, type[Exception] | None, tuple[str, ...]]] = deque()
        self._rest = bytearray()
        self._needed = 0
        self._is_asked = False

    async def connect(self) -> None:
        settings, loop = self.settings, asyncio.get_running_loop()
        (target,) = settings.targets()
        tls = await asyncio.to_thread(ssl_context, settings) if settings.uses_tls else None
        is_first = settings.tls_handshake_first
        await loop.create_connection(lambda: self, target.host, target.port or 4222, ssl=tls if is_first else None)
        info = await self._greeting
        if info.tls_required and not tls:
            tls = await asyncio.to_thread(ssl_context, settings)
        if tls and not is_first:
            if not (info.tls_required or info.tls_available) or self._rest:
                raise ConnectError("the settings ask for TLS, but the server does not speak it")
            self._socket = await loop.start_tls(self._socket, self, tls)
        options = {"verbose": False, "pedantic": False, "echo": False, "protocol": 1, "lang": "python"}
        options |= {"version": __version__, "name": settings.node_name, **credentials(settings, info.nonce)}
        await self._ask(b"CONNECT %b\r\n" % msgspec.json.encode(options))

    def publish(self, topic: str, payload: bytes) -> Receipt:
        command = b"PUB %b %d\r\n%b\r\n" % (_subject(topic), len(payload), payload)
        return self._ask(command, PublishRefusedError, "permissions violation for publish ")

    async def subscribe(self, topic: str) -> None:
        subject, number = _subject(topic), self._numbers.setdefault(topic, b"%d" % next(self._next_number))
        self._topics[number] = topic
        refusals = f'permissions violation for subscription to "{subject.decode()}"', "maximum subscriptions exceeded"
        await self._ask(b"SUB %b %b\r\n" % (subject, number), SubscribeRefusedError, *refusals)

    async def unsubscribe(self, topic: str) -> None:
        if number := self._numbers.pop(topic, None):
            del self._topics[number]
            await self._ask(b"UNSUB %b\r\n" % number)

    async def ping(self) -> None:
        await self._ask(b"")

    async def close(self) -> None:
        if self._socket:
            self._socket.abort()  # unsent bytes would keep the socket open

    def _ask(self, command: bytes, refused: type[Exception] | None = None, *refusals: str) -> Receipt:
        """Send a request; its answer is an error of the class `refused` if the server says one of the `refusals`."""
        request = command + b"PING\r\n"
        if self._unsent is None:  # the first in a turn of the loop leaves at once, and the others together
            self._socket.write(request)
            self._unsent = []
            asyncio.get_running_loop().call_soon(self._flush)
        else:
            self._unsent.append(request)
        answer = Receipt()
        self._asked.append((answer, refused, refusals))
        return answer

    def _flush(self) -> None:
        if self._unsent:
            self._socket.writelines(self._unsent)
        self._unsent = None

    def connection_made(self, socket: asyncio.BaseTransport) -> None:
        self._socket = socket

    def connection_lost(self, error: Exception | None) -> None:
        self.inbox.lost(error or ConnectionResetError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return
            data = bytes(self._rest)
            self._rest.clear()
        try:
            self._rest += data[self._read(data) :]
            if self._is_asked:  # perhaps many times: one answer is enough
                self._is_asked = False
                self._socket.write(b"PONG\r\n")
        except (ValueError, RecursionError) as error:  # the latter for an INFO that is all brackets
            self.inbox.lost(ConnectionAbortedError(f"the server does not speak NATS: {error}"))
            self._socket.abort()

    def _read(self, data: bytes) -> int:
        """Take what is complete; return where the rest begins, of which `_needed` bytes must be there next time."""
        start = self._needed = 0
        while start < len(data):
            if message := MESSAGE.match(data, start, start + LONGEST_LINE):
                begin = message.end()
                end = begin + int(message[2])
                if end - begin > LARGEST_PAYLOAD or data[end : end + 2] not in (b"\r\n", b"\r", b""):
                    raise ValueError(f"a message without the {end - begin} bytes that it announces")
                if len(data) < end + 2:
                    self._needed = end + 2 - start
                    break
                if topic := self._topics.get(message[1]):
                    self.inbox.received(topic, data[begin:end])
            else:
                end = data.find(b"\r\n", start, start + LONGEST_LINE)
                if end < 0:
                    if len(data) - start >= LONGEST_LINE:
                        raise ValueError(f"a line of more than {LONGEST_LINE} bytes")
                    break
                self._hear(data[start:end])
            start = end + 2
        return start

    def _hear(self, line: bytes) -> None:
        if line == b"PONG" and self._asked:
            self._asked.popleft()[0].settle()
        elif line == b"PING":
            self._is_asked = True
        elif line.startswith(b"INFO "):
            self._learn(msgspec.json.decode(line[5:], type=Info))
        elif line.startswith(b"-ERR "):
            self._complain(line[5:].decode(errors="replace").strip(" '"))
        else:
            raise ValueError(repr(line[:40]))

    def _learn(self, info: Info) -> None:
        self.max_frame_bytes = info.max_payload
        self.announced = []
        for host, _, port in (url.rpartition(":") for url in info.connect_urls or ()):
            with suppress(ValueError):  # what no url can name
                self.announced += self.settings.at(host.strip("[]"), int(port)).targets()
        if not self._greeting.done():
            self._greeting.set_result(info)
        if info.ldm and self.announced:
            self.inbox.lost(ConnectionError("the server is about to shut down (lame duck mode)"))

    def _complain(self, text: str) -> None:
        """Take an -ERR: it is about the request whose PONG is due next, or else about the whole connection."""
        answer, refused, refusals = self._asked[0] if self._asked else (None, None, ())
        if answer and refused and text.lower().startswith(tuple(map(str.lower, refusals))):
            answer.settle(refused(text))
        else:
            self.inbox.lost(ConnectError(text, refused=bool(REJECTIONS.search(text))))


@lru_cache(4096)
def _subject(topic: str) -> bytes:
    return escape(topic, longest=LONGEST_SUBJECT).encode()
