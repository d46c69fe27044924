"""One connection after another: connect, notice a loss, back off, connect to the next host, restore."""

import asyncio
import ipaddress
import logging
import os
import random
import socket
import traceback
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, Generic, cast

from pydantic import ValidationError

from . import tasks
from .addresses import Target
from .advice import FILE, FUNCTION, advice
from .connection import Again, Connection, Receive, reason
from .errors import ClosedError, ConnectError, ReconnectError
from .settings import ConnectorSettings
from .transport import S, Transport

logger = logging.getLogger(__name__.partition(".")[0])

TELL_AGAIN = 60.0
"""Seconds after which the reason for an outage is reported again."""


class AttemptFailed(Exception):
    """One attempt to connect failed; its text says why, and holds no secret.

    `check` says what to do about it, `refused` whether the broker said no, and `timed_out` whether it took the whole of
    `connect_timeout`. `cause` is the exception behind it, if that one shows no secret.
    """

    def __init__(
        self,
        text: str,
        check: str,
        cause: BaseException | None = None,
        *,
        refused: bool = False,
        timed_out: bool = False,
    ) -> None:
        super().__init__(text)
        self.check = check
        self.cause = cause
        self.refused = refused
        self.timed_out = timed_out


class Link(Generic[S]):
    """Keeps one connection up, and reports when each begins and ends.

    Arguments:
        transport_class: makes the transport of each connection.
        source: the settings, or a function, sync or async, that returns them; it is called before each attempt.
        memory, topic_memory: what outlives a transport; see `Inbox`.
        receive: takes each payload that arrives.
        restore: brings a new connection to where the last one was; if it raises, the next host is tried.
        on_up: called with each new connection and the settings that it was made with.
        on_down: called once for each connection, with the reason for its end; `close` is one.
        report: called with a `ReconnectError` for each new reason why the connection cannot come back.

    Once `close` has begun, neither `on_up` nor `report` is called.
    """

    def __init__(
        self,
        transport_class: type[Transport[S]],
        source: S | Callable[[], S | Awaitable[S]],
        memory: dict[str, Any],
        topic_memory: dict[str, Any],
        receive: Receive,
        restore: Callable[[Connection[S]], Awaitable[None]],
        on_up: Callable[[Connection[S], S], None],
        on_down: Callable[[Exception], None],
        report: Callable[[Exception], None],
    ) -> None:
        self._transport_class = transport_class
        self._source = source
        self._memory = memory
        self._topic_memory = topic_memory
        self._receive = receive
        self._restore = restore
        self._on_up = on_up
        self._on_down = on_down
        self._report = report
        self._connection: Connection[S] | None = None
        self._changed = asyncio.Event()
        self._work: asyncio.Task[None] | None = None  # the first attempt; then the keeper
        self._is_closed = False
        self._next_host = 0
        self._announced: tuple[Target, ...] = ()
        self._came = 0.0
        self._lasted = 0.0
        self._told: dict[tuple[str, bool], float] = {}
        self.last_failure: str | None = None
        """Why there is no connection, in words that hold no secret; None while there is one."""
        self.settings: S | None = source if isinstance(source, ConnectorSettings) else None
        """The settings of the last attempt, if there are any yet."""

    @property
    def connection(self) -> Connection[S] | None:
        """The connection, unless there is none or it is lost."""
        return None if self._connection is None or self._connection.gone.done() else self._connection

    @property
    def is_up(self) -> bool:
        """Whether there is a connection that is not known to be lost."""
        return self.connection is not None

    @property
    def where(self) -> str:
        """The broker's address to show."""
        return self.settings.where if self.settings else "the broker"

    def describe(self, error: BaseException) -> str:
        """Put an exception in words that hold no secret of the settings that are used now."""
        return self._limits.describe(error)

    def cause(self, error: BaseException) -> BaseException | None:
        """Return an exception, or None if it shows a secret of the settings that are used now."""
        return self._limits.cause(error)

    async def open(self) -> None:
        """Connect for the first time, with one attempt at each host, and stay connected until `close`.

        Returns after `on_up`. Cancelling undoes the attempt.

        Raises:
            ConnectError: no host could be reached. Nothing is left open, and it can be called again.
            ClosedError: `close` was called.
        """
        if self._is_closed:
            raise self._closed()
        attempt = self._work = tasks.start(self._connect_first())
        try:
            await asyncio.wait((attempt,))
        except asyncio.CancelledError:
            attempt.cancel()
            await asyncio.wait((attempt,))
            if not attempt.cancelled():
                attempt.exception()
            raise
        if attempt.cancelled():
            raise self._closed()
        try:
            attempt.result()
            return
        except AttemptFailed as error:
            failure = error
        within = f" within connect_timeout = {self._limits.connect_timeout:g} s" if failure.timed_out else ""
        text = f"Cannot connect to {self.where}{within}: {failure}. {failure.check}".rstrip()
        raise ConnectError(text, refused=failure.refused) from failure.cause

    def start(self) -> None:
        """Connect in the background, with as many attempts as it takes, and stay connected until `close`.

        Instead of `open`. Failures are reported as they are in an outage.
        """
        self._work = tasks.start(self._keep(None))

    async def up(self) -> Connection[S]:
        """Return the connection, after waiting for one if need be; raise `ClosedError` once the link is closed."""
        while not self._is_closed:
            if connection := self.connection:
                return connection
            self._changed.clear()
            await self._changed.wait()
        raise self._closed()

    async def close(self) -> None:
        """End the connection for good, or the attempts at one; nothing of them is left when it returns."""
        self._is_closed = True
        self._changed.set()
        connection = self._connection
        try:
            if connection:
                await connection.leave(self._limits.heartbeat)
        finally:
            if self._work:
                self._work.cancel()
                await asyncio.wait((self._work,))
            if connection:
                await connection.close()  # the keeper has done so, unless it had not begun yet

    @property
    def _limits(self) -> ConnectorSettings:
        return self.settings or ConnectorSettings.model_construct()

    def _closed(self) -> ClosedError:
        return ClosedError(f"The connector to {self.where} was closed during the call: create a new one.")

    async def _connect_first(self) -> None:
        connection, settings = await self._attempt()
        self._work = tasks.start(self._keep(connection))
        self._begin(connection, settings)

    async def _keep(self, connection: Connection[S] | None) -> None:
        failed = 0
        while not self._is_closed:
            try:
                if connection is None:
                    connection, settings = await self._attempt()
                    self._begin(connection, settings)
                try:
                    await asyncio.wait((connection.gone,))
                except asyncio.CancelledError:
                    await connection.close()
                    raise
                await connection.close()
                connection = None
                if self._lasted >= self._limits.heartbeat:
                    failed = 0
                    self._told.clear()
            except AttemptFailed as failure:
                self._tell(failure)
            longest = min(self._limits.reconnect_delay_min * 2 ** min(failed, 30), self._limits.reconnect_delay_max)
            failed += 1
            await asyncio.sleep(longest * random.uniform(0.5, 1))

    def _begin(self, connection: Connection[S], settings: S) -> None:
        self._connection = connection
        self._came = connection.loop.time()
        self.last_failure = None
        connection.gone.add_done_callback(self._end)
        self._changed.set()
        self._on_up(connection, settings)

    def _end(self, gone: "asyncio.Future[Exception]") -> None:
        assert self._connection
        self._announced = tuple(self._connection.transport.announced)
        self._connection = None
        self._lasted = gone.get_loop().time() - self._came
        self.last_failure = f"the connection was lost: {self.describe(gone.result())}"
        self._on_down(gone.result())

    def _tell(self, failure: AttemptFailed) -> None:
        """Report a failed attempt, unless its reason was reported less than a minute ago."""
        text = str(failure)
        self.last_failure = text
        logger.debug("An attempt to connect to %s failed: %s.", self.where, text)
        now = asyncio.get_running_loop().time()
        self._told = {key: told for key, told in self._told.items() if now - told < TELL_AGAIN}
        if (text, failure.refused) in self._told or self._is_closed:
            return
        self._told[text, failure.refused] = now
        error = ReconnectError(
            f"Cannot connect to {self.where}: {text}. {failure.check}".rstrip()
            + " The connector keeps trying; publishing waits.",
            refused=failure.refused,
        )
        error.__cause__ = failure.cause
        self._report(error)

    async def _attempt(self) -> tuple[Connection[S], S]:
        """Try one host after another, and return the first connection; raise `AttemptFailed` if there is none."""
        time = asyncio.get_running_loop().time
        began = time()
        settings = await self._present_settings()
        ends = began + settings.connect_timeout
        hosts = await self._hosts(settings, (ends - time()) / 2)
        first = self._next_host % len(hosts)
        self._next_host = first + 1
        failures: list[tuple[S, BaseException]] = []
        for tried, host in enumerate(hosts[first:] + hosts[:first]):
            share = (ends - time()) / (len(hosts) - tried)
            if share <= 0 and failures:
                break
            if len(hosts) > 1:  # for a client with a timeout of its own
                host = host.model_copy(update={"connect_timeout": share})
            try:
                connection = await self._establish(host, share)
            except Exception as error:
                failures.append((host, reason(error)))
            else:
                self._next_host = first + tried + 1  # the next one, since this one will have been lost
                return connection, settings
        refusals = [error for _, error in failures if getattr(error, "refused", False) is True]
        cause = refusals[0] if refusals else failures[-1][1]
        if len(hosts) > 1:
            text = "; ".join(sorted(f"{host.where}: {settings.describe(error)}" for host, error in failures))
        else:
            text = settings.describe(cause)
        raise AttemptFailed(
            text,
            advice((error for _, error in failures), settings),
            settings.cause(cause),
            refused=bool(refusals),
            timed_out=isinstance(cause, TimeoutError) and time() - began > 0.95 * settings.connect_timeout,
        )

    async def _establish(self, settings: S, within: float) -> Connection[S]:
        """Connect to one host, once more whenever `restore` asks for that and there is time left."""
        time = asyncio.get_running_loop().time
        ends = time() + within
        while True:
            try:
                return await self._establish_once(settings, ends - time())
            except Again:
                if time() >= ends:
                    raise

    async def _establish_once(self, settings: S, within: float) -> Connection[S]:
        connection = Connection(self._transport_class, settings, self._memory, self._topic_memory, self._receive)
        time = connection.loop.time
        began = time()
        try:
            try:
                await connection.call(connection.transport.connect(), within)
            except TimeoutError as error:
                if time() - began < 0.99 * within:
                    raise  # the transport's own
                raise TimeoutError("no answer in time") from error  # always in the same words, for `_tell`
            connection.watch(settings.heartbeat)
            await self._restore(connection)
            if connection.gone.done():
                raise connection.loss()
        except (Exception, asyncio.CancelledError):
            await connection.close()
            raise
        return connection

    async def _present_settings(self) -> S:
        """Return the settings to be used now, with the password that `password_file` holds now."""
        settings: Any = self._source
        if not isinstance(settings, ConnectorSettings):
            settings = await self._call_source(settings)
            if not isinstance(settings, ConnectorSettings):
                text = f"the settings function returned {type(settings).__name__}, not Settings"
                raise AttemptFailed(text, FUNCTION)
        self.settings = cast(S, settings)
        try:
            self.settings = cast(S, settings.present())
        except Exception as error:
            raise AttemptFailed(settings.describe(error), FILE, settings.cause(error)) from None
        return self.settings

    async def _call_source(self, source: Callable[[], Any]) -> Any:
        within = self._limits.connect_timeout
        try:
            async with asyncio.timeout(within) as bound:
                settings = source()
                if isawaitable(settings):
                    settings = await settings
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            self._stop_if_cancelled()
            if bound.expired():
                text = f"the settings function did not return within {within:g} s"
            else:
                text = f"the settings function raised {_where_raised(error)}"
            raise AttemptFailed(text, FUNCTION) from None
        self._stop_if_cancelled()
        return settings

    def _stop_if_cancelled(self) -> None:
        """Be cancelled, even if the settings function has swallowed that."""
        task = asyncio.current_task()
        if task and task.cancelling():
            raise asyncio.CancelledError

    async def _hosts(self, settings: S, within: float) -> list[S]:
        """Return settings for each host of the url, for each address of a host that has several, and for those announced."""
        if self._transport_class.takes_all_hosts or not (targets := settings.targets()):
            return [settings]
        looking = [tasks.start(_addresses(target.host, within)) for target in targets]
        found: list[list[str | None]] = await asyncio.gather(*looking)
        hosts = [
            settings.at(target.host, target.port, address)
            for target, addresses in zip(targets, found, strict=True)
            for address in addresses
        ]
        for target in [each for each in self._announced if each not in targets]:
            if _is_address(target.host) and not _is_address(targets[0].host):  # certificates are for names
                hosts.append(settings.at(targets[0].host, target.port, target.host))
            else:
                hosts.append(settings.at(*target))
        return hosts if len(hosts) > 1 else [settings]


async def _addresses(host: str, within: float) -> list[str | None]:
    """Return the addresses of `host` if it has several; else None, for the client to look it up by itself."""
    if _is_address(host):
        return [None]
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(within):
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # with TimeoutError; the client says what is wrong with the name
        return [None]
    addresses: list[str | None] = list(dict.fromkeys(str(address[0]) for *_, address in found))
    return addresses if len(addresses) > 1 else [None]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _where_raised(error: BaseException) -> str:
    """Say what was raised, and where, but not its text: we cannot know which part of it is secret."""
    what = type(error).__name__
    if isinstance(error, ValidationError):
        return f"{what} for {', '.join('.'.join(map(str, fault['loc'])) for fault in error.errors())}"
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    return f"{what} ({os.path.basename(frame.f_code.co_filename)}, line {line})"
