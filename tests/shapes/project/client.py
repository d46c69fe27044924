"""A client library for the small broker: one connection in asyncio, one with threads, and what all transports share."""

import asyncio
import itertools
import queue
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from .contract import ConnectError, Transport, escape
from .framing import Frames, Header, pack
from .settings import Settings

LONGEST_NAME = 64


class Refused(Exception):
    """The broker said no."""


Arrived = Callable[[str, bytes, int], object]
"""Called with name, message and position."""

Gone = Callable[[Exception], object]


class Connection(asyncio.Protocol):
    """A connection in asyncio; each answer finds its request by number."""

    _transport: asyncio.Transport | None = None

    def __init__(self, arrived: Arrived, gone: Gone) -> None:
        self.arrived, self.gone = arrived, gone
        self.is_let_in = self.is_dropped = False
        self._frames = Frames()
        self._numbers = itertools.count(1)
        self.asked: dict[int, asyncio.Future[tuple[Header, bytes]]] = {}

    async def open(self, host: str, port: int, user: str | None, password: str | None) -> int:
        """Connect and log in; return the broker's limit of size."""
        await asyncio.get_running_loop().create_connection(lambda: self, host, port)
        answer, _ = await self.ask("login", user=user, password=password)
        self.is_let_in = True
        return int(answer["limit"])

    def ask(self, do: str, body: bytes = b"", **header: object) -> "asyncio.Future[tuple[Header, bytes]]":
        """Send a request; return its answer, or `Refused`."""
        if self._transport is None or not self.is_open:
            raise ConnectionResetError("not connected")
        number = next(self._numbers)
        answer = self.asked[number] = asyncio.get_running_loop().create_future()
        self._transport.write(pack({"id": number, "do": do, **header}, body))
        return answer

    @property
    def is_open(self) -> bool:
        """Whether it is there."""
        return self._transport is not None and not self._transport.is_closing()

    def drop(self) -> None:
        """Break the connection off, and tell nobody."""
        self.is_dropped = True
        if self._transport:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self.is_dropped:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            self.heard(data)
        except ValueError as error:
            self.gone(error)
            self.drop()

    def heard(self, data: bytes) -> None:
        """Take what the broker says; raise `ValueError` for what is no frame."""
        for header, body in self._frames.feed(data):
            if "id" in header:
                self.answered(header, body)
            else:
                self.arrived(header["name"], body, header["position"])

    def answered(self, header: Header, body: bytes) -> None:
        """Give an answer to who asked."""
        answer = self.asked.pop(header["id"])
        if answer.done():
            return
        if "error" in header:
            answer.set_exception(Refused(header["error"]))
        else:
            answer.set_result((header, body))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.is_dropped:
            self.gone(error or ConnectionResetError("the broker closed the connection"))


Answered = Callable[[Header], object]


class ThreadedClient:
    """A client with a thread that reads and one that writes; its callbacks come from the one that reads."""

    def __init__(self, host: str, port: int, on_message: Arrived, on_open: Callable[[], object], on_gone: Gone) -> None:
        self._place = (host, port)
        self.on_message, self.on_open, self.on_gone = on_message, on_open, on_gone
        self._numbers = itertools.count(1)
        self._callbacks: dict[int, Answered] = {}
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._socket = socket.socket()
        self.is_closed = False
        self.threads = [threading.Thread(target=target, daemon=True) for target in (self._read, self._write)]

    def start(self) -> None:
        """Connect, in the background; `on_open` comes when that is done."""
        for thread in self.threads:
            thread.start()

    def ask(self, callback: Answered, do: str, body: bytes = b"", **header: object) -> None:
        """Send a request; its answer goes to the callback."""
        number = next(self._numbers)
        self._callbacks[number] = callback
        self._outgoing.put(pack({"id": number, "do": do, **header}, body))

    def stop(self) -> None:
        """Break the connection off, and tell nobody."""
        self.is_closed = True
        self._outgoing.put(None)
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def join(self) -> None:
        """Wait until the threads have ended."""
        for thread in self.threads:
            if thread.ident is not None:
                thread.join()
        self._socket.close()

    def _read(self) -> None:
        frames = Frames()
        try:
            self._socket.connect(self._place)
            self.on_open()
            while data := self._socket.recv(65536):
                for header, body in frames.feed(data):
                    if "id" in header:
                        self._callbacks.pop(header["id"])(header)
                    else:
                        self.on_message(header["name"], body, header["position"])
            raise ConnectionResetError("the broker closed the connection")
        except (OSError, ValueError) as error:
            if not self.is_closed:
                self.on_gone(error)

    def _write(self) -> None:
        with suppress(OSError):
            while (frame := self._outgoing.get()) is not None:
                self._socket.sendall(frame)


class SmallTransport(Transport[Settings]):
    """What the transports of all shapes share: names for topics, and what becomes of what arrives."""

    options: Header = {}  # noqa: RUF012
    """What is added to each request to subscribe; the sound transports add nothing."""

    @property
    def topics(self) -> dict[str, str]:
        """The topics that are subscribed to, by their names at the broker."""
        topics: dict[str, str] = self.__dict__.setdefault("_topics", {})
        return topics

    def name(self, topic: str) -> str:
        """Return a topic's name at the broker."""
        return escape(topic, mark="_", longest=LONGEST_NAME)

    def place(self, port: int | None = None) -> tuple[str, int]:
        """Return host and port of the broker."""
        target = self.settings.targets()[0]
        return target.host, port or target.port or 4001

    def arrived(self, name: str, body: bytes, position: int) -> None:
        """Hand in a message, if it is still wanted."""
        if (topic := self.topics.get(name)) is not None:
            self.inbox.received(topic, body)

    def gone(self, error: Exception) -> None:
        """Tell the loss of a connection."""
        self.inbox.lost(error)

    async def dial(self, connection: Connection, port: int | None = None) -> int:
        """Open a connection, and log in; return the broker's limit of size."""
        user, password = self.settings.login
        try:
            return await connection.open(*self.place(port), user, password)
        except Refused as refusal:
            raise ConnectError(str(refusal), refused=True) from refusal
