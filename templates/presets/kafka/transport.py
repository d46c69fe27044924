"""How messages travel through Kafka: a topic is the first partition of one of Kafka's, read from its end on."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from aiokafka import errors  # type: ignore[import-untyped]

from .client import Client, batches
from .contract import ConnectError, Inbox, PublishRefusedError, SubscribeRefusedError, Target, Transport
from .settings import Settings

FORBIDDEN = (errors.TopicAuthorizationFailedError, errors.InvalidTopicError, errors.PolicyViolationError)
LOOK_AGAIN = 0.5
"""Seconds after which we ask again who leads a topic, while its leader cannot be reached."""

T = TypeVar("T")


class BrokerTransport(Transport[Settings]):
    """The connections of one client: the end of any is a loss, and so is a topic that moves.

    `inbox.topic_memory` has the next offset. The broker of the url says which broker leads a topic; other brokers are
    needed only for the topics that they lead.
    """

    keeps_messages = True

    def __init__(self, settings: Settings, inbox: Inbox) -> None:
        super().__init__(settings, inbox)
        self.max_frame_bytes = settings.max_batch_bytes - 128  # for Kafka's own bytes around it
        self._client = Client(inbox.lost)
        self._leaders: dict[str, Target] = {}  # this and the following by Kafka's name of a topic
        self._topics: dict[str, str] = {}
        self._offsets: dict[str, int] = {}
        self._resuming: dict[str, asyncio.Task[None]] = {}
        self._readers: dict[Target, asyncio.Task[None]] = {}
        self._progress = asyncio.Event()

    async def connect(self) -> None:
        await self._client.enter(self.settings)

    async def publish(self, topic: str, payload: bytes) -> None:
        name, how = self.settings.name_of(topic), self.settings.confirmation
        try:
            await self._ask(name, lambda leader: self._client.append(leader, name, payload, *how))
        except (*FORBIDDEN, errors.MessageSizeTooLargeError) as refusal:
            raise PublishRefusedError(str(refusal)) from refusal

    async def subscribe(self, topic: str) -> None:
        """Read a topic from its end, or from where we were: then nothing is missed if its leader comes back later."""
        name = self.settings.name_of(topic)
        if topic not in self.inbox.topic_memory:
            await self._begin(topic, name)
            return
        resuming = self._resuming[name] = asyncio.create_task(self._begin(topic, name))
        await asyncio.wait([resuming], timeout=self.settings.heartbeat / 4)
        if resuming.done():
            resuming.result()
        else:
            resuming.add_done_callback(self._resumed)

    async def unsubscribe(self, topic: str) -> None:
        name = self.settings.name_of(topic)
        self._offsets.pop(name, None)
        if resuming := self._resuming.pop(name, None):
            resuming.cancel()

    async def ping(self) -> None:
        """Return when each connection has answered, and what was published before has been received, if that is soon."""
        names = list(self._offsets)
        ends = await asyncio.gather(*(self._offset(name) for name in names))
        await self._client.ping()
        with suppress(TimeoutError):  # a node with much to catch up with is not silent
            async with asyncio.timeout(self.settings.heartbeat / 4):
                while any(self._offsets.get(name, end) < end for name, end in zip(names, ends, strict=True)):
                    await self._progress.wait()

    async def close(self) -> None:
        for task in (*self._readers.values(), *self._resuming.values()):
            task.cancel()
        await self._client.close()

    async def _begin(self, topic: str, name: str) -> None:
        """Begin to read a topic, from where we were if we have read it before."""
        try:
            at: int = self.inbox.topic_memory[topic] if topic in self.inbox.topic_memory else await self._offset(name)
            try:
                await self._ask(name, partial(self._client.check, topic=name, at=at))
            except errors.OffsetOutOfRangeError:  # the broker has kept less than we want
                at = min(max(at, await self._offset(name, latest=False)), await self._offset(name))
        except FORBIDDEN as refusal:
            raise SubscribeRefusedError(str(refusal)) from refusal
        self._topics[name], self._offsets[name], self.inbox.topic_memory[topic] = topic, at, at
        if (leader := self._leaders[name]) not in self._readers:
            self._readers[leader] = asyncio.create_task(self._read(leader))

    def _resumed(self, resuming: asyncio.Task[None]) -> None:
        if not resuming.cancelled() and (error := resuming.exception()):
            self.inbox.lost(error if isinstance(error, Exception) else RuntimeError(str(error)))

    async def _read(self, leader: Target) -> None:
        """Hand in what comes from one broker, as long as we are subscribed to topics that it leads."""
        try:
            while offsets := {name: at for name, at in self._offsets.items() if self._leaders.get(name) == leader}:
                for name, records in await self._client.read(leader, offsets, self.settings.fetch_wait):
                    await self._hand_in(name, offsets[name], records)
                self._progress.set()
                self._progress.clear()
        except Exception as error:
            self.inbox.lost(error)
        del self._readers[leader]

    async def _hand_in(self, name: str, at: int, records: bytes) -> None:
        for messages, after in batches(records):
            if self._offsets.get(name) != at:  # unsubscribed meanwhile
                return
            for position, payload in messages:
                if position >= at:
                    self.inbox.received(self._topics[name], payload)
            at = self._offsets[name] = self.inbox.topic_memory[self._topics[name]] = after
            await asyncio.sleep(0)

    async def _ask(self, name: str, ask: Callable[[Target], Awaitable[T]]) -> T:
        """Ask the broker that leads a topic, once there is one that can be reached; return what it answers."""
        pause = 0.02
        while True:
            try:
                leader = self._leaders.get(name) or await self._find(name)
                async with asyncio.timeout(LOOK_AGAIN):
                    await self._client.reach(leader)
                return await ask(leader)
            except ConnectError as refusal:  # the password has changed meanwhile
                self.inbox.lost(refusal)
                raise
            except ssl.SSLError:
                raise
            except (OSError, errors.KafkaError) as error:
                if isinstance(error, errors.KafkaError) and not error.invalid_metadata:
                    raise
                self._leaders.pop(name, None)
                if name in self._offsets:
                    self.inbox.lost(error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LOOK_AGAIN)

    async def _offset(self, name: str, latest: bool = True) -> int:
        return await self._ask(name, lambda leader: self._client.offset(leader, name, latest))

    async def _find(self, name: str) -> Target:
        """Return the broker that leads a topic; create the topic if it is not there."""
        try:
            leader = self._leaders[name] = await self._client.leader(name)
        except errors.UnknownTopicOrPartitionError:
            await self._client.make(name, self.settings.replication_factor, self.settings.configs)
            raise
        return leader
