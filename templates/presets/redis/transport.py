"""How messages travel through Redis: publish/subscribe, over one connection."""

import asyncio
import re
from collections import deque
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import unquote

import hiredis

from .contract import (
    ConnectError,
    Inbox,
    PublishRefusedError,
    Receipt,
    SubscribeRefusedError,
    Target,
    Transport,
    UnsubscribeError,
    ssl_context,
)
from .settings import Settings

HEAD = re.compile(rb"(?:[$=!]([0-9]{1,9})|[*%~>|][0-9]{1,3}|[-+:_#,(][^\r\n]{0,9999})\r\n")
"""How each part of an answer begins: with its length, with the number of its own parts, or with all there is of it."""

LONGEST_HEAD = 10_002
"""Bytes."""


class BrokerTransport(Transport[Settings]):
    """One connection, which with RESP3 may publish, subscribe and ask for the server's role at the same time."""

    _dialogue: "Dialogue | None" = None

    async def connect(self) -> None:
        settings = self.settings
        if settings.primary_name is not None:
            host, port = await self._ask_sentinel(settings.primary_name)
            self._where = str(Target(host, port))
            self._dialogue = await self._open(host, port, tls_name=host)
        else:
            self._where = settings.where
            self._dialogue = await (self._open(*_place(settings, 6379)) if settings.targets() else self._open_socket())
        await self._check_role(*settings.login)

    def publish(self, topic: str, payload: bytes) -> Receipt:
        assert self._dialogue
        return self._dialogue.ask(PublishRefusedError, "PUBLISH", topic, payload)

    async def subscribe(self, topic: str) -> None:
        await self._agree(SubscribeRefusedError, "SUBSCRIBE", topic)

    async def unsubscribe(self, topic: str) -> None:
        await self._agree(UnsubscribeError, "UNSUBSCRIBE", topic)

    async def ping(self) -> None:
        await self._check_role()

    async def close(self) -> None:
        if self._dialogue:
            self._dialogue.close()

    async def _open(self, host: str, port: int, tls_name: str | None = None) -> "Dialogue":
        """Connect to a server or a sentinel; its certificate is for `tls_name`, or else for the host in the url."""
        tls = await asyncio.to_thread(ssl_context, self.settings, tls_name) if self.settings.uses_tls else None
        loop = asyncio.get_running_loop()
        _, dialogue = await loop.create_connection(lambda: Dialogue(self.inbox), host, port, ssl=tls)
        return dialogue

    async def _open_socket(self) -> "Dialogue":
        path = unquote(self.settings.address.rest)
        _, dialogue = await asyncio.get_running_loop().create_unix_connection(lambda: Dialogue(self.inbox), path)
        return dialogue

    async def _ask_sentinel(self, name: str) -> tuple[str, int]:
        """Return host and port of the primary, according to the sentinel in the url."""
        where = self.settings.where
        sentinel = await self._open(*_place(self.settings, 26379))
        try:
            if (await sentinel.greet(*self.settings.sentinel_login)).get(b"mode") != b"sentinel":
                raise ConnectError(f"{where} is a server, not a sentinel: its url is redis://host:port")
            answer = sentinel.ask(_no_entry, "SENTINEL", "get-master-addr-by-name", name)
            await answer
        finally:
            sentinel.close()
        if answer.said is None:
            raise ConnectError(f"the sentinel {where} does not know a primary named {name!r}")
        host, port = answer.said
        return host.decode(), int(port)

    async def _check_role(self, user: str | None = None, password: str | None = None) -> None:
        """Raise `ConnectError` unless messages published at the server reach all; a cluster's replicas pass them on."""
        assert self._dialogue
        hello = await self._dialogue.greet(user, password)
        if hello.get(b"mode") == b"sentinel":
            raise ConnectError(f"{self._where} is a sentinel, not a server: its url is redis+sentinel://host:port/NAME")
        if hello.get(b"mode") != b"cluster" and hello.get(b"role") in (b"replica", b"slave"):
            raise ConnectError(f"{self._where} is a replica: what is published there reaches no clients of its primary")

    async def _agree(self, refused: type[Exception], command: str, topic: str) -> None:
        assert self._dialogue
        await self._dialogue.ask(refused, command, topic, pushed=[command.lower().encode(), topic.encode()])


