"""Faults in how a connection ends: losses, pings, closing."""

import asyncio
import threading
import time
from contextlib import suppress
from typing import Any

from faults import ASYNC, SEVERAL, Methods, aside, client, fault, framing, kept

# What makes no sense.


@fault("any length is believed", "T3/garbage_on_a_connection")
def _(base: Any) -> Methods:
    framing(base).LONGEST = 2**40
    return {}


@fault("what is no frame is an exception that nobody handles", "T2/garbage_on_a_connection", ASYNC)
def _(base: Any) -> Methods:
    connection = client(base).Connection
    connection.data_received = connection.heard
    return {}


# Losses.


@fault("a lost connection is noticed by the ping alone", "R1/long_before")
def _(base: Any) -> Methods:
    return {"gone": lambda self, error: None}


@fault("a lost connection is told late", "R1/told_at_once")
def _(base: Any) -> Methods:
    return {"gone": lambda self, error: asyncio.get_running_loop().call_later(0.5, base.gone, self, error)}


@fault("a reset connection is told late", "R1/told_at_once[reset]")
def _(base: Any) -> Methods:
    def gone(self: Any, error: Exception) -> None:
        late = 0.5 if isinstance(error, OSError) and error.errno else 0  # an orderly end has no number
        asyncio.get_running_loop().call_later(late, base.gone, self, error)

    return {"gone": gone}


@fault("the loss of the connection that takes messages is not told", "R1/noticed_alone", ("each",))
def _(base: Any) -> Methods:
    def gone(self: Any, error: Exception) -> None:
        if not self.connection.is_open:
            base.gone(self, error)

    async def ping(self: Any) -> None:
        await self.connection.ask("ping")

    return {"gone": gone, "ping": ping}


@fault("the loss of the connection that takes messages is not told", "R1/noticed_alone", ("two",))
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


@fault("the loss of the connection that publishes is not told", "R1/noticed_alone", ("two",))
def _(base: Any) -> Methods:
    def gone(self: Any, error: Exception) -> None:
        if not self.incoming.is_open:
            base.gone(self, error)

    async def ping(self: Any) -> None:
        await self.incoming.ask("ping")

    return {"gone": gone, "ping": ping}


@fault("the loss of the connection that publishes is not told", "R1/noticed_alone", ("each",))
def _(base: Any) -> Methods:
    def gone(self: Any, error: Exception) -> None:
        if self.connection.is_open or not self.subscriptions:
            base.gone(self, error)

    async def ping(self: Any) -> None:
        await asyncio.gather(*(each.ask("ping") for each in self.subscriptions.values() if each.is_let_in))

    return {"gone": gone, "ping": ping}


@fault("only the connection that publishes is pinged", "R1/noticed_alone", SEVERAL)
def _(base: Any) -> Methods:
    async def ping(self: Any) -> None:
        await self.connection.ask("ping")

    return {"ping": ping}


@fault("only the connection that takes messages is pinged", "R1/noticed_alone", ("two",))
def _(base: Any) -> Methods:
    async def ping(self: Any) -> None:
        await self.incoming.ask("ping")

    return {"ping": ping}


@fault("the ping makes no round trip", "R1/silence")
def _(base: Any) -> Methods:
    async def ping(self: Any) -> None:
        aside(base.ping(self))

    return {"ping": ping}


@fault("every third ping fails on a connection that works", "R5")
def _(base: Any) -> Methods:
    async def ping(self: Any) -> None:
        self.pings = self.__dict__.get("pings", 0) + 1
        if self.pings % 3 == 0:
            raise TimeoutError("no answer to the ping")
        await base.ping(self)

    return {"ping": ping}


@fault("the ping blocks the event loop", "T2/neither_a_ping")
def _(base: Any) -> Methods:
    async def ping(self: Any) -> None:
        time.sleep(0.2)  # noqa: ASYNC251
        await base.ping(self)

    return {"ping": ping}


@fault("publish blocks the event loop", "T2/keeps_the_event_loop")
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
        kept.append(self)

    return {"close": close}


@fault("close leaves the connections of subscriptions", "L4", ("each",))
def _(base: Any) -> Methods:
    async def close(self: Any) -> None:
        kept.append(self)
        self.connection.drop()

    return {"close": close}


@fault("close waits for a farewell that never comes on a silent connection", "L4")
def _(base: Any) -> Methods:
    async def close(self: Any) -> None:
        with suppress(AttributeError, ConnectionError, client(base).Refused):
            await base.ping(self)
        await base.close(self)

    return {"close": close}


@fault("close raises", "L4/without_an_error")
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
        kept.append(self)
        if hasattr(self, "is_up"):
            await base.close(self)

    return {"connect": connect, "close": close}
