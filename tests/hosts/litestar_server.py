"""Litestar: `litestar_server.py PORT connector|own`; own is its `RedisChannelsPubSubBackend`."""

from typing import Any

from litestar import Litestar, WebSocket, websocket
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.base import ChannelsBackend
from litestar.channels.backends.redis import RedisChannelsPubSubBackend
from redis.asyncio import Redis
from serving import REDIS_URL, module, package, serve


@websocket("/ws")
async def talk(socket: WebSocket[Any, Any, Any], channels: ChannelsPlugin) -> None:
    await socket.accept()
    async with channels.start_subscription("room") as subscriber, subscriber.run_in_background(socket.send_text):
        async for text in socket.iter_data("text"):
            channels.publish(text, "room")


def app(backend: ChannelsBackend) -> Litestar:
    return Litestar([talk], plugins=[ChannelsPlugin(backend, channels=["room"])])


if __name__ == "__main__":
    serve(
        {
            "connector": lambda: app(
                module("hosts.litestar").ConnectorChannelsBackend(package.Settings, missed=b"missed")
            ),
            "own": lambda: app(RedisChannelsPubSubBackend(redis=Redis.from_url(REDIS_URL))),
        }
    )
