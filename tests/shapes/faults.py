"""The faults that transports have: each replaces some methods of a sound one, and names the clauses that catch it."""

import asyncio
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from names import SHAPES

Methods = dict[str, Any]

ALL = SHAPES
ASYNC = ("one", "each", "two")
SEVERAL = ("each", "two")


class Fault(NamedTuple):
    """What is wrong, in which shapes, and what catches it: clauses, each perhaps with a part of its test's name."""

    name: str
    caught_by: str
    shapes: tuple[str, ...]
    make: Callable[[Any], Methods]
    """Takes the class of a sound transport; returns what takes the place of its attributes."""


FAULTS: list[Fault] = []

_tasks: set["asyncio.Future[Any]"] = set()


def fault(
    name: str, caught_by: str, shapes: tuple[str, ...] = ALL
) -> Callable[[Callable[[Any], Methods]], Callable[[Any], Methods]]:
    """Put a fault into the catalogue."""

    def add(make: Callable[[Any], Methods]) -> Callable[[Any], Methods]:
        FAULTS.append(Fault(name, caught_by, shapes, make))
        return make

    return add


def of(shape: str) -> list[Fault]:
    """Return the faults of a shape."""
    return [each for each in FAULTS if shape in each.shapes]


def contract(base: Any) -> Any:
    """Return the `contract` of the package that a transport belongs to."""
    return sys.modules[f"{base.__module__.rpartition('.')[0]}.contract"]


def client(base: Any) -> Any:
    """Return the module of the client library of that package."""
    return sys.modules[f"{base.__module__.rpartition('.')[0]}.client"]


def aside(work: Any) -> None:
    """Do something in the background, and tell nobody how it ends."""
    task = asyncio.ensure_future(work)
    _tasks.add(task)
    task.add_done_callback(lambda task: _tasks.discard(task) or task.cancelled() or task.exception())


# Confirmations.


@fault("publish returns before the broker has confirmed", "R3/it_returns E3/rights")
def _(base: Any) -> Methods:
    async def publish(self: Any, topic: str, payload: bytes) -> None:
        aside(base.publish(self, topic, payload))

    return {"publish": publish}


@fault("subscribe returns before the broker has confirmed", "M3/it_returns E3/rights")
def _(base: Any) -> Methods:
    async def subscribe(self: Any, topic: str) -> None:
        aside(base.subscribe(self, topic))

    return {"subscribe": subscribe}


@fault("unsubscribe returns before the broker has confirmed", "M5 M4", ("one", "two", "threads"))
def _(base: Any) -> Methods:
    async def unsubscribe(self: Any, topic: str) -> None:
        aside(base.unsubscribe(self, topic))

    return {"unsubscribe": unsubscribe}


@fault("connect returns before the broker has let us in", "L3")
def _(base: Any) -> Methods:
    async def connect(self: Any) -> None:
        aside(base.connect(self))
        await asyncio.sleep(0.01)

    return {"connect": connect}


@fault("answers are taken for the newest request", "E3 M3 R3", ASYNC)
def _(base: Any) -> Methods:
    connection = client(base).Connection
    answered = connection.answered

    def crossed(self: Any, header: Methods, body: bytes) -> None:
        answered(self, {**header, "id": max(self.asked)}, body)

    connection.answered = crossed
    return {}


@fault("an answer that comes too late is taken for the next request's", "R3 E3", ASYNC)
def _(base: Any) -> Methods:
    connection = client(base).Connection
    answered = connection.answered

    def late(self: Any, header: Methods, body: bytes) -> None:
        for number in [number for number, answer in self.asked.items() if answer.done()]:
            del self.asked[number]
        if self.asked:
            answered(self, {**header, "id": min(self.asked)}, body)

    connection.answered = late
    return {}


# Refusals.


def refused_publish(base: Any, then: Callable[[Exception], Any]) -> Methods:
    """What becomes of a refused publish."""

    async def publish(self: Any, topic: str, payload: bytes) -> None:
        try:
            await base.publish(self, topic, payload)
        except contract(base).PublishRefusedError as refusal:
            await then(refusal)

    return {"publish": publish}


