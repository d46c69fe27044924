"""A filter between server and asyncpg, which passes nothing but frames of PostgreSQL.

asyncpg believes each length. It never returns from a frame whose type is a zero byte, reads one of a negative length
forever, and keeps all that comes of an endless one. So frames are checked before asyncpg gets them.
"""

import asyncio
import ssl
import struct
from collections.abc import Callable
from typing import Any

FRAMES = frozenset(b"123ACDEIKNRSTZnstv")
"""The first bytes of a server's frames to a client that copies nothing."""

LARGEST = 2**30
"""Bytes of a frame with PostgreSQL's largest value."""

HEAD = struct.Struct("!Bi")
TLS_REQUEST = struct.pack("!ii", 8, 80877103)


class CheckingLoop:
    """The running event loop, as asyncpg's `loop`, but with its own way to connect.

    Arguments:
        tls: the context for TLS, if any; asyncpg itself must speak none.
        lost: called with an error when the server does not speak PostgreSQL's protocol.
    """

    def __init__(self, tls: ssl.SSLContext | None, lost: Callable[[Exception], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._tls = tls
        self._lost = lost

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def create_connection(self, make: Callable[[], asyncio.Protocol], host: str, port: int) -> tuple[Any, Any]:
        """Connect, like asyncio's method of this name."""
        checked = _Checked(make(), self._lost)
        if self._tls is None:
            socket, _ = await self._loop.create_connection(lambda: checked, host, port)
            return socket, checked.client
        socket, question = await self._loop.create_connection(_TlsQuestion, host, port)
        try:
            socket.write(TLS_REQUEST)
            if await question.answer != b"S":
                raise ConnectionError("the settings ask for TLS, but the server does not speak it")
            encrypted = await self._loop.start_tls(socket, checked, self._tls, server_hostname=host)
        except BaseException:
            socket.abort()
            raise
        assert encrypted
        checked.connection_made(encrypted)
        return encrypted, checked.client


class _TlsQuestion(asyncio.Protocol):
    """Hears whether the server speaks TLS."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        if not self.answer.done():
            self.answer.set_result(data)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.answer.done():
            self.answer.set_exception(error or ConnectionResetError("the server closed the connection"))


class _Checked(asyncio.Protocol):
    """Passes on to a client what a server says, as long as that consists of frames."""

    def __init__(self, client: asyncio.Protocol, lost: Callable[[Exception], None]) -> None:
        self.client = client
        self._lost = lost
        self._begun = b""  # of the head of a frame
        self._rest = 0  # bytes of a frame that are yet to come

    def connection_made(self, socket: asyncio.BaseTransport) -> None:
        self._socket: Any = socket
        self.client.connection_made(socket)

    def connection_lost(self, error: Exception | None) -> None:
        self.client.connection_lost(error)

    def pause_writing(self) -> None:
        self.client.pause_writing()

    def resume_writing(self) -> None:
        self.client.resume_writing()

    def data_received(self, data: bytes) -> None:
        try:
            self._check(self._begun + data)
            self.client.data_received(data)
        except Exception as error:
            self._lost(ConnectionAbortedError(f"the server does not speak PostgreSQL: {error}"))
            self._socket.abort()

    def _check(self, data: bytes) -> None:
        at = self._rest
        while at + HEAD.size <= len(data):
            kind, size = HEAD.unpack_from(data, at)
            if kind not in FRAMES or not 4 <= size <= LARGEST:
                raise ValueError(f"a frame of the type {bytes([kind])!r}, and {size} bytes")
            at += 1 + size
        self._begun, self._rest = data[at:], max(0, at - len(data))
