"""Defects in what listeners get: whose messages, which, in which order, and from when on."""

import asyncio
from contextlib import asynccontextmanager
from math import inf
from typing import Any

from .patching import Machinery, defect, instead, nothing


@defect("each message is delivered twice", "M1")
def _(m: Machinery) -> None:
    @instead(m.listeners.Pending, "put")
    def put(original: Any, self: Any, batch: Any) -> None:
        original(self, batch)
        original(self, batch)


@defect("own messages are not filtered", "M2")
def _(m: Machinery) -> None:
    nothing(m.wire, "is_from", False)


@defect("a node is known by its name", "M2/two_nodes")
def _(m: Machinery) -> None:
    nothing(m.identity, "draw", b"the same node id")


@defect("messages() returns before it is live", "M12/pulled")
def _(m: Machinery) -> None:
    @asynccontextmanager
    async def messages(original: Any, self: Any, topic: str, key: str | None = None) -> Any:
        pulled = self._node.subscriptions.pulled(topic, key)
        adding = asyncio.ensure_future(self._node.subscriptions.add(pulled))
        yield pulled
        await adding
        await self._node.subscriptions.remove(pulled)

    instead(m.connector.MessageConnector, "messages")(messages)


@defect("messages() goes on after its block", "M12/pulled")
def _(m: Machinery) -> None:
    @instead(m.subscriptions.Subscriptions, "remove")
    async def remove(original: Any, self: Any, subscription: Any) -> None:
        if not isinstance(subscription, m.listeners.PulledSubscription):
            await original(self, subscription)


@defect("messages() does not end with close()", "M12/connector_closes")
def _(m: Machinery) -> None:
    nothing(m.listeners.PulledSubscription, "_end")


@defect("close() drops what waits to be pulled", "M12/connector_closes")
def _(m: Machinery) -> None:
    @instead(m.listeners.PulledSubscription, "finish")
    async def finish(original: Any, self: Any, within: float) -> None:
        self.stop()


@defect("each listener subscribes at the broker", "M4/share")
def _(m: Machinery) -> None:
    @instead(m.subscriptions.TopicState, "begin")
    async def begin(original: Any, self: Any, connection: Any, within: float) -> Any:
        begun = await original(self, connection, within)
        self.connection = None
        return begun


@defect("the last listener does not unsubscribe at the broker", "M4/share")
def _(m: Machinery) -> None:
    @instead(m.subscriptions.TopicState, "end")
    async def end(original: Any, self: Any, within: float) -> None:
        pass


@defect("a subscribe that timed out is left at the broker", "M4/timed_out")
def _(m: Machinery) -> None:
    @instead(m.subscriptions.Subscriptions, "add")
    async def add(original: Any, self: Any, *args: Any) -> None:
        release, self._release = self._release, lambda _: asyncio.sleep(0)
        try:
            await original(self, *args)
        except m.errors.SubscribeUnconfirmedError:
            raise
        finally:
            self._release = release


@defect("an unsubscribe that failed is not tried again", "M4/unsubscribe_that_failed")
def _(m: Machinery) -> None:
    @instead(m.subscriptions.Subscriptions, "_insist")
    async def insist(original: Any, self: Any, state: Any) -> None:
        pass


@defect("unsubscribing one listener unsubscribes all", "M5/that_listener_alone")
def _(m: Machinery) -> None:
    @instead(m.subscriptions.Subscriptions, "remove")
    async def remove(original: Any, self: Any, subscription: Any) -> None:
        for each in list(self.of(subscription.topic)):
            await original(self, each)


@defect("what waits is delivered after unsubscribe", "M5/goes_with_it")
def _(m: Machinery) -> None:
    @instead(m.listeners.Pending, "stop")
    def stop(original: Any, self: Any) -> None:
        self.live = False


@defect("a second listener gets what was sent before", "M3/on_its_way")
def _(m: Machinery) -> None:
    @instead(m.subscriptions.Subscriptions, "_bring")
    async def bring(original: Any, self: Any, states: Any, subscription: Any) -> None:
        subscription.live = True
        await original(self, states, subscription)


@defect("a key subscribes to all shards", "M4/its_shard_alone")
def _(m: Machinery) -> None:
    instead(m.shards.Shards, "topics")(lambda original, self, topic, key: original(self, topic, None))


@defect("the keys of messages are not told apart by all nodes alike", "M7/one_key M1/one_key")
def _(m: Machinery) -> None:
    @instead(m.shards.Shards, "topic")
    def topic(original: Any, self: Any, topic: str, key: str | None) -> str:
        return original(self, topic, key and f"{key}{id(self)}")  # type: ignore[no-any-return]