def refused_subscribe(base: Any, then: Callable[[Exception], Any]) -> Methods:
    """What becomes of a refused subscription."""

    async def subscribe(self: Any, topic: str) -> None:
        try:
            await base.subscribe(self, topic)
        except contract(base).SubscribeRefusedError as refusal:
            await then(refusal)

    return {"subscribe": subscribe}


async def swallow(refusal: Exception) -> None:
    """Say that all is well."""


async def disguise(refusal: Exception) -> None:
    """Raise it as an error like any other."""
    raise RuntimeError(f"operation failed: {refusal}")


async def delay(refusal: Exception) -> None:
    """Raise it when some seconds have gone by."""
    await asyncio.sleep(5)
    raise refusal


for _then, _words in ((swallow, "counts as done"), (disguise, "is an error like any other"), (delay, "is told late")):
    fault(f"a refused publish {_words}", "E3/rights")(lambda base, then=_then: refused_publish(base, then))
    fault(f"a refused subscription {_words}", "E3/rights")(lambda base, then=_then: refused_subscribe(base, then))


@fault("a wrong password counts as right", "L3/wrong_password")
def _(base: Any) -> Methods:
    async def connect(self: Any) -> None:
        with suppress(contract(base).ConnectError):
            await base.connect(self)

    return {"connect": connect}


@fault("a wrong password is an error like any other", "L3/wrong_password")
def _(base: Any) -> Methods:
    async def connect(self: Any) -> None:
        try:
            await base.connect(self)
        except contract(base).ConnectError as refusal:
            raise RuntimeError(str(refusal)) from None

    return {"connect": connect}


# Names.


@fault("long names are cut without a digest", "M6")
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


@fault("the broker matches the beginning of a name", "M6")
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


@fault("each message is published twice", "M1")
def _(base: Any) -> Methods:
    async def publish(self: Any, topic: str, payload: bytes) -> None:
        await base.publish(self, topic, payload)
        await base.publish(self, topic, payload)

    return {"publish": publish}


@fault("every tenth message is lost", "M1 M7")
def _(base: Any) -> Methods:
    def arrived(self: Any, name: str, body: bytes, position: int) -> None:
        if position % 10:
            base.arrived(self, name, body, position)

    return {"arrived": arrived}


@fault("every second message comes late under load", "M7")
def _(base: Any) -> Methods:
    def arrived(self: Any, name: str, body: bytes, position: int) -> None:
        pause = 0.01 * (position % 2)
        asyncio.get_running_loop().call_later(pause, base.arrived, self, name, body, position)

    return {"arrived": arrived}


@fault("small messages overtake a large one", "M7")
def _(base: Any) -> Methods:
    def arrived(self: Any, name: str, body: bytes, position: int) -> None:
        if len(body) < 100_000:
            base.arrived(self, name, body, position)
        else:
            asyncio.get_running_loop().call_later(0.05, base.arrived, self, name, body, position)

    return {"arrived": arrived}


@fault("a message is held for 250 ms before it is sent", "T1")
def _(base: Any) -> Methods:
    async def publish(self: Any, topic: str, payload: bytes) -> None:
        await asyncio.sleep(0.25)
        await base.publish(self, topic, payload)

    return {"publish": publish}


@fault("the last message before the subscription arrives", "M3")
def _(base: Any) -> Methods:
    return {"options": {"retained": True}}


@fault("all messages since the first connection arrive again", "R4 M3")
def _(base: Any) -> Methods:
    return {"options": {"since": 0}}


@fault("nodes share one queue", "M1")
def _(base: Any) -> Methods:
    return {"options": {"group": "nodes"}}


@fault("a subscription is deaf for 200 ms", "M3")
def _(base: Any) -> Methods:
    async def subscribe(self: Any, topic: str) -> None:
        self.__dict__.setdefault("since", {})[self.name(topic)] = time.monotonic() + 0.2
        await base.subscribe(self, topic)

    def arrived(self: Any, name: str, body: bytes, position: int) -> None:
        if time.monotonic() > self.since.get(name, 0):
            base.arrived(self, name, body, position)

    return {"subscribe": subscribe, "arrived": arrived}


@fault("received is called from another thread", "M1 L10 T2")
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


@fault("of what is fetched at once only the first is handed in", "M1 M7 R4", ("two",))
def _(base: Any) -> Methods:
    async def poll(self: Any) -> None:
        with suppress(Exception):
            while True:
                header, body = await self.incoming.ask("fetch")
                name, length, position = header["messages"][0]
                self.arrived(name, body[:length], position)

    return {"poll": poll}


