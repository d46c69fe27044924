"""Faults in what a transport answers: confirmations, refusals, a login; and in where it keeps what it knows."""

import asyncio
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from faults import ASYNC, Methods, aside, client, contract, fault, kept

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


@fault("unsubscribe returns before it has ended the subscription", "M4/broker_delivers_no_more")
def _(base: Any) -> Methods:
    async def later(self: Any, topic: str) -> None:
        await asyncio.sleep(0.1)
        await base.unsubscribe(self, topic)

    async def unsubscribe(self: Any, topic: str) -> None:
        aside(later(self, topic))

    return {"unsubscribe": unsubscribe}


@fault("connect returns before the broker has let us in", "L3")
def _(base: Any) -> Methods:
    async def connect(self: Any) -> None:
        aside(base.connect(self))
        await asyncio.sleep(0.01)

    return {"connect": connect}


@fault("answers are taken for the newest request", "E3/own_answer", ASYNC)
def _(base: Any) -> Methods:
    connection = client(base).Connection
    answered = connection.answered

    def crossed(self: Any, header: Methods, body: bytes) -> None:
        answered(self, {**header, "id": max(self.asked)}, body)

    connection.answered = crossed
    return {}


@fault("an answer that comes too late is taken for the next request's", "R3/too_late", ("one", "each"))
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


def becomes(then: Callable[[Exception], Any], refused: Callable[..., Methods]) -> Callable[[Any], Methods]:
    """Return what makes the fault."""
    return lambda base: refused(base, then)


for _then, _words in ((swallow, "counts as done"), (disguise, "is an error like any other"), (delay, "is told late")):
    fault(f"a refused publish {_words}", "E3/rights")(becomes(_then, refused_publish))
    fault(f"a refused subscription {_words}", "E3/rights")(becomes(_then, refused_subscribe))


@fault("a wrong password counts as right", "L3/wrong_password", ("one", "two", "threads"))
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


@fault("a refusal ends the connection", "E3/rights")
def _(base: Any) -> Methods:
    async def publish(self: Any, topic: str, payload: bytes) -> None:
        try:
            await base.publish(self, topic, payload)
        except contract(base).PublishRefusedError as refusal:
            self.gone(refusal)
            raise

    return {"publish": publish}


# Settings and state.


@fault("the constructor opens a socket", "L4/anything_open")
def _(base: Any) -> Methods:
    def __init__(self: Any, settings: Any, inbox: Any) -> None:
        base.__init__(self, settings, inbox)
        kept.append(socket.socket())

    return {"__init__": __init__}


@fault("user and password are taken from the url alone", "L3/wrong_password")
def _(base: Any) -> Methods:
    def __init__(self: Any, settings: Any, inbox: Any) -> None:
        base.__init__(self, settings.model_copy(update={"username": None, "password": None}), inbox)

    return {"__init__": __init__}


@fault("all transports share one table of topics", "M5/strangers")
def _(base: Any) -> Methods:
    return {"topics": {}}


# Threads.


@fault("received is called from the client's thread", "M1/thread_of_the_loop", ("threads",))
def _(base: Any) -> Methods:
    async def connect(self: Any) -> None:
        connecting = asyncio.ensure_future(base.connect(self))
        await asyncio.sleep(0)
        self.client.on_message = self.arrived
        await connecting

    return {"connect": connect}


@fault("answers are given in the client's thread", "T1/lone_payload", ("threads",))
def _(base: Any) -> Methods:
    def ask(self: Any, do: str, body: bytes = b"", **header: object) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        settle = sys.modules[base.__module__].settle
        self.client.ask(lambda said: settle(answer, said), do, body, **header)
        return answer

    return {"ask": ask}


@fault("publish waits for the answer in the event loop", "T2/does_not_answer", ("threads",))
def _(base: Any) -> Methods:
    async def publish(self: Any, topic: str, payload: bytes) -> None:
        answered = threading.Event()
        self.client.ask(lambda said: answered.set(), "publish", payload, name=self.name(topic))
        answered.wait(10)

    return {"publish": publish}
