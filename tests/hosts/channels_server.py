"""Django Channels: `channels_server.py PORT connector|own|own2`; own is Channels' Pub/Sub layer on Redis, own2 the other."""

import logging
from functools import partial
from typing import Any

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.urls import path
from serving import PACKAGE, REDIS_URL, serve


class Talk(AsyncWebsocketConsumer):  # type: ignore[misc]
    groups = ("room", "connector.missed")

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        try:
            await self.channel_layer.group_send("room", {"type": "room.text", "text": text_data})
        except Exception as error:  # which would hang up; only the other back ends raise
            logging.warning("not published: %s", error)

    async def room_text(self, event: dict[str, Any]) -> None:
        await self.send(event["text"])

    async def connector_missed(self, event: dict[str, Any]) -> None:
        await self.send("missed")


def app(back_end: str, **config: Any) -> ProtocolTypeRouter:
    settings.configure(CHANNEL_LAYERS={"default": {"BACKEND": back_end, "CONFIG": config}})
    django.setup()
    return ProtocolTypeRouter({"websocket": URLRouter([path("ws", Talk.as_asgi())])})


if __name__ == "__main__":
    serve(
        {
            "connector": partial(app, f"{PACKAGE}.hosts.channels.ConnectorChannelLayer"),
            "own": partial(app, "channels_redis.pubsub.RedisPubSubChannelLayer", hosts=[REDIS_URL]),
            "own2": partial(app, "channels_redis.core.RedisChannelLayer", hosts=[REDIS_URL], capacity=1000),
        },
        lifespan="off",
    )
