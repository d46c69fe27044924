"""A channel layer for Django Channels: `"BACKEND": "….hosts.channels.ConnectorChannelLayer"` in `CHANNEL_LAYERS`."""

import asyncio
import os
import secrets
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar

from channels.exceptions import ChannelFull, MessageTooLarge
from channels.layers import BaseChannelLayer, channel_layers

from .. import BlockingConnector, Settings
from ..contract import ClosedError, MessageTooLargeError, OutboxFullError
from .joining import Joined, start
from .losses import watch
from .mailboxes import MISSED, Mailboxes
from .values import pack, unpack

__all__ = ["MISSED", "ConnectorChannelLayer", "lifespan"]


class ConnectorChannelLayer(BaseChannelLayer):
    """Carries the groups and channels of Django Channels to all processes, through outages of the broker.

    One layer serves all event loops and threads of a process, through one connector. All processes share one topic,
    `topic`; `settings` are the connector's, and those that are not given come from the environment.

    At most `capacity` messages wait in one channel of this process, or as `channel_capacity` says for the channel's name,
    and none longer than `expiry` seconds. A channel is forgotten, with its groups, `expiry` seconds after a `receive` of
    it was cancelled, and when nobody has received from it for `group_expiry` seconds.

    A consumer that can fetch its state again joins the group `MISSED`. It gets a message of the type `MISSED` in the
    place of missing messages, whatever the cause.
    """

    extensions: ClassVar = ["groups", "flush"]

    def __init__(
        self,
        topic: str = "channels",
        *,
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 1000,
        channel_capacity: dict[Any, int] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(expiry=expiry, capacity=capacity)
        self.channel_capacity = self.compile_capacities(channel_capacity or {})
        self.group_expiry = group_expiry
        self._topic = topic
        known = Settings(**settings)
        self._is_sharded = known.shards > 1
        self._connector = BlockingConnector(known)
        self._begin()
        if hasattr(os, "register_at_fork"):
            begin = weakref.WeakMethod(self._begin)
            os.register_at_fork(after_in_child=lambda: (found := begin()) and found())

    def _begin(self) -> None:
        """Begin as in a process that has not used the layer yet."""
        self._process = secrets.token_hex(8)
        self._boxes = Mailboxes(self.expiry, self.group_expiry, self.get_capacity, self._unlisten)
        self._sending = threading.RLock()
        """Held to send to a group: its channels here get messages in the same order as those elsewhere."""
        self._lock = threading.RLock()
        self._listening: dict[str, Future[None]] = {}
        """By key: done when messages with this key arrive, or will when the broker is back."""
        self._joined: Joined | None = None
        """The subscriber, from the first connection on."""

    # Channels.

    async def new_channel(self, prefix: str = "specific.") -> str:
        """Return the name of a new channel of this process; what any process sends to it arrives from now on.

        In an outage, the channel hears other processes when the broker is back.

        Raises:
            SubscribeRefusedError: the broker refused, and is asked again every 5 s.
            ClosedError: the layer was closed.
        """
        channel = f"{prefix}.{self._process}!{secrets.token_hex(8)}"
        self.require_valid_channel_name(channel)
        await self._listen(_key(channel))
        self._boxes.open(channel)
        return channel

    async def send(self, channel: str, message: Any) -> None:
        """Send `message` to a channel; return when it has its place behind those sent before.

        A message to a channel of no process waits here, until a process that receives from the channel asks for it.

        Raises:
            ChannelFull: the messages that wait here fill the channel, or the connector's outbox.
            MessageTooLarge, SerializationError: the message was not taken.
            What `new_channel` raises: the channel is of no process.
        """
        self.require_valid_channel_name(channel)
        content = pack(message)
        owner = _owner(channel)
        try:
            if owner == self._process:
                self._boxes.put(channel, content, must_fit=True)
            elif owner:
                self._publish("send", channel, content, _key(channel))
            else:
                await self._listen(_key(channel))
                if not self._boxes.put(channel, content, must_fit=True):
                    with suppress(OutboxFullError):  # the next one who receives still asks for it
                        self._publish("have", channel, None, _key(channel))
        except (OverflowError, OutboxFullError) as error:
            raise ChannelFull(str(error)) from error
        await _others_have_their_turn()

    async def receive(self, channel: str) -> Any:
        """Return the next message of a channel; of several waiters, the first gets it. Cancelling loses no message.

        Raises:
            ValueError: the channel belongs to another process.
            OutboxFullError: the channel is of no process, and others cannot be asked for a message.
            What `new_channel` raises.
        """
        self.require_valid_channel_name(channel)
        if not self._can_receive(channel):
            raise ValueError(
                f"channel = {channel!r}: belongs to another process; only that process can receive from it"
            )
        await self._listen(_key(channel))
        return unpack(await self._boxes.receive(channel, lambda: self._ask(channel)))

    # Groups.

    async def group_add(self, group: str, channel: str) -> None:
        """Let the channel get what is sent to the group from now on; one of another process, once that knows."""
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        if self._can_receive(channel):
            self._boxes.join(group, channel)
            await self._listen(group)
        else:
            self._publish("group_add", group, channel, _key(channel))

    async def group_discard(self, group: str, channel: str) -> None:
        """Let the channel get no more of what is sent to the group; do nothing if it is not in it."""
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        if self._can_receive(channel):
            self._boxes.leave(group, channel)
        else:
            self._publish("group_discard", group, channel, _key(channel))

    async def group_send(self, group: str, message: Any) -> None:
        """Send `message` to all channels of a group, in all processes; return when it has its place behind earlier ones.

        A channel that is full misses it. While the broker is away, the message waits in the connector.

        Raises:
            MessageTooLarge, SerializationError, OutboxFullError: the message was not taken.
        """
        self.require_valid_group_name(group)
        content = pack(message)
        with self._sending:
            self._publish("group_send", group, content, group)
            self._boxes.put_group(group, content)
        await _others_have_their_turn()

    # Ends.

    async def flush(self) -> None:
        """Forget all messages and groups of this process; waiters for messages keep waiting."""
        self._boxes.clear()

    async def close(self) -> None:
        """Send what waits, and end the connection for good."""
        with self._lock:
            self._listening.clear()
        await asyncio.to_thread(self._connector.close)

    # The connector.

    def _can_receive(self, channel: str) -> bool:
        return _owner(channel) in (None, self._process)

    async def _listen(self, key: str) -> None:
        """Return when messages with this key arrive from other processes; in an outage, at once, and they do later."""
        listening = self._begin_to_listen(key)
        if not listening.done():
            await asyncio.shield(asyncio.wrap_future(listening))

    def _begin_to_listen(self, key: str) -> "Future[None]":
        if not self._is_sharded:
            key = ""  # one stands for all
        with self._lock:
            found = self._listening.get(key)
            if found is None or (found.done() and (found.cancelled() or found.exception())):
                found = self._listening[key] = self._connector.submit(partial(self._join, key))
            return found

    async def _join(self, key: str, connector: Any) -> None:
        if self._joined is None:
            await start(connector)
        if self._joined is None:
            watch(connector, self._topic, self._boxes.miss)
            self._joined = Joined(connector, self._topic, self._take)
        await self._joined.join(key)

    def _unlisten(self, group: str) -> None:
        """Get no more messages of a group that has no channels here."""

        async def leave(_: object) -> None:
            if self._joined:
                await self._joined.leave(group)

        with self._lock, suppress(ClosedError):
            if self._listening.pop(group, None):
                self._connector.submit(leave)

    def _publish(self, kind: str, name: str, content: Any, key: str) -> None:
        try:
            self._connector.publish_nowait(self._topic, [kind, name, content], key=key)
        except MessageTooLargeError as error:
            raise MessageTooLarge(str(error)) from error

    def _ask(self, channel: str) -> None:
        """Ask for a message of a channel that is of no process."""
        if _owner(channel) is None:
            self._publish("want", channel, self._process, _key(channel))

    def _take(self, message: Any) -> None:
        """Do what another process has published."""
        boxes = self._boxes
        kind, name, content = message
        match kind:
            case "group_send":
                boxes.put_group(name, content)
            case "send" if _owner(name) == self._process:
                boxes.put(name, content)
            case "group_add" if _owner(content) == self._process:
                boxes.join(name, content)
                self._begin_to_listen(name)
            case "group_discard" if _owner(content) == self._process:
                boxes.leave(name, content)
            case "have" if boxes.is_awaited(name):
                self._publish("want", name, self._process, _key(name))
            case "want" if found := boxes.take(name):
                self._publish("give", name, [content, found[1]], _key(name))
            case "give" if content[0] == self._process and not boxes.put(name, content[1]):
                self._publish("have", name, None, _key(name))


async def lifespan(_: object, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    """Close the layers when the server stops: `ProtocolTypeRouter({"lifespan": lifespan, …})`.

    uvicorn ends itself with the signal that stopped it, without the interpreter's exit, where layers otherwise close.
    """
    while (await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    for layer in channel_layers.backends.values():
        if isinstance(layer, ConnectorChannelLayer):
            await layer.close()
    await send({"type": "lifespan.shutdown.complete"})


def _owner(channel: str) -> str | None:
    """Return the one process that can receive from a channel; None means any process."""
    name, mark, _ = channel.partition("!")
    return name.rpartition(".")[2] if mark else None


def _key(channel: str) -> str:
    """Return the key of messages of a channel, which no group has."""
    return f"{_owner(channel) or channel}!"


async def _others_have_their_turn() -> None:
    """Let the event loop go round, so that a task that sends without end does not keep others waiting."""
    await asyncio.sleep(0)
