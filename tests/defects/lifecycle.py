"""Defects between constructing and closing."""

import asyncio
import os
from contextlib import suppress
from typing import Any

from .patching import Machinery, defect, instead, nothing, nothing_later


@defect("constructing opens a socket", "L1/no_io")
def _(m: Machinery) -> None:
    @instead(m.connector.MessageConnector, "__init__")
    def init(original: Any, self: Any, settings: Any) -> None:
        import socket

        socket.socket().close()
        original(self, settings)


@defect("the environment is not asked", "L1/environment")
def _(m: Machinery) -> None:
    kind = m.settings.ConnectorSettings
    kind.settings_customise_sources = classmethod(lambda cls, settings_cls, init_settings, **_: (init_settings,))


@defect("a bad secret is shown", "L1/bad_settings")
def _(m: Machinery) -> None:
    m.secrets.HIDDEN = "s3cr3t-and-no-url"


@defect("only the first bad field is named", "L1/bad_settings")
def _(m: Machinery) -> None:
    validation_error = m.settings.ValidationError

    class First(validation_error):  # type: ignore[misc, valid-type]
        @classmethod
        def from_exception_data(cls, title: str, faults: list[Any]) -> Any:
            return validation_error.from_exception_data(title, faults[:1])

    m.settings.ValidationError = First


@defect("a url may be misread", "L1/misread")
def _(m: Machinery) -> None:
    nothing(m.settings, "parse")


@defect("ready is emitted twice", "L2/ready_once")
def _(m: Machinery) -> None:
    @instead(m.connector.MessageConnector, "_up")
    def up(original: Any, self: Any, *args: Any) -> None:
        original(self, *args)
        self._events.emit("ready")


@defect("ready is emitted before it is so", "L2/ready_once")
def _(m: Machinery) -> None:
    @instead(m.link.Link, "_begin")
    def begin(original: Any, self: Any, connection: Any, settings: Any) -> None:
        self._on_up(connection, settings)
        on_up, self._on_up = self._on_up, lambda *_: None
        original(self, connection, settings)
        self._on_up = on_up


@defect("connecting again makes another connection", "L2/ready_once L2/twice_at_once")
def _(m: Machinery) -> None:
    @instead(m.connector.MessageConnector, "connect")
    async def connect(original: Any, self: Any) -> None:
        await (self._open() if self.is_ready else original(self))


@defect("once is for ever", "R2/handlers")
def _(m: Machinery) -> None:
    m.events.Events.once = m.events.Events.on


@defect("connecting has no time-out", "L3/never_returns")
def _(m: Machinery) -> None:
    @instead(m.link.Link, "_establish_once")
    async def establish(original: Any, self: Any, settings: Any, within: float) -> Any:
        return await original(self, settings, 1000 * within)


@defect("a failed attempt is not closed", "L4/never_connected L3/never_returns")
def _(m: Machinery) -> None:
    @instead(m.connection.Connection, "close")
    async def close(original: Any, self: Any) -> None:
        if self._next_ping:
            await original(self)


@defect("a loss while connecting is forgotten", "L3/loss_while_connecting")
def _(m: Machinery) -> None:
    @instead(m.connection.Connection, "lost")
    def lost(original: Any, self: Any, error: Exception) -> None:
        if self._next_ping:
            original(self, error)


@defect("what outlives a connection is left at the end", "L4/outlives")
def _(m: Machinery) -> None:
    nothing_later(m.connection.Connection, "leave")


@defect("what outlives a connection is undone at a loss", "L4/outlives")
def _(m: Machinery) -> None:
    @instead(m.connection.Connection, "_close")
    async def close(original: Any, self: Any) -> None:
        with suppress(Exception):
            await self.transport.leave()
        await original(self)


@defect("close drops what was accepted", "L4/close_delivers")
def _(m: Machinery) -> None:
    nothing_later(m.outbox.Outbox, "drain")


@defect("close waits for what cannot be sent in an outage", "L4/close_in_an_outage")
def _(m: Machinery) -> None:
    @instead(m.connector.MessageConnector, "_close")
    async def close(original: Any, self: Any) -> None:
        while self._node and self._node.outbox.pending:  # noqa: ASYNC110 (an endless wait is the defect)
            await asyncio.sleep(0.01)
        await original(self)


@defect("close leaves publishers waiting", "L4/close_in_an_outage")
def _(m: Machinery) -> None:
    nothing_later(m.outbox.Outbox, "fail")


@defect("close is not emitted", "L4/close_twice")
def _(m: Machinery) -> None:
    @instead(m.events.Events, "emit")
    def emit(original: Any, self: Any, event: str, *args: Any) -> Any:
        return event != "close" and original(self, event, *args)


@defect("closing twice closes twice", "L4/close_twice")
def _(m: Machinery) -> None:
    @instead(m.connector.MessageConnector, "close")
    async def close(original: Any, self: Any) -> None:
        self._is_open = False
        self._closing = asyncio.ensure_future(self._close())
        await self._closing


@defect("closing is told as a loss", "L4/close_twice")
def _(m: Machinery) -> None:
    @instead(m.connector.MessageConnector, "_down")
    def down(original: Any, self: Any, error: Exception) -> None:
        closing, self._closing = self._closing, None
        original(self, error)
        self._closing = closing


@defect("an operation before connect() is called closed", "L5")
def _(m: Machinery) -> None:
    @instead(m.connector.MessageConnector, "_connected")
    def connected(original: Any, self: Any) -> Any:
        try:
            return original(self)
        except m.errors.NotReadyError:
            raise self._closed() from None


