"""The listeners of a node: those that are called and those that are pulled, quick, slow and raising."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .model import Ear
from .plan import lanes_of

if TYPE_CHECKING:
    from .world import World

PAUSE = 0.05
"""Seconds that a slow listener takes for a message."""

SUBSCRIBE_ERRORS = ("SubscribeRefusedError", "SubscribeUnconfirmedError", "ClosedError", "NotReadyError")
UNSUBSCRIBE_ERRORS = ("UnsubscribeError", "ClosedError", "NotReadyError")
"""Errors that the calls may end in."""


class Listening:
    """What a node does as a receiver."""

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.connector: Any
        self.shards: int
        self.patient = True
        """Whether slow listeners are slow; not any more after the healing."""
        self.ears: dict[str, Ear] = {}
        self._listeners: dict[str, Any] = {}

    @property
    def is_there(self) -> bool:
        """Whether the node takes part."""
        raise NotImplementedError

    def say_nowait(self, topic: str, key: str | None, size: int, index: int) -> None:
        """Publish one message."""
        raise NotImplementedError

    async def listen(self, topic: str, name: str, kind: str, cancel: float, key: str | None) -> None:
        """Subscribe a new listener; the caller may be cancelled after `cancel` seconds."""
        loop = self.world.loop
        ear = Ear(name, self.name, topic, key, lanes_of(topic, key, self.shards), loop.time())
        self.ears[name] = ear
        self.world.model.ears.append(ear)
        self.world.model.note("subscribes", name, topic, kind, key)
        if kind == "pulled":
            self._listeners[name] = self.world.start(self._pull(ear))
            return
        self._listeners[name] = listener = self._listener(ear, kind)
        try:
            async with asyncio.timeout(cancel or None):
                await self.connector.subscribe(topic, listener, key=key)
            if ear.left is None:
                ear.live = loop.time()
                self.world.model.note("listens", name)
        except Exception as error:
            ear.gone = ear.left = loop.time()
            self._failed("subscribe", ear, cancel, error, SUBSCRIBE_ERRORS)

    async def _pull(self, ear: Ear) -> None:
        try:
            async with self.connector.messages(ear.topic, key=ear.key) as messages:
                ear.live = self.world.loop.time()
                self.world.model.note("listens", ear.name)
                async for message in messages:
                    self._hear(ear, message)
        except self.world.subject.errors.ConnectorError as error:
            self.world.model.note("does not listen", ear.name, type(error).__name__)
        finally:
            ear.left = ear.left or self.world.loop.time()
            ear.gone = self.world.loop.time()

    def _listener(self, ear: Ear, kind: str) -> Callable[[Any], Any]:
        def plain(message: Any) -> None:
            self._hear(ear, message)

        async def slow(message: Any) -> None:
            self._hear(ear, message)
            await asyncio.sleep(PAUSE if kind == "slow" and self.patient else 0)

        def raises(message: Any) -> None:
            self._hear(ear, message)
            if sum(map(len, ear.got.values())) % 5 == 0:
                ear.raised += 1
                raise ValueError("as told")

        def answers(message: Any) -> None:
            self._hear(ear, message)
            if message["n"] in (4, 9, 19) and self.patient and self.is_there:
                self.say_nowait(ear.topic, ear.key, 0, index=-1)

        return {"slow": slow, "async": slow, "raises": raises, "answers": answers}.get(kind, plain)

    def _hear(self, ear: Ear, message: Any) -> None:
        sender, topic, index = message["m"].strip("<>").split("|")
        self.world.model.delivered(ear, sender, topic, int(index))

    async def leave(self, name: str, cancel: float) -> None:
        """Unsubscribe a listener."""
        ear, loop = self.ears.get(name), self.world.loop
        if ear is None or ear.left is not None:
            return
        ear.left = loop.time()
        self.world.model.note("unsubscribes", name)
        listener = self._listeners[name]
        if isinstance(listener, asyncio.Task):
            listener.cancel()
            await asyncio.wait((listener,))
            return
        try:
            async with asyncio.timeout(cancel or None):
                await self.connector.unsubscribe(ear.topic, listener, key=ear.key)
        except Exception as error:
            self._failed("unsubscribe", ear, cancel, error, UNSUBSCRIBE_ERRORS)
        ear.gone = loop.time()

    def _failed(self, call: str, ear: Ear, cancel: float, error: Exception, expected: tuple[str, ...]) -> None:
        kind = type(error).__name__
        self.world.model.note(f"could not {call}", ear.name, kind)
        was_refused = any((self.name, lane) in self.world.model.refusals for lane in ear.lanes)
        if kind == "SubscribeRefusedError" and not was_refused:
            self.world.model.fault("E1", f"{ear.name}: the broker refused nothing: {error!r}", node=self.name)
        if kind not in expected and not (cancel and kind == "TimeoutError"):
            self.world.model.fault("E1", f"{ear.name}: {call}() raised {error!r}", node=self.name)
