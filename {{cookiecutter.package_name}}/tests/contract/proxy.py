"""A TCP proxy between a connector and the broker, to break the connection in every way that networks know."""

import asyncio
from collections.abc import Callable
from contextlib import suppress


class Proxy:
    """Listens on `port` of 127.0.0.1 and forwards to `target` (host, port), unless told otherwise."""

    def __init__(self, target: tuple[str, int], port: int = 0) -> None:
        self.port = port
        self._target = target
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._pairs: set[asyncio.Task[None]] = set()
        self._waiters: list[asyncio.Future[None]] = []
        self.accepted = 0

    async def start(self) -> None:
        """Take connections."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Cut what is there, and take no connections until `heal`."""
        if self._server:
            self._server.close()
            self._server = None
        await self.cut()

    def mute(self) -> None:
        """Forward nothing, and close nothing, until `heal`: the silence of a pulled cable."""
        self._flowing.clear()

    async def heal(self) -> None:
        """Forward again, also what came meanwhile."""
        self._flowing.set()
        if self._server is None:
            await self.start()

    async def cut(self) -> None:
        """Break the connections that are there."""
        for pair in self._pairs:
            if not pair.cancelling():
                pair.cancel()
        await self.until(lambda: not self._pairs)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when `condition` holds; it is looked at whenever a connection comes or goes."""
        while not condition():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._pairs)

    async def close(self) -> None:
        """Break all connections, and take no more."""
        self._flowing.set()
        await self.refuse()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._pairs.add(task)
        self.accepted += 1
        self._tell()
        writers = [writer]
        try:
            await self._flowing.wait()
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            writers.append(far_writer)
            ways = [
                asyncio.ensure_future(self._forward(reader, far_writer)),
                asyncio.ensure_future(self._forward(far_reader, writer)),
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
            self._pairs.discard(task)
            self._tell()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()

    def _tell(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