@defect("an error in the body leaves it open", "L6")
def _(m: Machinery) -> None:
    @instead(m.connector.MessageConnector, "__aexit__")
    async def leave(original: Any, self: Any, kind: Any, *args: Any) -> None:
        if kind is None:
            await original(self, kind, *args)


@defect("cancelling connect leaves the attempt running", "L7/cancelling_connect")
def _(m: Machinery) -> None:
    @instead(m.connector.MessageConnector, "connect")
    async def connect(original: Any, self: Any) -> None:
        await asyncio.shield(original(self))


@defect("cancelling one connect cancels another one", "L7/connect_that_is_cancelled")
def _(m: Machinery) -> None:
    @instead(m.connector.MessageConnector, "connect")
    async def connect(original: Any, self: Any) -> None:
        try:
            await original(self)
        except asyncio.CancelledError:
            if self._opening:
                self._opening.cancel()
            raise


@defect("cancelling one subscribe cancels another one", "L7/subscribe_that_is_cancelled")
def _(m: Machinery) -> None:
    @instead(m.subscriptions.Subscriptions, "add")
    async def add(original: Any, self: Any, subscription: Any, *key: Any) -> None:
        try:
            await original(self, subscription, *key)
        except asyncio.CancelledError:
            if subscription in self.of(subscription.topic):
                self._take_away(subscription)
            raise


@defect("a cancelled subscription leaves its listener", "L7/cancelling_an_operation")
def _(m: Machinery) -> None:
    @instead(m.subscriptions.Subscriptions, "add")
    async def add(original: Any, self: Any, *args: Any) -> None:
        await asyncio.shield(original(self, *args))


@defect("cancelling unsubscribe cuts it short", "L7/cancelling_an_operation")
def _(m: Machinery) -> None:
    @instead(m.subscriptions.Subscriptions, "_through")
    async def through(original: Any, self: Any, *works: Any) -> None:
        for work in works:
            await work


@defect("the name is empty", "L8")
def _(m: Machinery) -> None:
    m.package.Connector.name = ""


@defect("an error is of no common kind", "L8")
def _(m: Machinery) -> None:
    m.errors.OutboxFullError = type("OutboxFullError", (Exception,), {})


@defect("the password is part of the address", "L9/no_secret")
def _(m: Machinery) -> None:
    m.addresses.Address.where = m.addresses.Address.url


@defect("secrets are not taken out of errors", "L9/client_library")
def _(m: Machinery) -> None:
    instead(m.secrets, "hide")(lambda original, text, secrets: text)


@defect("the causes of errors may show secrets", "L9/client_library")
def _(m: Machinery) -> None:
    nothing(m.secrets, "presentable", True)


@defect("an identity is drawn when the connector is made", "L10/before_a_fork")
def _(m: Machinery) -> None:
    made: dict[int, bytes] = {}

    @instead(m.connector.MessageConnector, "__init__")
    def init(original: Any, self: Any, settings: Any) -> None:
        original(self, settings)
        made[id(self)] = os.urandom(16)

    @instead(m.connector.MessageConnector, "_open")
    async def open_it(original: Any, self: Any) -> None:
        self._identity.sender = made[id(self)]
        await original(self)


@defect("a child process keeps the node name", "L10/before_a_fork")
def _(m: Machinery) -> None:
    @instead(m.identity.NodeName, "get")
    def get(original: Any, self: Any) -> Any:
        return self._name or original(self)


@defect("all connectors have one node name", "L10/same_settings_object")
def _(m: Machinery) -> None:
    nothing(m.identity.NodeName, "get", "node")


@defect("another event loop is not told", "L10/second_run")
def _(m: Machinery) -> None:
    nothing(m.identity.Identity, "check")


@defect("another thread is not told", "L10/other_threads")
def _(m: Machinery) -> None:
    nothing(m.identity.Identity, "check")


@defect("start() does not connect", "L11/before_the_broker")
def _(m: Machinery) -> None:
    nothing(m.link.Link, "start")


@defect("connect() after start() makes a connection of its own", "L11/never_succeeds")
def _(m: Machinery) -> None:
    @instead(m.connector.MessageConnector, "_wait_until_up")
    async def wait(original: Any, self: Any) -> None:
        await self._open()


@defect("a settings function is called once", "L12/at_each_attempt")
def _(m: Machinery) -> None:
    @instead(m.link.Link, "_present_settings")
    async def present(original: Any, self: Any) -> Any:
        if self.settings is None:
            await original(self)
        return self.settings


@defect("what a settings function says of a secret is shown", "L12/at_each_attempt")
def _(m: Machinery) -> None:
    instead(m.link, "_where_raised")(lambda original, error: str(error))


@defect("a settings function has no time-out", "L12/hangs")
def _(m: Machinery) -> None:
    @instead(m.link.Link, "_call_source")
    async def call(original: Any, self: Any, source: Any) -> Any:
        found = source()
        return await found if asyncio.iscoroutine(found) else found


@defect("a password file is read once", "L12/password_file")
def _(m: Machinery) -> None:
    read: dict[Any, Any] = {}

    @instead(m.settings.ConnectorSettings, "present")
    def present(original: Any, self: Any) -> Any:
        found = original(self)
        return read.setdefault(os.fspath(self.password_file), found) if self.password_file else found