@defect("a listener with two keys of a shard leaves with the first", "M5/two_keys")
def _(m: Machinery) -> None:
    @instead(m.subscriptions.Subscriptions, "unsubscribe")
    async def unsubscribe(original: Any, self: Any, topic: str, listener: Any, key: str | None) -> None:
        if found := self._find(self._shards.topics(topic, key), listener):
            found.keys.intersection_update({key})
        await original(self, topic, listener, key)


@defect("every private topic is the same", "M8")
def _(m: Machinery) -> None:
    nothing(m.topics, "private_topic", "PRIVATE")
    m.package.private_topic = m.topics.private_topic


@defect("a member of an enumeration is its name", "M6/enumeration")
def _(m: Machinery) -> None:
    for module in (m.topics, m.connector):
        instead(module, "text_of")(lambda original, topic: str(getattr(topic, "name", topic)))


@defect("what waits leaves in the wrong order", "M7/in_order")
def _(m: Machinery) -> None:
    @instead(m.sending.Sender, "_ship")
    def ship(original: Any, self: Any, lane: Any, now: float, outcomes: Any) -> Any:
        if lane.waiting:
            lane.waiting.reverse()
        return original(self, lane, now, outcomes)


@defect("a listener that raises gets nothing more", "M10/raises M10/whatever")
def _(m: Machinery) -> None:
    @instead(m.listeners.Subscription, "_complain")
    def complain(original: Any, self: Any, error: BaseException) -> None:
        original(self, error)
        self.stop()


@defect("an exception that cannot say what it is ends the delivery", "M10/whatever")
def _(m: Machinery) -> None:
    for module in (m.events, m.listeners, m.connector, m.subscriptions):
        instead(module, "shown")(lambda original, value, form=repr: form(value))


@defect("listeners share one object", "M10/no_other_sees")
def _(m: Machinery) -> None:
    @instead(m.listeners.Pending, "put")
    def put(original: Any, self: Any, batch: Any) -> None:
        messages = batch.messages
        original(self, batch)
        batch.messages = messages


@defect("a slow listener holds up the others", "M11/delays_nobody")
def _(m: Machinery) -> None:
    lock = asyncio.Lock()

    @instead(m.listeners.Subscription, "_work")
    async def work(original: Any, self: Any) -> None:
        async with lock:
            await original(self)


@defect("what waits for a listener has no limit", "M11/too_slow M11/too_many_bytes M12/bounded")
def _(m: Machinery) -> None:
    nothing(m.listeners.Pending, "_trim")


@defect("the newest are dropped", "M11/too_slow")
def _(m: Machinery) -> None:
    @instead(m.listeners.Pending, "put")
    def put(original: Any, self: Any, batch: Any) -> None:
        if self.waiting < self._most:
            original(self, batch)
        elif self.live:
            self._slow.add(batch.count)


@defect("a slow listener's losses are miscounted", "M11/too_slow")
def _(m: Machinery) -> None:
    @instead(m.listeners.Pending, "_slow_error")
    def slow_error(original: Any, self: Any, count: int) -> Any:
        return original(self, 1)


@defect("each of a flood is told", "M11/told_once S4/flood")
def _(m: Machinery) -> None:
    m.floods.PAUSE = 0.0


@defect("a second episode of slowness is not told", "M11/each_episode")
def _(m: Machinery) -> None:
    @instead(m.floods.Flood, "add")
    def add(original: Any, self: Any, count: int) -> None:
        if self._last == -inf:
            original(self, count)


@defect("a large frame counts as a slow listener", "M11/quick_listener")
def _(m: Machinery) -> None:
    @instead(m.listeners.Pending, "_plan_trim")
    def plan(original: Any, self: Any) -> None:
        self._trim()


@defect("a listener that closes waits for itself", "M9")
def _(m: Machinery) -> None:
    nothing(m.listeners.Subscription, "is_calling_us", False)
    nothing(m.connector.MessageConnector, "_is_called_by_us", False)


@defect("a listener's queue is worked on at one go", "T2/busy_listener")
def _(m: Machinery) -> None:
    for module in (m.listeners,):
        module.SLICE = 1e9


@defect("a large message is decoded for all listeners at one go", "T2/large_message")
def _(m: Machinery) -> None:
    @instead(m.listeners.Pending, "put")
    def put(original: Any, self: Any, batch: Any) -> None:
        batch.messages = batch.serialization.copy(batch.body)
        original(self, batch)
