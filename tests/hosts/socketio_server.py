"""python-socketio: `socketio_server.py PORT connector|own`; own is its `AsyncRedisManager`."""

import importlib
import os
import sys
from typing import Any

import socketio
import uvicorn

PACKAGE = os.environ["PACKAGE"]
package: Any = importlib.import_module(PACKAGE)
hosts_socketio: Any = importlib.import_module(f"{PACKAGE}.hosts.socketio")
losses: Any = importlib.import_module(f"{PACKAGE}.hosts.losses")


def through_connector() -> socketio.ASGIApp:
    connector = package.Connector(package.Settings())
    server = serve(hosts_socketio.ConnectorManager(connector))
    losses.watch(connector, "socketio", lambda: server.start_background_task(server.send, "missed", ignore_queue=True))
    return socketio.ASGIApp(server, on_shutdown=connector.close)


def through_redis() -> socketio.ASGIApp:
    return socketio.ASGIApp(serve(socketio.AsyncRedisManager(os.environ["REDIS_URL"])))


def serve(manager: Any) -> socketio.AsyncServer:
    server = socketio.AsyncServer(async_mode="asgi", client_manager=manager)

    async def connect(sid: str, environ: dict[str, Any]) -> None:
        await server.enter_room(sid, "room")

    async def message(sid: str, text: str) -> None:
        await server.send(text, to="room")

    server.on("connect", connect)
    server.on("message", message)
    return server


APPS = {"connector": through_connector, "own": through_redis}

if __name__ == "__main__":
    port, back_end = sys.argv[1:]
    uvicorn.run(APPS[back_end](), host="127.0.0.1", port=int(port), log_level="warning")
