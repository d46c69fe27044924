"""Starlette with websockets: `fanout_server.py PORT connector|own`; own is broadcaster, the usual answer there."""

import asyncio
import importlib
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from broadcaster import Broadcast
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

PACKAGE = os.environ["PACKAGE"]
package: Any = importlib.import_module(PACKAGE)
hosts_fanout: Any = importlib.import_module(f"{PACKAGE}.hosts.fanout")


@asynccontextmanager
async def with_fanout(app: Starlette) -> AsyncIterator[None]:
    async with hosts_fanout.Fanout(package.Connector(package.Settings())) as app.state.fanout:
        yield


async def talk_by_fanout(websocket: WebSocket) -> None:
    await websocket.accept()
    async with websocket.app.state.fanout.subscribe("room") as events:
        sending = asyncio.create_task(send_events(events, websocket))
        async for text in websocket.iter_text():
            websocket.app.state.fanout.publish_nowait("room", text)
        sending.cancel()


async def send_events(events: Any, websocket: WebSocket) -> None:
    while True:
        try:
            await websocket.send_text(await anext(events))
        except hosts_fanout.Missed:
            await websocket.send_text("missed")


@asynccontextmanager
async def with_broadcast(app: Starlette) -> AsyncIterator[None]:
    async with Broadcast(os.environ["REDIS_URL"]) as app.state.broadcast:
        yield


async def talk_by_broadcast(websocket: WebSocket) -> None:
    await websocket.accept()
    async with websocket.app.state.broadcast.subscribe("room") as events:
        sending = asyncio.create_task(send_broadcast(events, websocket))
        async for text in websocket.iter_text():
            try:
                await websocket.app.state.broadcast.publish("room", text)
            except Exception as error:
                logging.warning("not published: %s", error)
        sending.cancel()


async def send_broadcast(events: Any, websocket: WebSocket) -> None:
    async for event in events:
        await websocket.send_text(event.message)


PARTS = {"connector": (with_fanout, talk_by_fanout), "own": (with_broadcast, talk_by_broadcast)}

if __name__ == "__main__":
    port, back_end = sys.argv[1:]
    lifespan, talk = PARTS[back_end]
    app = Starlette(routes=[WebSocketRoute("/ws", talk)], lifespan=lifespan)
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")
