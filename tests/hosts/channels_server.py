"""Django Channels: `channels_server.py PORT connector|own|own2`; own is Channels' Pub/Sub layer on Redis, own2 the other."""

import logging
import os
import sys
from typing import Any

import django
import uvicorn
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.urls import path

BACK_ENDS = {
    "connector": {
        "BACKEND": f"{os.environ['PACKAGE']}.hosts.channels.ConnectorChannelLayer",
    },
    "own": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [os.environ["REDIS_URL"]]},
    },
    "own2": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [os.environ["REDIS_URL"]], "capacity": 1000},
    },
}


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


if __name__ == "__main__":
    port, back_end = sys.argv[1:]
    settings.configure(CHANNEL_LAYERS={"default": BACK_ENDS[back_end]})
    django.setup()
    app = ProtocolTypeRouter({"websocket": URLRouter([path("ws", Talk.as_asgi())])})
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", lifespan="off")
