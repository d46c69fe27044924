"""Faults in what arrives: names, payloads, order, where a subscription begins and ends."""

import asyncio
import re
import threading
import time
from contextlib import suppress
from typing import Any

from faults import Methods, client, contract, fault

# Names.


@fault("long names are cut without a digest", "M6/long_topics")
def _(base: Any) -> Methods:
    return {"name": lambda self, topic: contract(base).escape(topic, mark="_")[:64]}


@fault("names lose what the broker does not take", "M6")
def _(base: Any) -> Methods:
    def name(self: Any, topic: str) -> str:
        return re.sub("[^A-Za-z0-9._-]", "_", contract(base).escape(topic, "_", 64) if len(topic) > 64 else topic)

    return {"name": name}


@fault("a topic with capital letters is published on in small ones", "M6")
def _(base: Any) -> Methods:
    return {"name": lambda self, topic: contract(base).escape(topic.lower(), mark="_", longest=64)}


@fault("a name ends at a zero", "M6")
def _(base: Any) -> Methods:
    return {"name": lambda self, topic: base.name(self, topic.partition("\0")[0] or topic)}


@fault("a name loses its carriage returns", "M6")
def _(base: Any) -> Methods:
    return {"name": lambda self, topic: base.name(self, topic.replace("\r", ""))}


@fault("the broker matches the beginning of a name", "M6/begin_like")
def _(base: Any) -> Methods:
    def arrived(self: Any, name: str, body: bytes, position: int) -> None:
        for known in self.topics:
            if name.startswith(known):
                base.arrived(self, known, body, position)

    return {"options": {"prefix": True}, "arrived": arrived}


# What arrives.


@fault("a payload is cut at 64 kB", "S5/large")
def _(base: Any) -> Methods:
    return {"publish": lambda self, topic, payload: base.publish(self, topic, payload[:65536])}


@fault("payloads are read as text", "S1")
def _(base: Any) -> Methods:
    def arrived(self: Any, name: str, body: bytes, position: int) -> None:
        base.arrived(self, name, body.decode(errors="replace").encode(), position)

    return {"arrived": arrived}


@fault("each message is published twice", "M1/every_payload")
def _(base: Any) -> Methods:
    async def publish(self: Any, topic: str, payload: bytes) -> None:
        await base.publish(self, topic, payload)
        await base.publish(self, topic, payload)

    return {"publish": publish}


@fault("every tenth message is lost", "M1/every_payload")
def _(base: Any) -> Methods:
    def arrived(self: Any, name: str, body: bytes, position: int) -> None:
        if position % 10:
            base.arrived(self, name, body, position)

    return {"arrived": arrived}


@fault("every second message comes late under load", "M7/every_payload")
def _(base: Any) -> Methods:
    def arrived(self: Any, name: str, body: bytes, position: int) -> None:
        pause = 0.01 * (position % 2)
        asyncio.get_running_loop().call_later(pause, base.arrived, self, name, body, position)

    return {"arrived": arrived}


@fault("what comes at once is handed in backwards", "M7/all_at_once")
def _(base: Any) -> Methods:
    def arrived(self: Any, *what: Any) -> None:
        burst = self.__dict__.setdefault("burst", [])
        burst.append(what)
        if len(burst) == 1:
            asyncio.get_running_loop().call_soon(hand_in, self, burst)

    def hand_in(self: Any, burst: list[Any]) -> None:
        for what in reversed(burst) if len(burst) > 3 else list(burst):
            base.arrived(self, *what)
        burst.clear()

    return {"arrived": arrived}


@fault("small messages overtake a large one", "M7/every_payload")
def _(base: Any) -> Methods:
    def arrived(self: Any, name: str, body: bytes, position: int) -> None:
        if len(body) < 100_000:
            base.arrived(self, name, body, position)
        else:
            asyncio.get_running_loop().call_later(0.05, base.arrived, self, name, body, position)

    return {"arrived": arrived}


@fault("a message is held for 250 ms before it is sent", "T1/lone_payload")
def _(base: Any) -> Methods:
    async def publish(self: Any, topic: str, payload: bytes) -> None:
        await asyncio.sleep(0.25)
        await base.publish(self, topic, payload)

    return {"publish": publish}


@fault("the last message before the subscription arrives", "M3")
def _(base: Any) -> Methods:
    return {"options": {"retained": True}}


@fault("all messages since the first connection arrive again", "R2/long_ago R4")
def _(base: Any) -> Methods:
    return {"options": {"since": 0}}


@fault("nodes share one queue", "M1/every_payload")
def _(base: Any) -> Methods:
    return {"options": {"group": "nodes"}}


@fault("a subscription is deaf for 200 ms", "M3/right_after")
def _(base: Any) -> Methods:
    async def subscribe(self: Any, topic: str) -> None:
        self.__dict__.setdefault("since", {})[self.name(topic)] = time.monotonic() + 0.2
        await base.subscribe(self, topic)

    def arrived(self: Any, name: str, body: bytes, position: int) -> None:
        if time.monotonic() > self.since.get(name, 0):
            base.arrived(self, name, body, position)

    return {"subscribe": subscribe, "arrived": arrived}


@fault("received is called from another thread", "M1/thread_of_the_loop")
def _(base: Any) -> Methods:
    def arrived(self: Any, name: str, body: bytes, position: int) -> None:
        thread = threading.Thread(target=base.arrived, args=(self, name, body, position))
        thread.start()
        thread.join()

    return {"arrived": arrived}


@fault("the limit of the broker is not told", "S5/over_the_limit")
def _(base: Any) -> Methods:
    async def connect(self: Any) -> None:
        await base.connect(self)
        self.max_frame_bytes = None

    return {"connect": connect}


@fault("too small a limit is told", "S5/smaller_limit")
def _(base: Any) -> Methods:
    async def connect(self: Any) -> None:
        await base.connect(self)
        self.max_frame_bytes = 65536

    return {"connect": connect}


@fault("of what is fetched at once only the first is handed in", "M1 M7 R4", ("two",))
def _(base: Any) -> Methods:
    async def poll(self: Any) -> None:
        with suppress(Exception):
            while True:
                header, body = await self.incoming.ask("fetch")
                name, length, position = header["messages"][0]
                self.arrived(name, body[:length], position)

    return {"poll": poll}


@fault("it asks for messages four times a second", "T1/lone_payload", ("two",))
def _(base: Any) -> Methods:
    connection = client(base).Connection
    ask = connection.ask

    def slow(self: Any, do: str, body: bytes = b"", **header: object) -> Any:
        async def later() -> Any:
            await asyncio.sleep(0.25)
            return await ask(self, do, body, **header)

        return later() if do == "fetch" else ask(self, do, body, **header)

    connection.ask = slow
    return {}


# Unsubscribing.


@fault("unsubscribe does nothing", "M4/broker_delivers_no_more")
def _(base: Any) -> Methods:
    async def unsubscribe(self: Any, topic: str) -> None:
        """Leave it as it is."""

    return {"unsubscribe": unsubscribe}


@fault("what a subscribe that failed has left is not undone", "M4/timed_out")
def _(base: Any) -> Methods:
    async def subscribe(self: Any, topic: str) -> None:
        await base.subscribe(self, topic)
        self.__dict__.setdefault("done", set()).add(topic)

    async def unsubscribe(self: Any, topic: str) -> None:
        if topic in self.__dict__.get("done", ()):
            await base.unsubscribe(self, topic)

    return {"subscribe": subscribe, "unsubscribe": unsubscribe}
