"""The connections to a cluster's brokers, and the requests on them: all that we use of aiokafka beyond its public API.

aiokafka documents a consumer and a producer, which try again, reconnect and restart unseen. This module uses what is
below them: its connection, its protocol and its records. A new version of aiokafka may change them without notice.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

from aiokafka import errors  # type: ignore[import-untyped]
from aiokafka.abc import AbstractTokenProvider  # type: ignore[import-untyped]
from aiokafka.conn import AIOKafkaConnection, CloseReason  # type: ignore[import-untyped]
from aiokafka.protocol import admin, fetch, metadata, offset, produce  # type: ignore[import-untyped]
from aiokafka.record import default_records, memory_records  # type: ignore[import-untyped]

from .contract import ConnectError, Target, ssl_context
from .settings import Settings

ASKING, READING, MAKING = "asking", "reading", "making"
"""The connections to one broker: waiting for messages, or creating a topic, would hold up all other requests."""

AT_ONCE = 500
"""For how many topics one request asks: reading the answer for more would hold up the event loop."""

NO_TIMEOUT = 2**31

LARGEST = 128 * 1024 * 1024
"""Bytes of an answer; a broker gives at most one message more than it is asked for."""
DONE = 0, errors.TopicAlreadyExistsError.errno


class Client:
    """Connections to the brokers of one cluster, each opened when first needed; `lost` is called at the end of any.

    Raises, in all methods: `OSError` and `errors.KafkaConnectionError` where a broker cannot be reached or goes away,
    `ConnectError` where it refuses the login, and the error in `errors` for the code of its answer.
    """

    _settings: Settings
    _home: Target
    """The broker of the url."""

    def __init__(self, lost: Callable[[Exception], None]) -> None:
        self._lost = lost
        self._named: ssl.SSLContext | None = None  # for the broker of the url, whose address may replace its name
        self._unnamed: ssl.SSLContext | None = None  # for those that it names
        self._brokers: dict[int | None, Target] = {}
        self._attempts: dict[tuple[Target, str], asyncio.Task[_Connection]] = {}
        self._topics_in_the_making = 0
        self._looking = asyncio.Lock()
        self._wanted: set[str] = set()
        self._found: dict[str, tuple[int, int | None]] = {}

    async def enter(self, settings: Settings) -> None:
        """Connect to the broker of the url, which is asked for all others."""
        logging.getLogger("aiokafka.conn").addFilter(_shows_no_login)
        [target, *_] = settings.targets()
        self._settings, self._home = settings, Target(target.host, target.port or 9092)
        if settings.uses_tls:
            self._named = await asyncio.to_thread(ssl_context, settings)
            self._unnamed = await asyncio.to_thread(ssl_context, settings, "")
        await self._learn(self._home, ASKING, [])

    async def reach(self, broker: Target, channel: str = ASKING) -> "_Connection":
        """Return once a broker is connected; cancelling leaves the attempt to those who wait for the same one."""
        key = broker, channel
        attempt = self._attempts.get(key)
        if attempt is None:
            attempt = self._attempts[key] = asyncio.create_task(self._connect(*key))
            attempt.add_done_callback(partial(self._forget_if_failed, key))
        if not attempt.done():
            await asyncio.wait([attempt])
        return attempt.result()

    async def leader(self, topic: str) -> Target:
        """Return the broker that leads a topic; one request at a time asks for all topics that wait."""
        self._wanted.add(topic)
        async with self._looking:
            if topic in self._wanted:
                topics = {topic, *islice(self._wanted, AT_ONCE)}
                answer = await self._learn(self._home, ASKING, list(topics))
                for code, name, *_, partitions in answer.topics:
                    self._found[name] = code, {number: leader for _, number, leader, *_ in partitions}.get(0)
                self._wanted -= topics
        code, node = self._found[topic]
        _check(code, topic)
        leader = self._brokers.get(node)
        if leader is None:
            raise errors.LeaderNotAvailableError(topic)
        return leader

    async def make(self, topic: str, replication_factor: int, configs: Mapping[str, str]) -> None:
        """Create a topic with one partition, unless it is there."""
        request = admin.CreateTopicsRequest([(topic, 1, replication_factor, [], list(configs.items()))], 10_000, False)
        self._topics_in_the_making += 1
        try:
            code = (await self._send(self._home, MAKING, request)).topic_errors[0][1]
            if code == errors.NotControllerError.errno:  # where brokers do not hand it on
                code = (await self._send(self._controller, MAKING, request)).topic_errors[0][1]
        finally:
            self._topics_in_the_making -= 1
            if not self._topics_in_the_making:  # or else its end would go unnoticed
                for key in [key for key in self._attempts if key[1] == MAKING]:
                    await self._end(self._attempts.pop(key))
        if code not in DONE:
            _check(code, topic)

    async def append(self, broker: Target, topic: str, payload: bytes, acks: int, within: float) -> None:
        """Append a message to a topic, with `acks` confirmations (-1: all in-sync replicas), `within` some seconds."""
        batch = default_records.DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 0)
        batch.append(0, None, None, payload, [])
        records = [(topic, [(0, bytes(batch.build()))])]
        answer = await self._send(broker, ASKING, produce.ProduceRequest(None, acks, int(within * 1000), records))
        _check(answer.topics[0][1][0][1], topic)

    async def offset(self, broker: Target, topic: str, latest: bool) -> int:
        """Return the offset after the last message of a topic, or that of the first one that is still there."""
        request = offset.OffsetRequest(-1, 0, [(topic, [(0, -1 if latest else -2)])])
        answer = (await self._send(broker, ASKING, request)).topics[0][1][0]
        _check(answer[1], topic)
        return int(answer[3])

    async def check(self, broker: Target, topic: str, at: int) -> None:
        """Return if a topic can be read from this offset."""
        await self._fetch(broker, ASKING, fetch.FetchRequest(1, 1, 1, 0, [(topic, [(0, at, 1)])]))

    async def read(self, broker: Target, offsets: Mapping[str, int], within: float) -> list[tuple[str, bytes]]:
        """Return topics with their records from these offsets on, in the form that `batches` reads.

        If there are none, the broker waits for some, `within` these seconds.
        """
        wanted = [(topic, [(0, at, 2**20)]) for topic, at in offsets.items()]
        return await self._fetch(broker, READING, fetch.FetchRequest(int(within * 1000), 1, 2**22, 0, wanted))

    async def ping(self) -> None:
        """Return when each connection has answered."""
        up = [key for key, attempt in self._attempts.items() if attempt.done() and key[1] != MAKING]
        await asyncio.gather(*(self._learn(*key, []) for key in up))

    async def close(self) -> None:
        """End all connections."""
        for attempt in list(self._attempts.values()):
            await self._end(attempt)

    async def _connect(self, broker: Target, channel: str) -> "_Connection":
        user, password = self._settings.login
        connection = _Connection(
            *broker,
            client_id=self._settings.client_id,
            request_timeout_ms=NO_TIMEOUT,
            security_protocol=self._settings.security_protocol,
            ssl_context=self._named if broker == self._home else self._unnamed,
            sasl_mechanism=self._settings.sasl_mechanism,
            sasl_plain_username=user or "",
            sasl_plain_password=password or "",
            sasl_oauth_token_provider=_Token(password or ""),
            on_close=self._closed,
        )
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                await connection.connect()
        except errors.BrokerResponseError as refusal:
            text = f"sasl_mechanism = {self._settings.sasl_mechanism}: {refusal}"
            raise ConnectError(text, refused=True) from refusal
        except errors.KafkaConnectionError as error:
            if isinstance(error.__cause__, OSError):  # what TLS says, for one
                raise error.__cause__ from error
            raise
        connection.is_up = True
        return connection

    def _closed(self, connection: "_Connection", kind: CloseReason | None) -> None:
        if connection.is_up and kind != CloseReason.SHUTDOWN:
            reason = connection.error or "the broker closed it"
            self._lost(ConnectionError(f"the connection to {connection.host}:{connection.port} ended: {reason}"))

    def _forget_if_failed(self, key: tuple[Target, str], attempt: "asyncio.Task[_Connection]") -> None:
        if (attempt.cancelled() or attempt.exception()) and self._attempts.get(key) is attempt:
            del self._attempts[key]

    async def _end(self, attempt: "asyncio.Task[_Connection]") -> None:
        attempt.cancel()
        await asyncio.wait([attempt])
        if not attempt.cancelled() and not attempt.exception():
            await attempt.result().close(CloseReason.SHUTDOWN)

    async def _send(self, broker: Target, channel: str, request: Any) -> Any:
        return await (await self.reach(broker, channel)).send(request)

    async def _learn(self, broker: Target, channel: str, topics: list[str]) -> Any:
        """Ask for the brokers, and for these topics."""
        answer = await self._send(broker, channel, metadata.MetadataRequest(topics, False))
        self._brokers = {node: Target(host, port) for node, host, port, *_ in answer.brokers}
        self._controller = self._brokers.get(answer.controller_id, self._home)
        return answer

    async def _fetch(self, broker: Target, channel: str, request: Any) -> list[tuple[str, bytes]]:
        found = []
        for topic, [(_, code, *_, records)] in (await self._send(broker, channel, request)).topics:
            _check(code, topic)
            found.append((topic, records or b""))
        return found


def batches(records: bytes) -> Iterator[tuple[list[tuple[int, bytes]], int]]:
    """Read one batch after another: its messages, each with its offset, and the offset that follows the batch."""
    rest = memory_records.MemoryRecords(records)
    while rest.has_next():
        batch = rest.next_batch()
        messages = [] if batch.is_control_batch else [(each.offset, each.value or b"") for each in batch]
        yield messages, batch.next_offset


def _check(code: int, topic: str) -> None:
    if code:
        raise errors.for_code(code)(topic)


def _shows_no_login(record: logging.LogRecord) -> bool:
    """Tell whether a log record is not one of those in which aiokafka shows a password or a token, at DEBUG."""
    return "SaslAuthenticateRequest" not in record.getMessage()


class _Connection(AIOKafkaConnection):  # type: ignore[misc]
    """A connection that closes at once, and that reads what a broker says of a token."""

    _reader: Any
    is_up = False
    error: BaseException | None = None

    def close(self, reason: CloseReason | None = None, exc: BaseException | None = None) -> Any:
        writer, self.error = self._writer, exc
        closed = super().close(reason, exc)
        if writer:
            writer.transport.abort()  # bytes that cannot be sent, or a TLS good-bye, would keep the socket open
        return closed

    def _create_reader_task(self) -> Any:
        self._reader = _Reader(self._reader)
        return super()._create_reader_task()

    def _handle_frame(self, answer: bytes) -> None:
        try:
            super()._handle_frame(answer)
        except Exception as error:  # which aiokafka would log as its own
            raise ConnectionAbortedError(f"the server does not speak Kafka: {error}") from error

    def authenticator_oauth(self) -> "_TokenLogin":
        return _TokenLogin(super().authenticator_oauth())


class _Reader:
    """Keeps no more than an answer, whatever length the broker claims."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def readexactly(self, size: int) -> bytes:
        if not 0 <= size <= LARGEST:
            raise ConnectionAbortedError(f"the server does not speak Kafka: an answer of {size} bytes")
        return await self._reader.readexactly(size)


class _Token(AbstractTokenProvider):  # type: ignore[misc]
    def __init__(self, token: str) -> None:
        self._token = token

    async def token(self) -> str:
        return self._token


class _TokenLogin:
    """aiokafka's login with a token, which would take any answer for a yes."""

    def __init__(self, login: Any) -> None:
        self._login = login

    async def step(self, answer: bytes | None) -> tuple[bytes, bool] | None:
        if answer:  # a refusal; the broker gives the reason once this has been acknowledged
            return b"\x01", True
        step: tuple[bytes, bool] | None = await self._login.step(answer)
        return step
