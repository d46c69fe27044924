"""How messages travel through Kafka: a topic is the first partition of one of Kafka's, read from its end on."""

import asyncio
from contextlib import closing, suppress
from typing import Any

from aiokafka import errors  # type: ignore[import-untyped]
from aiokafka.client import AIOKafkaClient, CloseReason, ConnectionGroup, create_conn  # type: ignore[import-untyped]
from aiokafka.protocol import admin, fetch, metadata, offset, produce  # type: ignore[import-untyped]
from aiokafka.record import default_records, memory_records  # type: ignore[import-untyped]

from .contract import ConnectError, Inbox, PublishRefusedError, SubscribeRefusedError, Transport
from .settings import Settings, log_no_password

READING, MAKING = ConnectionGroup.COORDINATION, "making"  # connections of their own, since these keep others waiting
NONE, UNKNOWN, EXISTS = 0, errors.UnknownTopicOrPartitionError.errno, errors.TopicAlreadyExistsError.errno
FORBIDDEN = (errors.TopicAuthorizationFailedError, errors.InvalidTopicError, errors.PolicyViolationError)
BROKERS = metadata.MetadataRequest([])


class BrokerTransport(Transport[Settings]):
    """aiokafka's client, without its consumer and producer, which try again, reconnect and start anew unseen.

    The end of any connection is a loss, and so is a topic that moves. `inbox.topic_memory` has the next offset.
    """

    keeps_messages = True

    def __init__(self, settings: Settings, inbox: Inbox) -> None:
        super().__init__(settings, inbox)
        self.max_frame_bytes = settings.max_batch_bytes - 128  # for what Kafka puts around it
        self._client: Any = None
        self._leaders: dict[str, int] = {}  # this and what follows by name: what Kafka calls a topic
        self._topics: dict[str, str] = {}
        self._offsets: dict[str, int] = {}
        self._readers: dict[int, asyncio.Task[None]] = {}
        self._progress = asyncio.Event()

    async def connect(self) -> None:
        log_no_password()
        [target, *_], entry = self.settings.targets(), self.settings.entry
        self._client = AIOKafkaClient(**entry, connections_max_idle_ms=120_000)  # before a broker gives them up
        self._client._on_connection_closed = self._closed
        try:
            with closing(await create_conn(target.host, target.port or 9092, **entry)) as first:
                self._client.cluster.update_metadata(await first.send(BROKERS))
        except errors.BrokerResponseError as refusal:
            raise ConnectError(str(refusal), refused=True) from refusal
        self._home = self._client.get_random_node()
        await self._client.send(self._home, BROKERS)

    async def publish(self, topic: str, payload: bytes) -> None:
        batch = default_records.DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 0)
        batch.append(0, None, None, payload, [])
        name = self.settings.name_of(topic)
        request = produce.ProduceRequest(None, *self.settings.confirmation, [(name, [(0, bytes(batch.build()))])])
        try:
            await self._ask(name, request)
        except (*FORBIDDEN, errors.MessageSizeTooLargeError) as refusal:
            raise PublishRefusedError(str(refusal)) from refusal

    async def subscribe(self, topic: str) -> None:
        name, at = self.settings.name_of(topic), self.inbox.topic_memory.get(topic)
        try:
            if at is None:
                at = await self._end(name)
            try:
                await self._ask(name, fetch.FetchRequest(1, 1, 1, 0, [(name, [(0, at, 1)])]))  # may we read it?
            except errors.OffsetOutOfRangeError:  # the broker has kept less than we want
                at = min(max(at, await self._end(name, latest=False)), await self._end(name))
        except FORBIDDEN as refusal:
            raise SubscribeRefusedError(str(refusal)) from refusal
        self._topics[name], self._offsets[name], self.inbox.topic_memory[topic] = topic, at, at
        if (leader := self._leaders[name]) not in self._readers:
            self._readers[leader] = asyncio.create_task(self._read(leader))

    async def unsubscribe(self, topic: str) -> None:
        self._offsets.pop(self.settings.name_of(topic), None)

    async def ping(self) -> None:
        """Return when each connection has answered, and what was published before has been received, if that is soon."""
        names = list(self._offsets)
        ends = await asyncio.gather(*(self._end(name) for name in names))
        for node, group in [key for key, each in self._client._conns.items() if key[1] != MAKING or not each._requests]:
            self._client.cluster.update_metadata(await self._client.send(node, BROKERS, group=group))
        with suppress(TimeoutError):  # to have much to catch up with is not to be silent
            async with asyncio.timeout(self.settings.heartbeat / 4):
                while any(self._offsets.get(name, end) < end for name, end in zip(names, ends, strict=True)):
                    await self._progress.wait()

    async def close(self) -> None:
        for reader in self._readers.values():
            reader.cancel()
        if self._client:
            for writer in [connection._writer for connection in self._client._conns.values() if connection._writer]:
                writer.transport.abort()  # unsent bytes would keep the socket open
            await self._client.close()

    def _closed(self, connection: Any, reason: CloseReason | None) -> None:
        if reason not in (CloseReason.SHUTDOWN, CloseReason.IDLE_DROP):
            self.inbox.lost(ConnectionError(f"the connection to {connection.host}:{connection.port} ended"))

    async def _read(self, leader: int) -> None:
        """Hand in what comes from one broker, as long as we are subscribed to topics that it leads."""
        try:
            while offsets := {name: at for name, at in self._offsets.items() if self._leaders.get(name) == leader}:
                wanted = [(name, [(0, at, 2**20)]) for name, at in offsets.items()]
                request = fetch.FetchRequest(self.settings.fetch_wait, 1, 2**22, 0, wanted)
                for name, [(_, code, *_, records)] in (await self._client.send(leader, request, group=READING)).topics:
                    _check(code, name)
                    await self._hand_in(name, offsets[name], memory_records.MemoryRecords(records or b""))
                self._progress.set()
                self._progress.clear()
        except Exception as error:
            self.inbox.lost(error)
        del self._readers[leader]

    async def _hand_in(self, name: str, at: int, records: Any) -> None:
        while records.has_next() and self._offsets.get(name) == at:  # or else unsubscribed meanwhile
            batch = records.next_batch()
            for record in (each for each in batch if each.offset >= at and not batch.is_control_batch):
                self.inbox.received(self._topics[name], record.value or b"")
            at = self._offsets[name] = self.inbox.topic_memory[self._topics[name]] = batch.next_offset
            await asyncio.sleep(0)

    async def _ask(self, name: str, request: Any) -> Any:
        """Send a request about a topic to the broker that leads it, once one does; return what it answers."""
        while True:
            try:
                if name not in self._leaders:
                    await self._find(name)
                answer = (await self._client.send(self._leaders[name], request)).topics[0][1][0]
                _check(answer[1], name)
                return answer
            except errors.KafkaError as error:
                if not error.invalid_metadata and not isinstance(error, errors.NodeNotReadyError):
                    raise
                self._leaders.pop(name, None)
                if name in self._offsets:
                    self.inbox.lost(error)
                await asyncio.sleep(0.02)

    async def _end(self, name: str, latest: bool = True) -> int:
        return int((await self._ask(name, offset.OffsetRequest(-1, 0, [(name, [(0, -1 if latest else -2)])])))[3])

    async def _find(self, name: str) -> None:
        """Learn which broker leads a topic; make the topic if it is not there."""
        code, *_, partitions = (await self._client.send(self._home, metadata.MetadataRequest([name], False))).topics[0]
        if code == UNKNOWN:
            request = admin.CreateTopicsRequest([self.settings.new_topic(name)], 10_000, False)
            answer = await self._client.send(self._client.cluster.controller.nodeId, request, group=MAKING)
            code = UNKNOWN if answer.topic_errors[0][1] in (NONE, EXISTS) else answer.topic_errors[0][1]
        _check(code, name)
        self._leaders[name] = next(leader for _, number, leader, *_ in partitions if number == 0)


def _check(code: int, name: str) -> None:
    if code != NONE:
        raise errors.for_code(code)(name)