@fault("it asks for messages four times a second", "T1", ("two",))
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


@fault("unsubscribe does nothing", "M4 M5")
def _(base: Any) -> Methods:
    async def unsubscribe(self: Any, topic: str) -> None:
        """Leave it as it is."""

    return {"unsubscribe": unsubscribe}


@fault("what a subscribe that failed has left is not undone", "M4")
def _(base: Any) -> Methods:
    async def subscribe(self: Any, topic: str) -> None:
        await base.subscribe(self, topic)
        self.__dict__.setdefault("done", set()).add(topic)

    async def unsubscribe(self: Any, topic: str) -> None:
        if topic in self.__dict__.get("done", ()):
            await base.unsubscribe(self, topic)

    return {"subscribe": subscribe, "unsubscribe": unsubscribe}


# Losses.


@fault("a lost connection is noticed by the ping alone", "R1/long_before")
def _(base: Any) -> Methods:
    return {"gone": lambda self, error: None}


@fault("a lost connection is told late", "R1/long_before")
def _(base: Any) -> Methods:
    return {"gone": lambda self, error: asyncio.get_running_loop().call_later(0.5, base.gone, self, error)}


@fault("a lost connection is told twice", "R1")
def _(base: Any) -> Methods:
    def gone(self: Any, error: Exception) -> None:
        base.gone(self, error)
        base.gone(self, error)

    return {"gone": gone}


@fault("an orderly close is told as a loss", "L4 R1")
def _(base: Any) -> Methods:
    async def close(self: Any) -> None:
        self.inbox.lost(ConnectionError("closed"))
        await base.close(self)

    return {"close": close}


@fault("the loss of the connection that takes messages is not told", "R1", ("each",))
def _(base: Any) -> Methods:
    def gone(self: Any, error: Exception) -> None:
        if not self.connection.is_open:
            base.gone(self, error)

    async def ping(self: Any) -> None:
        await self.connection.ask("ping")

    return {"gone": gone, "ping": ping}


@fault("the loss of the connection that takes messages is not told", "R1", ("two",))
def _(base: Any) -> Methods:
    async def poll(self: Any) -> None:
        with suppress(Exception):
            await base.poll(self)

    def gone(self: Any, error: Exception) -> None:
        if not self.connection.is_open:
            base.gone(self, error)

    async def ping(self: Any) -> None:
        await self.connection.ask("ping")

    return {"poll": poll, "gone": gone, "ping": ping}


@fault("the loss of the connection that publishes is not told", "R1", ("two",))
def _(base: Any) -> Methods:
    def gone(self: Any, error: Exception) -> None:
        if not self.incoming.is_open:
            base.gone(self, error)

    async def ping(self: Any) -> None:
        await self.incoming.ask("ping")

    return {"gone": gone, "ping": ping}


@fault("the loss of the connection that publishes is not told", "R1", ("each",))
def _(base: Any) -> Methods:
    def gone(self: Any, error: Exception) -> None:
        if self.connection.is_open or not self.subscriptions:
            base.gone(self, error)

    async def ping(self: Any) -> None:
        await asyncio.gather(*(each.ask("ping") for each in self.subscriptions.values() if each.is_let_in))

    return {"gone": gone, "ping": ping}


@fault("only the connection that publishes is pinged", "R1", SEVERAL)
def _(base: Any) -> Methods:
    async def ping(self: Any) -> None:
        await self.connection.ask("ping")

    return {"ping": ping}


@fault("only the connection that takes messages is pinged", "R1", ("two",))
def _(base: Any) -> Methods:
    async def ping(self: Any) -> None:
        await self.incoming.ask("ping")

    return {"ping": ping}


@fault("the ping makes no round trip", "R1/silence")
def _(base: Any) -> Methods:
    async def ping(self: Any) -> None:
        aside(base.ping(self))

    return {"ping": ping}


@fault("the ping blocks the event loop", "T2")
def _(base: Any) -> Methods:
    async def ping(self: Any) -> None:
        time.sleep(0.2)  # noqa: ASYNC251
        await base.ping(self)

    return {"ping": ping}


