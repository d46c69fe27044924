"""The topics to which this node listens: the broker's side is made to agree with the listeners'."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from typing import Any, Generic

from . import tasks
from .connection import Connection, Lost
from .errors import (
    ClosedError,
    SubscribeRefusedError,
    SubscribeUnconfirmedError,
    UnsubscribeError,
)
from .events import shown
from .floods import Report
from .link import Link
from .listeners import Listener, Pending, PulledSubscription, Subscription, Turns
from .shards import Shards
from .transport import S

SIDE_BY_SIDE = 250
"""The number of topics that are restored, or of listeners that are ended, at a time."""


class Coming:
    """A listener that is being added; the `callers` wait for it, with their keys."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.task = task
        self.callers: list[str | None] = []
        self.come: set[str | None] = set()
        """The keys for which a caller was told that it is there."""


class TopicState(Generic[S]):
    """The listeners of one topic of the broker, and the connection on which the broker delivers it.

    `is_sure` is False while the broker has not confirmed the last request, so that it may deliver or not.
    """

    def __init__(self, topic: str, on_begin: Callable[[str], None], on_left: Callable[[str], None]) -> None:
        self.topic = topic
        self.called_at = 0.0
        self.subscriptions: list[Pending] = []
        self.connection: Connection[S] | None = None
        self.is_sure = True
        self._on_begin = on_begin
        self._on_left = on_left
        self._lock = asyncio.Lock()

    @property
    def is_idle(self) -> bool:
        """Whether nobody listens, and the broker neither delivers nor is being asked to."""
        return not (self.subscriptions or self.connection or self._lock.locked())

    async def begin(self, connection: Connection[S], within: float) -> bool:
        """Subscribe at the broker, unless nobody listens, or it delivers on this connection already.

        Returns whether it did. Raises what the transport raised, `Lost` or `TimeoutError`.
        """
        try:
            async with asyncio.timeout(within):
                await self._lock.acquire()
        except TimeoutError:
            raise TimeoutError("an earlier request for the topic has no answer yet") from None
        try:
            if not self.subscriptions:
                return False
            self._on_begin(self.topic)
            if self.connection is connection and self.is_sure:
                return False
            self.connection, self.is_sure = connection, False
            try:
                await connection.call(connection.transport.subscribe(self.topic), within)
            except (Lost, SubscribeRefusedError):
                self.connection = None
                raise
            self.is_sure = True
            return True
        finally:
            self._lock.release()

    async def end(self, within: float) -> None:
        """Unsubscribe at the broker if nobody listens, and it delivers or may do so.

        Raises what the transport raised, `Lost` or `TimeoutError`.
        """
        async with self._lock:
            connection = self.connection
            if connection is None or self.subscriptions:
                return
            self.is_sure = False
            try:
                await connection.call(connection.transport.unsubscribe(self.topic), within)
            except Lost:
                self.connection = None
                raise
            finally:
                self._on_left(self.topic)
            self.connection = None


