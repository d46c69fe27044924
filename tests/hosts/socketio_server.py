"""python-socketio: `socketio_server.py PORT connector|own`; own is its `AsyncRedisManager`."""

from typing import Any

import socketio
from serving import REDIS_URL, module, package, serve


def through_connector() -> socketio.ASGIApp:
    connector = package.Connector(package.Settings())
    server = server_with(module("hosts.socketio").ConnectorManager(connector))

    def missed() -> None:
        server.start_background_task(server.send, "missed", ignore_queue=True)

    module("hosts.losses").watch(connector, "socketio", missed)
    return socketio.ASGIApp(server, on_shutdown=connector.close)


def through_redis() -> socketio.ASGIApp:
    return socketio.ASGIApp(server_with(socketio.AsyncRedisManager(REDIS_URL)))


def server_with(manager: Any) -> socketio.AsyncServer:
    server = socketio.AsyncServer(async_mode="asgi", client_manager=manager)

    async def connect(sid: str, environ: dict[str, Any]) -> None:
        await server.enter_room(sid, "room")

    async def message(sid: str, text: str) -> None:
        await server.send(text, to="room")

    server.on("connect", connect)
    server.on("message", message)
    return server


if __name__ == "__main__":
    serve({"connector": through_connector, "own": through_redis})
