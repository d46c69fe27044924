"""How messages travel through PostgreSQL: LISTEN and NOTIFY, and a table for frames too large for a notification."""

import asyncio
import math
from base64 import b64decode, b64encode
from contextlib import suppress
from typing import Any

import asyncpg

from .client import CheckingLoop
from .contract import ConnectError, PublishRefusedError, Transport, escape, ssl_context
from .settings import Settings

PORT = 5432
LONGEST_CHANNEL = 63
LARGEST_NOTE = 5997
"""Bytes that fit, as base64, into a notification, which is text of less than 8000 bytes."""

IS_READ_ONLY = "select pg_is_in_recovery() or current_setting('default_transaction_read_only')::bool"
CREATE = f"""
    select pg_advisory_xact_lock({0x6465657073747265});
    create unlogged table if not exists %s (
        id bigint generated always as identity primary key,
        stored timestamptz not null default now(),
        payload bytea not null,
        unique (stored, id)
    )"""
EXPIRE = """
    delete from %s where id in (
        select id from %s where stored < now() - interval '1 minute' order by stored limit 100 for update skip locked
    )"""
STORE = f"""
    with old as ({EXPIRE}), new as (insert into %s (payload) values ($2) returning id)
    select pg_notify($1, '#' || id) from new"""
FETCH = "select payload from %s where id = $1"


class BrokerTransport(Transport[Settings]):
    """One connection, with one request at a time; notifications from others arrive between the answers.

    A frame that is too large for a notification is stored for a minute, and `#` and its number are notified.
    """

    _connection: "asyncpg.Connection[asyncpg.Record] | None" = None
    _handing_in: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        try:
            self._connection = connection = await self._open()
        except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InsufficientPrivilegeError) as refusal:
            raise ConnectError(str(refusal), refused=True) from refusal
        gone = ConnectionResetError("the server ended the connection")
        connection.add_termination_listener(lambda _: self.inbox.lost(gone))
        self._topics: dict[str, str] = {}
        self._turn = asyncio.Lock()
        self._has_stored = False
        self._arrived: asyncio.Queue[tuple[int, str, str] | asyncio.Future[None]] = asyncio.Queue()
        self._handing_in = asyncio.create_task(self._hand_in(connection.get_server_pid()))
        await self._check_role()

    async def _open(self) -> "asyncpg.Connection[asyncpg.Record]":
        settings = self.settings
        target = settings.address.hosts[0]
        user, password = settings.login
        patience = math.ceil(settings.heartbeat)
        tls = await asyncio.to_thread(ssl_context, settings) if settings.uses_tls else None
        # Everything is given, even if empty, so that nothing comes from the variables and files of libpq.
        return await asyncpg.connect(  # type: ignore[no-any-return, call-overload]
            host=target.host,
            port=target.port or PORT,
            user=user or "",
            password=password or "",
            database=settings.database,
            ssl=False,
            loop=CheckingLoop(tls, self.inbox.lost),
            direct_tls=False,
            target_session_attrs="any",
            timeout=2 * settings.connect_timeout,  # the machinery's own is shorter
            server_settings=settings.options
            | {
                "synchronous_commit": "off",  # no message survives a crash: none waits for the disk
                "lock_timeout": str(math.ceil(1000 * settings.heartbeat / 3)),  # a ping may be waiting behind
                "tcp_keepalives_idle": str(patience),  # the server, too, must notice nodes that went away silently
                "tcp_keepalives_interval": str(patience),
                "tcp_user_timeout": str(3000 * patience),
            },
        )

    async def publish(self, topic: str, payload: bytes) -> None:
        channel = escape(topic, longest=LONGEST_CHANNEL)
        try:
            if len(payload) <= LARGEST_NOTE:
                await self._ask("execute", "select pg_notify($1, $2)", channel, b64encode(payload).decode())
            else:
                await self._store(channel, payload)
        except (asyncpg.SyntaxOrAccessError, asyncpg.InvalidSchemaNameError) as refusal:
            raise PublishRefusedError(str(refusal)) from refusal

    async def subscribe(self, topic: str) -> None:
        channel = escape(topic, longest=LONGEST_CHANNEL)
        self._topics[channel] = topic
        await self._ask("add_listener", channel, self._notified)

    async def unsubscribe(self, topic: str) -> None:
        channel = escape(topic, longest=LONGEST_CHANNEL)
        self._topics.pop(channel, None)
        await self._ask("remove_listener", channel, self._notified)
        await self._catch_up()

    async def ping(self) -> None:
        with suppress(asyncpg.PostgresError):  # still an answer
            await self._check_role()
            if self._has_stored:
                await self._ask("execute", self._sql(EXPIRE))
        await self._catch_up()

    async def close(self) -> None:
        if self._connection:
            self._connection.terminate()
        if self._handing_in:
            self._handing_in.cancel()

    async def _store(self, channel: str, payload: bytes) -> None:
        store = (self._sql(STORE), channel, payload)
        try:
            await self._ask("execute", *store)
        except asyncpg.UndefinedTableError:
            await self._ask("execute", self._sql(CREATE))
            await self._ask("execute", *store)
        self._has_stored = True  # a node that stores also clears away, even when it is silent

    async def _check_role(self) -> None:
        """Raise `ConnectionError` if the server cannot serve the cluster: a standby takes neither LISTEN nor NOTIFY."""
        if await self._ask("fetchval", IS_READ_ONLY):
            raise ConnectionError("the server is a standby, or read-only: name the primary, too")

    def _sql(self, statement: str) -> str:
        return statement.replace("%s", self.settings.table)

    async def _ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the connection, when its turn has come."""
        async with self._turn:
            return await getattr(self._connection, method)(*arguments)

    def _notified(self, _: object, pid: int, channel: str, note: object) -> None:
        self._arrived.put_nowait((pid, channel, str(note)))

    async def _catch_up(self) -> None:
        """Return when all that arrived is handed in."""
        mark = asyncio.get_running_loop().create_future()
        self._arrived.put_nowait(mark)
        await mark

    async def _hand_in(self, own: int) -> None:
        """Hand in what arrives, in order; fetch what was stored, unless by this node, which needs no copy."""
        while True:
            arrived = await self._arrived.get()
            if isinstance(arrived, asyncio.Future):
                if not arrived.done():
                    arrived.set_result(None)
                continue
            pid, channel, note = arrived
            payload: bytes | None = None
            try:
                if not note.startswith("#"):
                    payload = b64decode(note)
                elif pid != own and channel in self._topics:
                    payload = await self._ask("fetchval", self._sql(FETCH), int(note[1:]))
            except ValueError:
                payload = note.encode()  # somebody else's: the inbox reports it
            except (asyncpg.PostgresError, asyncpg.InterfaceError):
                continue  # the next frame shows that one is missing
            if payload is not None and channel in self._topics:
                self.inbox.received(self._topics[channel], payload)
