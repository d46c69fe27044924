"""Starlette with websockets: `fanout_server.py PORT connector|own`; own is broadcaster, the usual answer there."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from broadcaster import Broadcast
from serving import REDIS_URL, module, package, serve
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

fanout: Any = module("hosts.fanout")


def app(make: Callable[[], Any], publish: Callable[[Any, str], Awaitable[None]], following: Any) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with make() as app.state.hub:
            yield

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        hub = websocket.app.state.hub
        async with hub.subscribe("room") as events:
            sending = asyncio.create_task(send(websocket, aiter(events)))
            async for text in websocket.iter_text():
                await publish(hub, text)
            sending.cancel()

    async def send(websocket: WebSocket, events: Any) -> None:
        while True:
            await websocket.send_text(await following(events))

    return Starlette(routes=[WebSocketRoute("/ws", talk)], lifespan=lifespan)


async def publish_by_fanout(hub: Any, text: str) -> None:
    hub.publish_nowait("room", text)


async def following_of_fanout(events: Any) -> Any:
    try:
        return await anext(events)
    except fanout.Missed:
        return "missed"


async def publish_by_broadcast(hub: Broadcast, text: str) -> None:
    try:
        await hub.publish("room", text)
    except Exception as error:
        logging.warning("not published: %s", error)


async def following_of_broadcast(events: Any) -> Any:
    return (await anext(events)).message


if __name__ == "__main__":
    serve(
        {
            "connector": lambda: app(
                lambda: fanout.Fanout(package.Connector(package.Settings())), publish_by_fanout, following_of_fanout
            ),
            "own": lambda: app(lambda: Broadcast(REDIS_URL), publish_by_broadcast, following_of_broadcast),
        }
    )
