"""A TCP proxy between a connector and the broker, to break connections in every way that networks know."""

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

Address = tuple[str, int]
"""Host and port."""


class Connection:
    """One connection through the proxy; `name` says to which of the broker's ports."""

    def __init__(self, name: str, client: asyncio.StreamWriter) -> None:
        self.name = name
        self._client = client
        self._flowing = {way: asyncio.Event() for way in ("in", "out")}
        self._task = asyncio.current_task()
        self.heal()

    def cut(self, reset: bool = False) -> None:
        """Break it: with an orderly end, or with a reset."""
        if reset:
            peer: socket.socket = self._client.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if self._task and not self._task.cancelling():
            self._task.cancel()

    def mute(self, *ways: str) -> None:
        """Forward nothing, and close nothing, until `heal`: `in` to the client, `out` to the broker, or both."""
        for way in ways or self._flowing:
            self._flowing[way].clear()

    def heal(self, *ways: str) -> None:
        """Forward again, including what came meanwhile; in these directions, or in both."""
        for way in ways or self._flowing:
            self._flowing[way].set()

    async def flows(self, way: str) -> None:
        """Return when it forwards in this direction."""
        await self._flowing[way].wait()


class Proxy:
    """Listens on ports of 127.0.0.1, and forwards what comes to the broker, unless told otherwise.

    Arguments:
        targets: by name, the broker's addresses.
        ports: by the same names, where to listen; 0 is any free port.
    """

    def __init__(self, targets: dict[str, Address], ports: dict[str, int]) -> None:
        self.ports = dict(ports)
        self._targets = targets
        self._servers: dict[str, asyncio.Server] = {}
        self._mute: tuple[str, ...] = ()
        self._waiters: list[asyncio.Future[None]] = []
        self.connections: list[Connection] = []
        """Those that are open now, in the order in which they came."""
        self.accepted = 0
        self.overheard: bytearray | None = None
        """Records what clients send, if it is set."""
        self.babble = b""
        """What clients get, again and again, from the next time on that the broker says something."""

    @property
    def port(self) -> int:
        """Where it listens in place of the broker's url."""
        return self.ports["url"]

    async def start(self) -> None:
        """Take connections."""
        for name in self._targets:
            await self._listen(name)

    async def refuse(self, *names: str) -> None:
        """Cut what is there, and take no connections until `heal`; at the ports of these names, or at all."""
        names = names or tuple(self._targets)
        for name in names:
            if server := self._servers.pop(name, None):
                server.close()
        await self._break([each for each in self.connections if each.name in names])

    def mute(self, *ways: str) -> None:
        """Forward nothing, and close nothing, until `heal`: the silence of a pulled cable, or of one way, `in` or `out`.

        That holds for later connections, too.
        """
        self._mute = ways or ("in", "out")
        for each in self.connections:
            each.mute(*ways)

    async def heal(self) -> None:
        """Forward again, including what came meanwhile, and take connections."""
        self._mute = ()
        for each in self.connections:
            each.heal()
        for name in self._targets:
            if name not in self._servers:
                await self._listen(name)

    async def cut(self, *connections: Connection, reset: bool = False) -> None:
        """Break these connections, or all that are there; return when they are gone."""
        await self._break(list(connections or self.connections), reset)

    async def until(self, condition: Callable[[], object]) -> None:
        """Return when `condition` holds; it is checked whenever a connection comes or goes."""
        while not condition():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    async def close(self) -> None:
        """Break all connections, and take no more."""
        await self.refuse()

    async def _break(self, connections: list[Connection], reset: bool = False) -> None:
        for each in connections:
            each.cut(reset)
        await self.until(lambda: not any(each in self.connections for each in connections))

    async def _listen(self, name: str) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._serve(name, reader, writer)

        server = self._servers[name] = await asyncio.start_server(serve, "127.0.0.1", self.ports[name])
        self.ports[name] = server.sockets[0].getsockname()[1]

    async def _serve(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(name, writer)
        self.connections.append(connection)
        if self._mute:
            connection.mute(*self._mute)
        self.accepted += 1
        self._tell()
        writers = [writer]
        try:
            await connection.flows("out")
            far_reader, far_writer = await asyncio.open_connection(*self._targets[name])
            writers.append(far_writer)
            ways = [
                asyncio.ensure_future(self._forward(connection, "out", reader, far_writer)),
                asyncio.ensure_future(self._forward(connection, "in", far_reader, writer)),
            ]
            try:
                await asyncio.wait(ways, return_when="FIRST_COMPLETED")
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.wait(ways)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for each in writers:
                each.transport.abort()
            self.connections.remove(connection)
            self._tell()

    async def _forward(
        self, connection: Connection, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if way == "out" and self.overheard is not None:
                    self.overheard += data
                await connection.flows(way)
                while way == "in" and self.babble:
                    writer.write(self.babble)
                    await writer.drain()
                    await asyncio.sleep(0.001)
                writer.write(data)
                await writer.drain()

    def _tell(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
