"""A chat of one room on Litestar: `python litestar_server.py PORT connector|own`, with the package's name in PACKAGE."""

import os
import sys
from importlib import import_module
from typing import Any

import uvicorn
from litestar import Litestar, WebSocket, websocket
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.base import ChannelsBackend
from litestar.channels.backends.redis import RedisChannelsPubSubBackend
from redis.asyncio import Redis


def backend_of(kind: str) -> ChannelsBackend:
    """Return the back end on the connector, or Litestar's own."""
    if kind == "own":
        return RedisChannelsPubSubBackend(redis=Redis.from_url(os.environ["REDIS_URL"]))
    package = os.environ["PACKAGE"]
    adapter = import_module(f"{package}.hosts.litestar")
    backend: ChannelsBackend = adapter.ConnectorChannelsBackend(import_module(package).Settings, missed=b"missed")
    return backend


@websocket("/ws")
async def chat(socket: WebSocket[Any, Any, Any], channels: ChannelsPlugin) -> None:
    """Publish what the client sends, and send it what is published."""
    await socket.accept()
    async with channels.start_subscription("room") as subscriber, subscriber.run_in_background(socket.send_text):
        async for text in socket.iter_data("text"):
            channels.publish(text, "room")


if __name__ == "__main__":
    plugin = ChannelsPlugin(backend_of(sys.argv[2]), channels=["room"])
    uvicorn.run(Litestar([chat], plugins=[plugin]), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
