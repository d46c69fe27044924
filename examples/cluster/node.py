"""One node of the cluster: `node.py NUMBER FIRST_PORT NODES`. cluster.py starts three of them."""

import asyncio
import os
import signal
import sys
from collections import deque
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from deepstream_msg_redis import Connector, Settings
from deepstream_msg_redis.hosts.fanout import Fanout, Missed
from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

NUMBER, FIRST_PORT, NODES = map(int, sys.argv[1:])
NAME = f"node {NUMBER + 1}"
MOST = 1000  # messages that a node keeps, and events that may wait for a page
Event = dict[str, Any]


class Node:
    """What this node knows: the records, who is where, and what it has heard; and the pages to which it shows that."""

    def __init__(self, fanout: Fanout, connector: Connector) -> None:
        self.fanout, self.connector = fanout, connector
        self.pages: dict[asyncio.Queue[Event], str] = {}
        self.records: dict[str, Event] = {}
        self.people: dict[str, Event] = {}
        self.heard: deque[Event] = deque(maxlen=MOST)
        self.said, self.talks = 0, False

    def state(self) -> Event:
        events = [*self.records.values(), *self.people.values(), *self.heard]
        return {"kind": "state", "number": NUMBER, "first_port": FIRST_PORT, "nodes": NODES, "events": events}

    def publish(self, kind: str, **content: Any) -> None:
        self.fanout.publish_nowait("cluster", {"kind": kind, "node": NAME, **content})

    def say(self, text: str) -> None:
        self.said += 1
        self.publish("said", number=self.said, text=text)

    def write(self, name: str, value: str) -> None:
        version = self.records.get(name, {"version": 0})["version"] + 1
        self.take({"kind": "record", "node": NAME, "name": name, "value": value, "version": version})
        self.fanout.publish_nowait("cluster", self.records[name])

    async def listen(self) -> None:
        """Take what all nodes publish. A node that comes late, or has missed something, asks for the records."""
        async with self.fanout.subscribe("cluster") as events:
            self.publish("ask")
            while True:
                try:
                    self.take(await anext(events))
                except Missed:
                    self.publish("ask")

    def take(self, event: Event) -> None:
        match event["kind"]:
            case "record":
                known = self.records.get(event["name"], {"version": 0, "node": ""})
                if (event["version"], event["node"]) <= (known["version"], known["node"]):
                    return
                self.records[event["name"]] = event
            case "people":
                self.people[event["node"]] = event
            case "said":
                self.heard.append(event)
            case "talk":
                self.talks = event["on"]
            case "ask" if event["node"] != NAME:
                for record in self.records.values():
                    self.fanout.publish_nowait("cluster", record)
        self.show(event)

    def show(self, event: Event) -> None:
        for page in self.pages:
            is_slow = page.full()
            while is_slow and not page.empty():
                page.get_nowait()
            page.put_nowait(self.state() if is_slow else event)  # all that waited is in the state, too

    async def beat(self) -> None:
        """Announce who is here once a second, and if asked to, that we talk, ten times a second."""
        for turn in range(sys.maxsize):
            if turn % 10 == 0:
                self.publish("people", people=sorted(filter(None, self.pages.values())))
                self.show({"kind": "stats", "ready": self.connector.is_ready, **self.connector.stats()})
            if self.talks:
                self.say("tick")
            await asyncio.sleep(0.1)


async def serve(websocket: WebSocket) -> None:
    node: Node = websocket.app.state.node
    if urlsplit(websocket.headers.get("origin", "")).hostname not in ("127.0.0.1", "localhost"):
        return await websocket.close()
    await websocket.accept()
    page: asyncio.Queue[Event] = asyncio.Queue(MOST)
    page.put_nowait(node.state())
    node.pages[page] = websocket.query_params.get("person", "")

    async def send() -> None:
        while True:
            await websocket.send_json(await page.get())

    sending = asyncio.create_task(send())
    try:
        async for command in websocket.iter_json():
            match command:
                case {"say": str(text)}:
                    node.say(text)
                case {"write": [str(name), str(value)]}:
                    node.write(name, value)
                case {"talk": bool(on)}:
                    node.publish("talk", on=on)
                case {"kill": "broker"} if node.connector.is_ready:
                    os.kill(os.getppid(), signal.SIGUSR1)  # cluster.py kills the broker, if it runs
    finally:
        del node.pages[page]
        sending.cancel()


@asynccontextmanager
async def lifespan(app: Starlette) -> Any:
    connector = Connector(Settings(node_name=NAME))
    async with Fanout(connector) as fanout:
        node = app.state.node = Node(fanout, connector)
        tasks = [asyncio.create_task(each) for each in (node.listen(), node.beat())]
        yield
        for task in tasks:
            task.cancel()


if __name__ == "__main__":
    page = Route("/", lambda request: FileResponse(Path(__file__).with_name("index.html")))
    app = Starlette(routes=[page, WebSocketRoute("/ws", serve)], lifespan=lifespan)
    uvicorn.run(app, host="127.0.0.1", port=FIRST_PORT + NUMBER, log_level="warning", ws_max_size=65_536)