@fault("publish blocks the event loop", "T2")
def _(base: Any) -> Methods:
    async def publish(self: Any, topic: str, payload: bytes) -> None:
        time.sleep(0.06)  # noqa: ASYNC251
        await base.publish(self, topic, payload)

    return {"publish": publish}


@fault("the client connects again by itself", "L4 R1 R2", ("one",))
def _(base: Any) -> Methods:
    async def again(self: Any) -> None:
        zombie = client(base).Connection(self.arrived, lambda error: None)
        with suppress(Exception):
            await self.dial(zombie)
            for name in list(self.topics):
                await zombie.ask("subscribe", name=name)

    def gone(self: Any, error: Exception) -> None:
        base.gone(self, error)
        aside(again(self))

    return {"gone": gone}


# Closing.


@fault("close leaves a task", "L4")
def _(base: Any) -> Methods:
    async def close(self: Any) -> None:
        aside(asyncio.sleep(3600))
        await base.close(self)

    return {"close": close}


@fault("close leaves a thread", "L4")
def _(base: Any) -> Methods:
    async def close(self: Any) -> None:
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
        await base.close(self)

    return {"close": close}


@fault("close leaves the connection", "L4")
def _(base: Any) -> Methods:
    async def close(self: Any) -> None:
        """Forget it."""
        _kept.append(self)

    return {"close": close}


_kept: list[Any] = []


@fault("close leaves the connections of subscriptions", "L4", ("each",))
def _(base: Any) -> Methods:
    async def close(self: Any) -> None:
        _kept.append(self)
        self.connection.drop()

    return {"close": close}


@fault("close waits for a farewell that never comes on a silent connection", "L4")
def _(base: Any) -> Methods:
    async def close(self: Any) -> None:
        with suppress(AttributeError, ConnectionError, contract_refused(base)):
            await base.ping(self)
        await base.close(self)

    return {"close": close}


def contract_refused(base: Any) -> type[Exception]:
    """Return what the client library raises for a refusal."""
    refused: type[Exception] = client(base).Refused
    return refused


@fault("close raises", "L4")
def _(base: Any) -> Methods:
    async def close(self: Any) -> None:
        await base.close(self)
        raise RuntimeError("it is closed already")

    return {"close": close}


@fault("half an attempt to connect is not closed", "L3 L4")
def _(base: Any) -> Methods:
    async def connect(self: Any) -> None:
        await base.connect(self)
        self.is_up = True

    async def close(self: Any) -> None:
        _kept.append(self)
        if hasattr(self, "is_up"):
            await base.close(self)

    return {"connect": connect, "close": close}


# Settings and state.


@fault("the constructor opens a socket", "L1 L4")
def _(base: Any) -> Methods:
    def __init__(self: Any, settings: Any, inbox: Any) -> None:
        base.__init__(self, settings, inbox)
        _kept.append(socket.socket())

    return {"__init__": __init__}


@fault("user and password are taken from the url alone", "L3/wrong_password")
def _(base: Any) -> Methods:
    def __init__(self: Any, settings: Any, inbox: Any) -> None:
        base.__init__(self, settings.model_copy(update={"username": None, "password": None}), inbox)

    return {"__init__": __init__}


@fault("all transports share one table of topics", "M5 M4 M1")
def _(base: Any) -> Methods:
    return {"topics": {}}


# Threads.


@fault("received is called from the client's thread", "M1 L10 T2", ("threads",))
def _(base: Any) -> Methods:
    async def connect(self: Any) -> None:
        connecting = asyncio.ensure_future(base.connect(self))
        await asyncio.sleep(0)
        self.client.on_message = self.arrived
        await connecting

    return {"connect": connect}


@fault("answers are given in the client's thread", "R3 E1 T1", ("threads",))
def _(base: Any) -> Methods:
    def ask(self: Any, do: str, body: bytes = b"", **header: object) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        settle = sys.modules[base.__module__].settle
        self.client.ask(lambda said: settle(answer, said), do, body, **header)
        return answer

    return {"ask": ask}


@fault("publish waits for the answer in the event loop", "T2", ("threads",))
def _(base: Any) -> Methods:
    async def publish(self: Any, topic: str, payload: bytes) -> None:
        answered = threading.Event()
        self.client.ask(lambda said: answered.set(), "publish", payload, name=self.name(topic))
        answered.wait(10)

    return {"publish": publish}