def _place(settings: Settings, default_port: int) -> tuple[str, int]:
    host, port = settings.targets()[0]
    return host, port or default_port


def _no_entry(text: str) -> ConnectError:
    """Return the error for a login to which the server has said `text`."""
    if text.startswith("NOAUTH"):
        return ConnectError("the server wants a password (NOAUTH)", refused=True)
    return ConnectError(text, refused=text.startswith(("WRONGPASS", "NOPERM")))


class Answer(Receipt):
    """What the server says to one command."""

    said: Any = None


class Dialogue(asyncio.Protocol):
    """The server's answers, in the order of the questions, with its pushes between them."""

    def __init__(self, inbox: Inbox) -> None:
        self._received = inbox.received
        self._lost: Callable[[Exception], object] = inbox.lost
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._begun = b""  # of the head of a part
        self._rest = 0  # bytes of a part that are yet to come
        self._asked: deque[tuple[Answer, Callable[[str], Exception], list[bytes] | None]] = deque()

    def connection_made(self, socket: asyncio.BaseTransport) -> None:
        self._socket = cast(asyncio.Transport, socket)

    def ask(
        self, refused: Callable[[str], Exception], *command: str | bytes, pushed: list[bytes] | None = None
    ) -> Answer:
        """Send a command; return its answer, which is the error that `refused` makes of a text if the server says no.

        Instead of answering, the server confirms some commands with a push that begins with `pushed`.
        """
        self._socket.write(hiredis.pack_command(command))  # type: ignore[arg-type]
        answer = Answer(loop=self._loop)
        self._asked.append((answer, refused, pushed))
        return answer

    async def greet(self, user: str | None = None, password: str | None = None) -> dict[bytes, Any]:
        """Log in, if there is anything to log in with, and return what the server says of itself."""
        login = ("AUTH", user or "default", password or "") if user or password else ()
        answer = self.ask(_no_entry, "HELLO", "3", *login)
        await answer
        said: dict[bytes, Any] = answer.said
        return said

    def close(self) -> None:
        """End the connection; its loss is no longer reported."""
        self._lost = lambda error: None
        self._socket.abort()  # unsent bytes would keep the socket open

    def data_received(self, data: bytes) -> None:
        try:
            self._check(self._begun + data)
            self._reader.feed(data)
            while (said := self._reader.gets()) is not False:
                if isinstance(said, hiredis.PushNotification):
                    if len(said) == 3 and said[0] == b"message":
                        self._received(said[1].decode(), said[2])
                        continue
                    if not self._asked or self._asked[0][2] != said[:2]:
                        continue
                elif not self._asked:
                    raise hiredis.ProtocolError(f"unexpected answer {said}")
                answer, refused, _ = self._asked.popleft()
                answer.said = said
                answer.settle(refused(str(said)) if isinstance(said, hiredis.ReplyError) else None)
        except Exception as error:
            self._lost(ConnectionAbortedError(f"the server's answer makes no sense: {error}"))
            self._socket.abort()

    def _check(self, data: bytes) -> None:
        """Raise `ValueError` for absurd lengths and numbers, since hiredis allocates memory for all of them."""
        at = self._rest
        while at < len(data) and (head := HEAD.match(data, at)):
            at = head.end() + (int(head[1]) + 2 if head[1] else 0)
        self._begun, self._rest = data[at:], max(0, at - len(data))
        if len(self._begun) > LONGEST_HEAD or b"\n" in self._begun:
            raise ValueError(repr(self._begun[:40]))

    def connection_lost(self, error: Exception | None) -> None:
        self._lost(error or ConnectionResetError("the server closed the connection"))
