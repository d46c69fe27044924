"""One node of a run: a real connector, what it says, and the events that it emits."""

import asyncio
import weakref
from collections.abc import Awaitable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .listening import Listening
from .model import NOTHING, Said
from .plan import lane_of
from .subject import SimTransport

if TYPE_CHECKING:
    from .world import World

OUTCOMES = {
    "PublishRefusedError": "refused",
    "PublishUnconfirmedError": "unconfirmed",
    "ClosedError": "closed",
    "NotReadyError": "early",
    "OutboxFullError": "full",
    "MessageTooLargeError": "large",
}
EXPECTED = {
    "ConnectionLostError",
    "ReconnectError",
    "ListenerError",
    "SlowListenerError",
    "MessagesLostError",
    "SubscribeError",
    "SubscribeRefusedError",
}
"""Errors that may come as events."""


class Node(Listening):
    """A connector and what it does; `world` is told of all that it hears."""

    def __init__(self, world: "World", name: str, settings: Any, how: str) -> None:
        super().__init__(world, name)
        self.settings = settings
        self.shards = settings.shards
        self.how = how
        self.control = getattr(settings, "control_topic", "CONTROL")
        self.transports: list[SimTransport] = []
        source = (lambda: settings) if self.how == "function" else settings
        self.connector: Any = world.subject.connector(source, world.broker, name, self.transports)
        self.crashed = False
        self.closing = False
        self.arrived = False
        self.open: dict[Said, None] = {}
        self._places: dict[str, tuple[str, str | None]] = {}
        """By the topic of the broker: a topic and a key that lead there."""
        self._state = "new"
        self._closed = 0
        self._reports = 0
        for event, handler in (("ready", self._on_ready), ("error", self._on_error), ("close", self._on_close)):
            self.connector.on(event, handler)

    @property
    def is_there(self) -> bool:
        return self.arrived and not (self.crashed or self.closing)

    def fault(self, clause: str, text: str) -> None:
        self.world.model.fault(clause, f"{self.name}: {text}", node=self.name)

    async def arrive(self) -> None:
        """Connect, again and again until it succeeds or the node leaves."""
        while not (self.closing or self.crashed):
            self.world.model.note("connects", self.name, self.how)
            if self.how == "start" and not self.arrived:
                self.connector.start()
                self.arrived = True
            try:
                began, blocked = self.world.loop.time(), self.world.loop.blocked
                await self.connector.connect()
                self.arrived = True
                return
            except Exception as error:
                if type(error).__name__ not in ("ConnectError", "ClosedError"):
                    self.fault("L3", f"connect() raised {error!r}")
                took = self.world.loop.time() - began - (self.world.loop.blocked - blocked)
                if took > self.world.shape.connect_timeout + 1.5:
                    self.fault("L3", f"connect() failed after {took:.2f} s")
            await asyncio.sleep(0.1)

    async def say(self, topic: str, count: int, gap: float, size: int, how: str, keys: tuple[str | None, ...]) -> None:
        """Publish so many messages, one way or the other."""
        for number in range(count):
            if not self.is_there:
                return
            key = keys[number % len(keys)]
            if how == "nowait":
                self.say_nowait(topic, key, size, number)
            else:
                said = self._open(topic, key)
                sending = self.connector.publish(topic, self._message(said, size, number), key=key)
                task = self.world.start(self._send(said, sending))
                if how == "await":
                    await asyncio.wait((task,))
                elif how == "cancel" and number % 3 == 0:
                    await asyncio.sleep(self.world.broker.chance.choice((0, 0.001)))
                    task.cancel()
            if gap:
                await asyncio.sleep(gap)

    def say_nowait(self, topic: str, key: str | None, size: int, index: int) -> None:
        said = self._open(topic, key)
        try:
            self.connector.publish_nowait(
                topic, self._message(said, size, index), lambda error: self._settle(said, error), key=key
            )
        except Exception as error:
            self._settle(said, error)

    async def last_words(self) -> None:
        """Say one more thing wherever something was said, so that every gap can be seen."""
        places = [self._places[lane] for sender, lane in self.world.model.said if sender == self.name]
        await asyncio.gather(*(self.say(topic, 1, 0, 0, "await", (key,)) for topic, key in places))

    def _open(self, topic: str, key: str | None) -> Said:
        lane = lane_of(topic, key, self.shards)
        self._places[lane] = topic, key
        said = self.world.model.say(self.name, lane)
        self.open[said] = None
        return said

    def _message(self, said: Said, size: int, number: int) -> dict[str, Any]:
        return {"m": said.mark, "n": number, "fill": "x" * size}

    async def _send(self, said: Said, sending: Awaitable[None]) -> None:
        try:
            await sending
        except asyncio.CancelledError:
            self.open.pop(said, None)
            self.world.model.settle(said, "unknown")
        except Exception as error:
            self._settle(said, error)
        else:
            self._settle(said, None)

    def _settle(self, said: Said, error: Exception | None) -> None:
        self.open.pop(said, None)
        outcome = OUTCOMES.get(type(error).__name__, "") if error else "ok"
        if not outcome:
            self.fault("E1", f"publish of {said.mark} ended in {error!r}")
            outcome = "unknown"
        if outcome == "large" and said.called < self.world.loop.time():
            outcome = "unconfirmed"  # it may have been sent before the broker took less
        self.world.model.settle(said, outcome)

    def _on_ready(self) -> None:
        self._happens("ready")
        if self._state == "ready" or not self.connector.is_ready:
            self.fault("L2", f"`ready` while {self._state}, is_ready is {self.connector.is_ready}")
        self._state = "ready"

    def _on_error(self, error: Exception) -> None:
        kind = type(error).__name__
        self._happens(kind)
        model = self.world.model
        if kind == "ConnectionLostError":
            if self._state != "ready" or self.connector.is_ready:
                self.fault("R1", f"ConnectionLostError while {self._state}, is_ready is {self.connector.is_ready}")
            self._state = "lost"
            model.away.setdefault(self.name, []).append(self.world.loop.time())
            lines = [each.line for each in self.transports if each.line]
            if lines and not lines[-1].troubled:
                self.fault("R5", f"a false alarm: {error}")
        elif kind == "MessagesLostError":
            self._reports += error.count  # type: ignore[attr-defined]
            model.reports(self.name, error.node, error.topic, error.count)  # type: ignore[attr-defined]
        elif kind == "SlowListenerError":
            model.slowed(self.name, getattr(error, "topic", ""), error.count)  # type: ignore[attr-defined]
        elif kind == "ShardsDifferError":
            self._differs(error)
        elif kind not in EXPECTED:
            self.fault("E1", f"an `error` event: {error!r}")

    def _differs(self, error: Any) -> None:
        model = self.world.model
        sender = model.name_of(error.node)
        model.differing[self.name, sender] = model.differing.get((self.name, sender), 0) + 1
        other = self.world.nodes.get(sender)
        is_right = other and (error.mine, error.theirs) == (self.shards, other.shards) and other.shards != self.shards
        if not is_right or model.differing[self.name, sender] > 1 or "--" in error.topic:
            self.fault("E2", f"a wrong or second word on the shards of {sender}: {error!r}")

    def _on_close(self) -> None:
        self._happens("close")
        self._closed += 1
        if self._closed > 1:
            self.fault("L4", "`close` was emitted twice")

    def _happens(self, event: str) -> None:
        self.world.model.note("event", self.name, event)
        if self._closed and event != "close":
            self.fault("L4", f"{event} after `close`")

    def check_counters(self) -> None:
        """Compare the connector's own counters with what was seen."""
        stats = self.connector.stats()
        if stats["pending"]:
            self.fault("L7", f"{stats['pending']} messages are pending though all is quiet")
        if stats["lost"] != self._reports:
            self.fault("R4", f"stats() counts {stats['lost']} lost, {self._reports} were reported")
        mine = [said for (sender, _), line in self.world.model.said.items() if sender == self.name for said in line]
        sure = sum(said.outcome == "ok" for said in mine)
        most = sum(said.outcome not in NOTHING for said in mine)
        if not sure <= stats["published"] <= most:
            self.fault("R4", f"stats() counts {stats['published']} published, {sure} to {most} were accepted")

    async def go(self, cancel: float) -> None:
        """Close the connector while the others go on."""
        self.closing = True
        self.world.model.note("closes", self.name)
        with suppress(TimeoutError):
            async with asyncio.timeout(cancel or None):
                await self.connector.close()
        if not cancel:
            self._stay_closed()

    async def close(self) -> None:
        """Close for good, and check what is left."""
        self.closing = True
        began = self.world.loop.time()
        await self.connector.close()
        took = self.world.loop.time() - began
        if took > self.world.shape.publish_timeout + self.world.shape.heartbeat + 4:
            self.fault("L4", f"close() took {took:.1f} s")
        self._stay_closed()

    def _stay_closed(self) -> None:
        if self.connector.is_ready or self._closed != 1:
            self.fault("L4", f"after close(): is_ready {self.connector.is_ready}, `close` emitted {self._closed} times")
        for ear in self.ears.values():
            ear.left = ear.left or self.world.loop.time()
        still = [said for said in self.open if not self.crashed]
        if still:
            self.world.model.note("still open", self.name, len(still))

    def remains(self) -> list["weakref.ref[Any]"]:
        """Let go of the connector, and return what tells whether it is still there."""
        left = [weakref.ref(self.connector), *(weakref.ref(each) for each in self.transports)]
        del self.connector, self.transports
        return left
