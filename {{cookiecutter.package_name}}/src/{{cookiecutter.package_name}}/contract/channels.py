"""Which topics the broker is to deliver, and to whom: its side is made to agree with the listeners'."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Generic

from .errors import ClosedError, SubscribeError, UnsubscribeError
from .link import Connection, Link, Lost
from .listeners import Listener, Subscription
from .transport import S

SIDE_BY_SIDE = 250
"""How many topics are restored at a time."""


class Channel(Generic[S]):
    """The listeners of one topic, and the connection on which the broker delivers it."""

    def __init__(self, topic: str, forget: Callable[[str], None]) -> None:
        self.topic = topic
        self.forget = forget
        self.subscriptions: list[Subscription] = []
        self.connection: Connection[S] | None = None
        self.lock = asyncio.Lock()

    @property
    def is_idle(self) -> bool:
        """Whether nobody listens, and the broker neither delivers nor is being asked to."""
        return not (self.subscriptions or self.connection or self.lock.locked())

    async def settle(self, connection: Connection[S], within: float) -> None:
        """Subscribe or unsubscribe at the broker, whichever the listeners call for, if any.

        Raises what the transport raised, `Lost` or `TimeoutError`.
        """
        async with self.lock:
            wanted, given = bool(self.subscriptions), self.connection is connection
            if wanted and not given:
                self.connection = None
                await connection.call(connection.transport.subscribe(self.topic), within)
                self.connection = connection
            elif not wanted:
                self.connection = None
                if given:
                    try:
                        await connection.call(connection.transport.unsubscribe(self.topic), within)
                    finally:
                        self.forget(self.topic)

    def find(self, listener: Listener) -> Subscription | None:
        """Return the listener's subscription."""
        return next((each for each in self.subscriptions if each.listener == listener), None)


class Channels(Generic[S]):
    """The topics to which this node listens; `forget` is told of each to which it no longer does."""

    def __init__(
        self, settings: S, link: Link[S], report: Callable[[Exception], None], forget: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._link = link
        self._report = report
        self._forget = forget
        self._channels: dict[str, Channel[S]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Subscription]:
        return (each for channel in self._channels.values() for each in channel.subscriptions)

    def of(self, topic: str) -> list[Subscription]:
        """Return the subscriptions to `topic`."""
        channel = self._channels.get(topic)
        return channel.subscriptions if channel else []

    async def subscribe(self, topic: str, listener: Listener) -> None:
        """Add a listener; return when it is live. A listener that is there already is not added again.

        Raises `SubscribeError`, or `ClosedError`; then, and when cancelled, the listener is not there.
        """
        channel = self._channels.setdefault(topic, Channel(topic, self._forget))
        subscription = channel.find(listener)
        is_new = subscription is None
        if subscription is None:
            subscription = Subscription(topic, listener, self._settings.max_pending_messages, self._report)
            subscription.live = channel.is_idle
            channel.subscriptions.append(subscription)
        try:
            await self._finish(self._bring(channel, subscription))
        except BaseException:
            if is_new and subscription in channel.subscriptions:
                self._remove(channel, subscription)
                self._start(self._release(channel))
            raise

    async def unsubscribe(self, topic: str, listener: Listener) -> None:
        """Take a listener away, at once; return when the broker has been told, if it was the last.

        Raises `UnsubscribeError` for a listener that is not there, or if the broker objects.
        """
        channel = self._channels.get(topic)
        subscription = channel.find(listener) if channel else None
        if channel is None or subscription is None:
            raise UnsubscribeError(
                f"The listener {listener!r} is not subscribed to topic {topic!r}: "
                "unsubscribe the same object that was subscribed, once."
            )
        self._remove(channel, subscription)
        if not channel.subscriptions:
            await self._finish(self._release(channel))

    async def restore(self, connection: Connection[S]) -> None:
        """Subscribe to every topic on a new connection, side by side.

        A refusal is reported and leaves the others alone; any other failure is raised.
        """
        within = self._settings.publish_timeout
        channels = list(self._channels.values())
        for start in range(0, len(channels), SIDE_BY_SIDE):
            group = channels[start : start + SIDE_BY_SIDE]
            results = await asyncio.gather(
                *(channel.settle(connection, within) for channel in group), return_exceptions=True
            )
            for channel, result in zip(group, results, strict=True):
                if isinstance(result, SubscribeError):
                    self._report(self._failure(channel.topic, result))
                elif result is not None:
                    raise result
                elif not channel.subscriptions:  # all its listeners have left meanwhile
                    await channel.settle(connection, within)
                self._tidy(channel)

    async def close(self, within: float) -> None:
        """Let the listeners finish within so many seconds, and fail the calls that wait."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(subscription.finish(within) for subscription in self))
        self._channels.clear()

    async def _bring(self, channel: Channel[S], subscription: Subscription) -> None:
        """Make a subscription live, on this connection or the next."""
        loop = asyncio.get_running_loop()
        connection = None
        deadline = 0.0
        while subscription in channel.subscriptions:
            if connection is not (connection := await self._link.up()):
                deadline = loop.time() + self._settings.publish_timeout
            try:
                await channel.settle(connection, self._settings.publish_timeout)
                if not subscription.live:
                    # What was sent before this call is on its way to other listeners: let it pass.
                    await connection.call(connection.transport.ping(), self._settings.heartbeat)
                    subscription.live = subscription in channel.subscriptions
                return
            except Lost:
                continue
            except SubscribeError as refusal:
                raise self._failure(channel.topic, refusal) from None
            except Exception as error:
                if loop.time() + self._settings.reconnect_delay_min > deadline:
                    raise self._failure(channel.topic, error) from self._settings.cause(error)
            await asyncio.sleep(self._settings.reconnect_delay_min)

    async def _release(self, channel: Channel[S]) -> None:
        """Unsubscribe at the broker, if nobody listens any more and the connection is still there."""
        try:
            if self._link.is_up:
                await channel.settle(await self._link.up(), self._settings.publish_timeout)
        except Lost:
            pass
        except Exception as error:
            raise UnsubscribeError(
                f"{self._settings.where} did not end the subscription to topic {channel.topic!r}: "
                f"{self._settings.describe(error)}. The listener gets nothing more all the same."
            ) from self._settings.cause(error)
        finally:
            self._tidy(channel)

    def _tidy(self, channel: Channel[S]) -> None:
        if channel.is_idle and self._channels.get(channel.topic) is channel:
            del self._channels[channel.topic]

    def _remove(self, channel: Channel[S], subscription: Subscription) -> None:
        subscription.stop()
        channel.subscriptions.remove(subscription)
        if not channel.subscriptions:
            self._forget(channel.topic)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` to its end also if the caller is cancelled."""
        task = self._start(work)
        await asyncio.wait((task,))
        if task.cancelled():
            raise ClosedError("The connector was closed while the call waited: nothing was changed at the broker.")
        task.result()

    def _failure(self, topic: str, error: Exception) -> SubscribeError:
        return SubscribeError(
            f"{self._settings.where} did not subscribe to topic {topic!r}: {self._settings.describe(error)}. "
            "Check the topic, and the rights of the user at the broker."
        )