class Subscriptions(Generic[S]):
    """The topics of the broker to which this node listens.

    `on_begin(topic)` is called before the broker is asked for a topic to which somebody listens.
    `on_live(topic)` is called when the broker has begun to deliver a topic because of a first listener; `restore`
    does not call it. `on_left(topic)` is called when the last listener has gone, and again when the broker has been
    told. `settled(topic)` is awaited, for a while, before a further listener becomes live: it returns when no gap is
    being repaired on the topic. None of them raises.
    """

    def __init__(
        self,
        settings: S,
        link: Link[S],
        report: Report,
        *,
        on_begin: Callable[[str], None],
        on_live: Callable[[str], None],
        on_left: Callable[[str], None],
        settled: Callable[[str], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._link = link
        self._report = report
        self._on_begin = on_begin
        self._on_live = on_live
        self._on_left = on_left
        self._settled = settled
        self._turns = Turns()
        self._shards = Shards(settings.shards)
        self._topics: dict[str, TopicState[S]] = {}
        self._coming: dict[Pending, Coming] = {}
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._is_closed = False

    def __iter__(self) -> Iterator[Pending]:
        """The listeners, each once."""
        return iter(dict.fromkeys(each for state in self._topics.values() for each in state.subscriptions))

    def of(self, topic: str) -> list[Pending]:
        """Return the subscriptions to a topic of the broker, including those that are not live yet."""
        state = self._topics.get(topic)
        return state.subscriptions if state else []

    def is_delivered(self, topic: str) -> bool:
        """Tell whether the broker delivers `topic` for sure."""
        state = self._topics.get(topic)
        return bool(state and state.is_sure and state.connection and not state.connection.gone.done())

    def called_at(self, topic: str) -> float:
        """Return the event loop's time at which the first of the present listeners of `topic` was added.

        That is the present time if nobody listens.
        """
        state = self._topics.get(topic)
        return state.called_at if state and state.subscriptions else asyncio.get_running_loop().time()

    def behind(self, topic: str) -> int:
        """Return the number of messages that wait for the slowest listener of `topic`."""
        return max((each.waiting for each in self.of(topic)), default=0)

    def pulled(self, topic: str, key: str | None) -> PulledSubscription:
        """Return a listener that is pulled, to be handed to `add` and then to `remove`."""
        topics = self._shards.topics(topic, key)
        return PulledSubscription(topic, topics, self._settings, self._report, self._turns)

    async def subscribe(self, topic: str, listener: Listener, key: str | None) -> None:
        """Add a listener that is called, for the messages of one key or for all.

        A listener that gets these messages already, for another key of the same shard, is not added again. Otherwise
        like `add`.
        """
        topics = self._shards.topics(topic, key)
        subscription = self._find(topics, listener)
        if subscription is None:
            subscription = Subscription(topic, topics, listener, self._settings, self._report, self._turns)
        await self.add(subscription, key)

    async def unsubscribe(self, topic: str, listener: Listener, key: str | None) -> None:
        """Remove a listener that is called, unless it was subscribed with another key of the same shard, too.

        Raises `UnsubscribeError` if it is not there with this key. Otherwise like `remove`.
        """
        subscription = self._find(self._shards.topics(topic, key), listener)
        if subscription is None or key not in subscription.keys:
            with_key = "" if key is None else f" with key {key!r}"
            raise UnsubscribeError(
                f"The listener {shown(listener)} is not subscribed to topic {topic!r}{with_key}: "
                "unsubscribe once, with the object that was subscribed."
            )
        subscription.keys.remove(key)
        if not subscription.keys:
            await self.remove(subscription)

    async def add(self, subscription: Pending, key: str | None = None) -> None:
        """Add a listener; return when it is live. During an outage, wait for the connection, however long.

        Raises `SubscribeRefusedError` if the broker refused; `SubscribeUnconfirmedError` if it did not confirm within
        `publish_timeout` on a connection; `ClosedError`. Then the listener is not there, and nothing of it is left at
        the broker, or will be once that answers. The same holds if the call is cancelled, unless another call waits for
        the same listener, or has added it.
        """
        coming = self._coming.get(subscription)
        if coming is None and not self._is_there(subscription):
            states = self._put(subscription)
            coming = self._coming[subscription] = Coming(self._start(self._bring(states, subscription)))
        subscription.keys.add(key)
        if coming is None:
            return
        coming.callers.append(key)
        try:
            await asyncio.wait((coming.task,))
            if not coming.task.cancelled():
                coming.task.result()
            elif self._is_closed:
                raise self._closed()
            coming.come.add(key)
        except BaseException:
            if key not in coming.come and coming.callers.count(key) == 1 and self._is_there(subscription):
                subscription.keys.discard(key)
                if not subscription.keys:
                    for state in self._take_away(subscription):
                        if not self._is_closed:
                            self._start(self._release(state))
            raise
        finally:
            coming.callers.remove(key)
            if not coming.callers:
                del self._coming[subscription]

    async def remove(self, subscription: Pending) -> None:
        """Remove a listener at once; return when the broker has been told, if it was the last.

        Raises `UnsubscribeError` if the broker objects or does not answer; even then the listener gets nothing more.
        Cancelling ends the wait only. A missing listener is not an error.
        """
        if self._is_there(subscription):
            states = self._take_away(subscription)
            await self._through(*[self._release(state) for state in states if not state.subscriptions])

    async def restore(self, connection: Connection[S]) -> None:
        """Subscribe again to every topic that has a listener already, side by side.

        A refusal is reported and leaves the others alone; any other failure is raised. A listener that waits to be
        subscribed sees to that itself, once there is a connection: it must not delay the others.
        """
        within = self._settings.publish_timeout
        coming = self._coming
        states = [state for state in self._topics.values() if any(each not in coming for each in state.subscriptions)]
        for first in range(0, len(states), SIDE_BY_SIDE):
            group = states[first : first + SIDE_BY_SIDE]
            results = await asyncio.gather(
                *(state.begin(connection, within) for state in group), return_exceptions=True
            )
            for state, result in zip(group, results, strict=True):
                if isinstance(result, SubscribeRefusedError):
                    self._report(self._refusal(self._shards.coarse(state.topic), result))
                elif isinstance(result, BaseException):
                    raise result

    async def close(self, within: float) -> None:
        """Fail the calls that wait, and let the listeners finish within `within` seconds."""
        self._is_closed = True
        while self._tasks:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.wait(list(self._tasks))
        finishing = []
        for index, subscription in enumerate(list(self)):
            if index % SIDE_BY_SIDE == 0:
                await asyncio.sleep(0)
            if subscription.is_idle:
                subscription.stop()
            else:
                finishing.append(tasks.start(subscription.finish(within)))
        await asyncio.gather(*finishing)
        self._topics.clear()

    async def _bring(self, states: list[TopicState[S]], subscription: Pending) -> None:
        """Make a subscription live, on this connection or a later one."""
        settings, time = self._settings, asyncio.get_running_loop().time
        connection = None
        deadline = 0.0
        while True:
            if connection is not (connection := await self._link.up()):
                deadline = time() + settings.publish_timeout
            try:
                within = max(deadline - time(), settings.reconnect_delay_min)
                await self._through(*[self._begin(state, connection, within) for state in states])
                if not subscription.live:
                    await self._through(connection.call(connection.transport.ping(), settings.heartbeat))
                    await self._wait_until_settled(subscription.topics, deadline - time())
                    subscription.since = time()
                    subscription.live = True
                return
            except Lost:
                continue
            except SubscribeRefusedError as refusal:
                raise self._refusal(subscription.topic, refusal) from self._link.cause(refusal)
            except Exception as error:
                if time() + settings.reconnect_delay_min > deadline:
                    raise SubscribeUnconfirmedError(
                        f"{self._link.where} did not confirm the subscription to topic {subscription.topic!r} within "
                        f"publish_timeout = {settings.publish_timeout:g} s: {self._link.describe(error)}. "
                        "The listener gets nothing; subscribe again when the broker answers.",
                        topic=subscription.topic,
                    ) from self._link.cause(error)
            await asyncio.sleep(settings.reconnect_delay_min)

    async def _wait_until_settled(self, topics: Iterable[str], within: float) -> None:
        """Wait for the repair of a gap; `since` keeps off what that brings after `within` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                for topic in topics:
                    await self._settled(topic)

    async def _begin(self, state: TopicState[S], connection: Connection[S], within: float) -> None:
        if await state.begin(connection, within) and state.subscriptions:
            self._on_live(state.topic)

    async def _release(self, state: TopicState[S]) -> None:
        """Unsubscribe at the broker, if nobody listens any more and the connection is still there."""
        try:
            await state.end(self._settings.publish_timeout)
        except Lost:
            pass
        except Exception as error:
            self._start(self._insist(state))
            raise UnsubscribeError(
                f"{self._link.where} did not end the subscription to topic {self._shards.coarse(state.topic)!r}: "
                f"{self._link.describe(error)}. Even so, the listener gets no more messages."
            ) from self._link.cause(error)
        finally:
            self._tidy(state)

    async def _insist(self, state: TopicState[S]) -> None:
        """Unsubscribe once more; if that fails, too, give the connection up, and the subscription with it."""
        settings = self._settings
        await asyncio.sleep(settings.reconnect_delay_min)
        try:
            await state.end(max(settings.publish_timeout, settings.heartbeat))
        except Lost:
            pass
        except Exception as error:
            connection, state.connection = state.connection, None
            if connection:
                connection.lost(
                    ConnectionAbortedError(
                        "the broker did not end the subscription to topic "
                        f"{self._shards.coarse(state.topic)!r}, to which nobody listens: {self._link.describe(error)}"
                    )
                )
        finally:
            self._tidy(state)

    def _find(self, topics: tuple[str, ...], listener: Listener) -> Pending | None:
        here = self.of(topics[0])
        return next((each for each in here if each.topics == topics and each.listener == listener), None)

    def _is_there(self, subscription: Pending) -> bool:
        return subscription in self.of(subscription.topics[0])

    def _state(self, topic: str) -> TopicState[S]:
        """Return the state of a topic, which begins with the call of its first listener."""
        now = asyncio.get_running_loop().time()
        state = self._topics.get(topic)
        if state is None:
            state = self._topics[topic] = TopicState(topic, self._on_begin, self._on_left)
        if not state.subscriptions:
            state.called_at = now
        return state

    def _put(self, subscription: Pending) -> list[TopicState[S]]:
        """Add a listener to its topics, live if it is the first on all of them; return their states."""
        states = []
        subscription.live = True
        for topic in subscription.topics:
            state = self._state(topic)
            subscription.live = subscription.live and state.is_idle
            state.subscriptions.append(subscription)
            states.append(state)
        return states

    def _take_away(self, subscription: Pending) -> list[TopicState[S]]:
        """Remove a listener at once; return the states of its topics."""
        subscription.stop()
        if coming := self._coming.get(subscription):
            coming.task.cancel()
        states = []
        for topic in subscription.topics:
            state = self._topics[topic]
            state.subscriptions.remove(subscription)
            if not state.subscriptions:
                self._on_left(topic)
            states.append(state)
        return states

    def _tidy(self, state: TopicState[S]) -> None:
        if state.is_idle and self._topics.get(state.topic) is state:
            del self._topics[state.topic]

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = tasks.start(work)
        self._tasks[task] = None
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[Any]") -> None:
        del self._tasks[task]
        if not task.cancelled():
            task.exception()

    async def _through(self, *works: Coroutine[Any, Any, None]) -> None:
        """Run all `works` to the end, side by side, even if the caller is cancelled; raise the first error at once."""
        doing = [self._start(work) for work in works]
        if doing:
            await asyncio.wait(doing, return_when=asyncio.FIRST_EXCEPTION)
        for task in doing:
            if task.cancelled():
                raise self._closed()
            if task.done():
                task.result()

    def _closed(self) -> ClosedError:
        return ClosedError(f"The connector to {self._link.where} was closed during the call: create a new one.")

    def _refusal(self, topic: str, error: Exception) -> SubscribeRefusedError:
        return SubscribeRefusedError(
            f"{self._link.where} refused the subscription to topic {topic!r}: {self._link.describe(error)}. "
            "Check the topic, and the rights of the user at the broker.",
            topic=topic,
        )
