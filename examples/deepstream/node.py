"""A Python node in a cluster of deepstream servers: events both ways, and remote procedures for their clients.

Try it beside `node server.js`: `python node.py`, with the same Redis. Its clients get the event "greeting" once a second,
and may call the procedure "shout".
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import IntEnum
from inspect import isawaitable
from typing import Any

from deepstream_msg_redis import Connector, Settings, Topic, private_topic

CLUSTER = "CLUSTER"
STATE = "STATE_REGISTRY"

STATUS_SECONDS = 2.0
"""How often a node announces itself; after 6 s of silence, the others consider it gone."""

logger = logging.getLogger("node")

Message = dict[str, Any]
Listener = Callable[[Any], None]
Procedure = Callable[[Any], Any] | Callable[[Any], Awaitable[Any]]


class Code(IntEnum):
    """deepstream's topics, as its messages name them."""

    EVENT = 4
    RPC = 6
    CLUSTER = 9
    STATE = 11


class Registry(IntEnum):
    """What the nodes know about one another's clients."""

    EVENTS = 11
    PROCEDURES = 13


class Presence(IntEnum):
    """The actions of messages on the topic CLUSTER."""

    LEAVES = 1
    IS_HERE = 2


class State(IntEnum):
    """The actions of messages on the topic STATE_REGISTRY."""

    ADD = 2
    REMOVE = 3
    ASKED = 4
    ALL = 5


EMIT = 2


class Call(IntEnum):
    """The actions of messages on the topic RPC."""

    REQUEST = 2
    ACCEPT = 4
    RESPONSE = 5
    ERROR = 7
    NO_PROVIDER = 100


class Node:
    """One node of the cluster; `async with` joins and leaves."""

    def __init__(self, connector: Connector) -> None:
        self.connector = connector
        self._listeners: dict[str, list[Listener]] = {}
        self._procedures: dict[str, Procedure] = {}
        self._calls: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Node":
        await self.connector.connect()
        self.name = self.connector.node_name
        try:
            for topic in (STATE, Topic.EVENT, private_topic(self.name)):
                await self.connector.subscribe(topic, self._take)
        except BaseException:
            await self.connector.close()
            raise
        self._status = asyncio.create_task(self._tell_status())
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = (self._status, *self._calls)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            with suppress(self.connector.errors.ConnectorError):
                await self._send(CLUSTER, Code.CLUSTER, Presence.LEAVES, serverName=self.name)
        finally:
            await self.connector.close()

    async def emit(self, event: str, data: Any = None) -> None:
        """Emit an event to all clients of all servers that have subscribed to it."""
        await self._send(Topic.EVENT, Code.EVENT, EMIT, name=event, data=to_text(data))

    async def listen(self, event: str, listener: Listener) -> None:
        """Call `listener` with the data of each event of this name."""
        self._listeners.setdefault(event, []).append(listener)
        await self._tell_state(Registry.EVENTS, State.ADD, name=event)

    async def provide(self, name: str, procedure: Procedure) -> None:
        """Let clients of all servers call `procedure`, sync or async; they get what it returns."""
        self._procedures[name] = procedure
        await self._tell_state(Registry.PROCEDURES, State.ADD, name=name)

    async def unprovide(self, name: str) -> None:
        """Let nobody call it any more."""
        del self._procedures[name]
        await self._tell_state(Registry.PROCEDURES, State.REMOVE, name=name)

    # What it says.

    async def _send(self, where: str, code: Code, action: int, **fields: Any) -> None:
        message = {"topic": int(code), "action": int(action), **fields}
        await self.connector.publish(where, {"fromServer": self.name, "message": message})

    async def _tell_state(self, registry: Registry, action: State, to: str | None = None, **fields: Any) -> None:
        where = STATE if to is None else private_topic(to)
        await self._send(where, Code.STATE, action, registryTopic=int(registry), **fields)

    async def _tell_status(self) -> None:
        """Announce this node again and again; with this score it never leads, since it gives out no locks."""
        while True:
            with suppress(self.connector.errors.ConnectorError):
                await self._send(
                    CLUSTER, Code.CLUSTER, Presence.IS_HERE, serverName=self.name, leaderScore=0, role="deepstream"
                )
            await asyncio.sleep(STATUS_SECONDS)

    # What it hears.

    async def _take(self, envelope: Message) -> None:
        sender, message = envelope["fromServer"], envelope["message"]
        action = message["action"]
        match message["topic"]:
            case Code.STATE if action == State.ASKED:
                await self._tell_state(message["registryTopic"], State.ALL, to=sender, fullState=self._names(message))
            case Code.EVENT if action == EMIT:
                for listener in self._listeners.get(message["name"], ()):
                    try:
                        listener(data_of(message))
                    except Exception:
                        logger.exception("A listener did not take an event %r.", message["name"])
            case Code.RPC if action == Call.REQUEST:
                task = asyncio.create_task(self._answer(sender, message))
                self._calls.add(task)
                task.add_done_callback(self._calls.discard)

    def _names(self, question: Message) -> list[str]:
        """Return what this node has in the registry that is asked for."""
        match question["registryTopic"]:
            case Registry.EVENTS:
                return list(self._listeners)
            case Registry.PROCEDURES:
                return list(self._procedures)
        return []

    async def _answer(self, server: str, request: Message) -> None:
        async def reply(action: Call, **fields: Any) -> None:
            ids = {"name": request["name"], "correlationId": request["correlationId"]}
            await self._send(private_topic(server), Code.RPC, action, **ids, **fields)

        procedure = self._procedures.get(request["name"])
        if procedure is None:
            await reply(Call.NO_PROVIDER)
            return
        await reply(Call.ACCEPT)
        try:
            result = procedure(data_of(request))
            await reply(Call.RESPONSE, data=to_text(await result if isawaitable(result) else result))
        except Exception as error:
            await reply(Call.ERROR, isError=True, data=to_text(str(error)))


def to_text(data: Any) -> str:
    """Return data as it travels; raise `ValueError` for what JavaScript cannot read."""
    return json.dumps(data, allow_nan=False)


def data_of(message: Message) -> Any:
    """Return what a client has sent: as text if it speaks deepstream's binary protocol, else as it is."""
    data = message.get("data")
    return json.loads(data) if isinstance(data, str) else message.get("parsedData")


async def main() -> None:
    async with Node(Connector(Settings(node_name="python"))) as node:
        node.connector.on("error", print)
        await node.provide("shout", lambda text: f"{text.upper()}!")
        await node.listen("hello", lambda data: print("hello", data))
        number = 0
        while True:
            await node.emit("greeting", f"number {(number := number + 1)} from Python")
            await asyncio.sleep(1)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
