"""A client that speaks Socket.IO."""

import hosting
import socketio


class Client(hosting.Client):
    """A client of one server."""

    async def open(self) -> None:
        self._client = socketio.AsyncClient(reconnection=False)
        self._client.on("message", self.hear)
        await self._client.connect(f"http://127.0.0.1:{self.port}", transports=["websocket"])

    async def send(self, text: str) -> None:
        await self._client.send(text)

    async def close(self) -> None:
        await self._client.disconnect()
