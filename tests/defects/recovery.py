"""Defects in errors, outages, repair, load and rest."""

import asyncio
from math import inf
from typing import Any

from .patching import Machinery, defect, instead, nothing, nothing_later


@defect("a refusal is taken for success", "E3/refused_publish")
def _(m: Machinery) -> None:
    @instead(m.sending.Sender, "_refused")
    def refused(original: Any, self: Any, lane: Any, shipment: Any, why: Any, now: float) -> Any:
        lane.shipment = None
        return [self._settled(lane, shipment.messages, m.sending.ACCEPTED)]


@defect("a refused publish is tried again", "E3/refused_publish")
def _(m: Machinery) -> None:
    @instead(m.sending.Sender, "landed")
    def landed(original: Any, self: Any, lane: Any, error: Any, now: float) -> Any:
        return original(self, lane, OSError("not now") if error else None, now)


@defect("a refusal is an event too", "E1/refused_publish")
def _(m: Machinery) -> None:
    @instead(m.connector.MessageConnector, "_call_back")
    def call_back(original: Any, self: Any, callback: Any, error: Any) -> None:
        original(self, callback, error)
        self._report_failure(error)


@defect("a refused subscription leaves its listener", "E3/refused_subscription")
def _(m: Machinery) -> None:
    @instead(m.subscriptions.Subscriptions, "_take_away")
    def take_away(original: Any, self: Any, subscription: Any) -> Any:
        return [] if subscription in self._coming else original(self, subscription)


@defect("a refused shard leaves the others subscribed", "M4/refused_shard")
def _(m: Machinery) -> None:
    @instead(m.subscriptions.Subscriptions, "_take_away")
    def take_away(original: Any, self: Any, subscription: Any) -> Any:
        return original(self, subscription)[: 1 if subscription in self._coming else None]


@defect("other numbers of shards are not told", "E2/other_shards")
def _(m: Machinery) -> None:
    nothing(m.node_inbox.NodeInbox, "_compare_shards")


@defect("a refusal when restoring undoes the connection", "E3/when_restoring")
def _(m: Machinery) -> None:
    @instead(m.subscriptions.Subscriptions, "restore")
    async def restore(original: Any, self: Any, connection: Any) -> None:
        for state in list(self._topics.values()):
            await state.begin(connection, self._settings.publish_timeout)


@defect("a client's own cancelling ends the sending", "E3/no_refusals")
def _(m: Machinery) -> None:
    @instead(m.connection, "_outcome")
    async def outcome(original: Any, operation: Any) -> Any:
        try:
            await operation
        except Exception as error:
            return error
        return None


@defect("a callback that raises ends the sending", "E2/callback_that_raises E2/whatever_a_callback")
def _(m: Machinery) -> None:
    @instead(m.connector.MessageConnector, "_call_back")
    def call_back(original: Any, self: Any, callback: Any, error: Any) -> None:
        callback(error)


@defect("a handler that raises ends the connector", "E2/handlers_that_raise E2/odd_handlers")
def _(m: Machinery) -> None:
    @instead(m.events._Guard, "__call__")
    def call(original: Any, self: Any, *args: Any) -> None:
        result = self.handler(*args)
        if asyncio.iscoroutine(result):
            self.events.start(self.event, result)


@defect("an error to which nobody listens is dropped", "E2/nobody_listens")
def _(m: Machinery) -> None:
    @instead(m.events.Events, "report")
    def report(original: Any, self: Any, error: Exception) -> None:
        self.emit("error", error)


@defect("an error does not say where", "E2/what_where")
def _(m: Machinery) -> None:
    @instead(m.connector.MessageConnector, "_report")
    def report(original: Any, self: Any, error: Exception) -> None:
        error.args = (str(error).replace(self.settings.where, "the broker"),)
        original(self, error)


@defect("it is ready during an outage", "R1/cut_is_told")
def _(m: Machinery) -> None:
    instead(m.connector.MessageConnector, "is_ready")(lambda original, self: bool(self._node and not self._closing))


@defect("silence is noticed too late", "R1/by_the_clock R1/silence_is_noticed")
def _(m: Machinery) -> None:
    instead(m.connection.Connection, "watch")(lambda original, self, heartbeat: original(self, 100 * heartbeat))


@defect("what arrives puts off the ping", "R1/by_the_clock")
def _(m: Machinery) -> None:
    @instead(m.connection.Connection, "received")
    def received(original: Any, self: Any, topic: str, payload: bytes) -> None:
        if self._next_ping:
            self._next_ping.cancel()
            self.watch(10 * self.transport.settings.heartbeat)
        original(self, topic, payload)


@defect("silence while restoring goes unnoticed", "R1/while_restoring")
def _(m: Machinery) -> None:
    @instead(m.connector.MessageConnector, "_restore")
    async def restore(original: Any, self: Any, connection: Any) -> None:
        connection._next_ping.cancel()
        await original(self, connection)
        connection.watch(self.settings.heartbeat)


@defect("a healthy, idle connection is given up", "R5/silent_node")
def _(m: Machinery) -> None:
    @instead(m.connection.Connection, "_ping")
    def ping(original: Any, self: Any, heartbeat: float) -> None:
        self.lost(TimeoutError("it was silent"))


@defect("a blocked event loop is taken for a loss", "R5/lost_connection")
def _(m: Machinery) -> None:
    nothing(m.connection.Call, "excuse")


@defect("a loop that was blocked is held against the broker", "R3/host_has_blocked")
def _(m: Machinery) -> None:
    nothing(m.outbox.Outbox, "_notice_block")


@defect("each failed attempt is told", "R9/told_once")
def _(m: Machinery) -> None:
    m.link.TELL_AGAIN = 0.0


@defect("a reason that lasts is told once for all", "R9/lasts")
def _(m: Machinery) -> None:
    @instead(m.link.Link, "_tell")
    def tell(original: Any, self: Any, failure: Any) -> None:
        self._told = dict.fromkeys(self._told, inf)
        original(self, failure)


@defect("a failed attempt says nothing of refusals", "R9/vain")
def _(m: Machinery) -> None:
    @instead(m.link.AttemptFailed, "__init__")
    def init(original: Any, self: Any, *args: Any, refused: bool = False, timed_out: bool = False) -> None:
        original(self, *args, timed_out=timed_out)


@defect("ready is not emitted again", "R2/cut_is_told")
def _(m: Machinery) -> None:
    @instead(m.events.Events, "emit")
    def emit(original: Any, self: Any, event: str, *args: Any) -> Any:
        if event == "ready" and getattr(self, "was_ready", False):
            return True
        self.was_ready = event == "ready" or getattr(self, "was_ready", False)
        return original(self, event, *args)


@defect("subscriptions are not restored", "R2/cut_is_told")
def _(m: Machinery) -> None:
    nothing_later(m.subscriptions.Subscriptions, "restore")


@defect("it tries again without a pause", "R2/more_slowly R2/backoff_goes_on")
def _(m: Machinery) -> None:
    nothing(m.link.random, "uniform", 0.0)


@defect("pauses between attempts have no jitter", "R2/more_slowly")
def _(m: Machinery) -> None:
    nothing(m.link.random, "uniform", 1.0)


@defect("pauses begin anew with each connection", "R2/backoff_goes_on")
def _(m: Machinery) -> None:
    @instead(m.link.Link, "_end")
    def end(original: Any, self: Any, gone: Any) -> None:
        original(self, gone)
        self._lasted = inf


@defect("a lost transport is not closed", "R2 L4")
def _(m: Machinery) -> None:
    @instead(m.connection.Connection, "close")
    async def close(original: Any, self: Any) -> None:
        if not self.gone.done():
            await original(self)


@defect("what an abandoned transport receives counts", "R2/abandoned")
def _(m: Machinery) -> None:
    instead(m.connection.Connection, "received")(lambda original, self, topic, payload: self._receive(topic, payload))


@defect("an outage makes a publish hang", "R3/waits_too_long")
def _(m: Machinery) -> None:
    nothing(m.sending.Sender, "_expire", 0)


@defect("an error does not say why there is no connection", "R9/told_once")
def _(m: Machinery) -> None:
    @instead(m.link.Link, "_tell")
    def tell(original: Any, self: Any, failure: Any) -> None:
        original(self, failure)
        self.last_failure = None


@defect("a message that makes the broker cut is sent for ever", "R3/given_up_soon")
def _(m: Machinery) -> None:
    m.sending.STRIKES = 10**9


@defect("what was on its way is dropped at a loss", "R4/on_its_way_is_sent_again")
def _(m: Machinery) -> None:
    @instead(m.sending.Sender, "pause")
    def pause(original: Any, self: Any, *args: Any) -> Any:
        found = original(self, *args)
        for lane in self.busy:
            lane.shipment = None
        return found


@defect("duplicates are delivered", "R4/comes_again")
def _(m: Machinery) -> None:
    @instead(m.receiving.Receiver, "take")
    def take(original: Any, self: Any, topic: str, frame: Any, now: float) -> Any:
        return original(self, topic, frame, now) or [m.receiving.Delivery(topic, frame, 0, now)]


@defect("losses are not reported", "R4/exact_number R4/given_up_is_reported")
def _(m: Machinery) -> None:
    nothing(m.node_inbox.NodeInbox, "_missed")


@defect("losses are counted in frames", "R4/exact_number")
def _(m: Machinery) -> None:
    @instead(m.node_inbox.NodeInbox, "_missed")
    def missed(original: Any, self: Any, loss: Any) -> None:
        original(self, loss._replace(count=1))


@defect("a silent node does not tell its number", "R4/silent_node")
def _(m: Machinery) -> None:
    nothing(m.repair.Repair, "tell")


@defect("nobody asks for what was missed", "R4/meanwhile")
def _(m: Machinery) -> None:
    nothing(m.receiving.Receiver, "_may_ask", False)


@defect("what was sent is not kept", "R4/meanwhile")
def _(m: Machinery) -> None:
    nothing(m.history.History, "add")


@defect("what is repaired is not counted", "R4/meanwhile")
def _(m: Machinery) -> None:
    @instead(m.node_inbox.NodeInbox, "_deliver")
    def deliver(original: Any, self: Any, delivery: Any) -> None:
        original(self, delivery)
        self.repaired = 0


@defect("a node that spoke in an outage only is not asked", "R4/first_message")
def _(m: Machinery) -> None:
    nothing(m.receiving.Receiver, "_first_told")
    m.receiving.BEGINNINGS = 0


@defect("a newcomer gets what is old", "R4/nothing_older R4/newcomer_gets")
def _(m: Machinery) -> None:
    nothing(m.sending.Lane, "owed_since", 0)


@defect("a question that was held up asks for less", "R4/held_up")
def _(m: Machinery) -> None:
    nothing(m.repair.Repair, "_delay", 0.0)


@defect("a second listener gets what was repaired for the first", "R4/second_listener_gets")
def _(m: Machinery) -> None:
    instead(m.subscriptions.Subscriptions, "_wait_until_settled")(lambda original, *_: asyncio.sleep(0))
    m.listeners.Pending.since = property(lambda self: -inf, lambda self, value: None)


@defect("who has left is not forgotten", "R4/who_comes_back")
def _(m: Machinery) -> None:
    nothing(m.connector.Node, "_left")


@defect("hosts may use the control topic", "R4/no_topic_for_hosts")
def _(m: Machinery) -> None:
    instead(m.connector.MessageConnector, "_fault")(lambda original, self, topic: m.topics.topic_fault(topic))


@defect("without a control topic nobody is told of losses", "R4/topic_itself")
def _(m: Machinery) -> None:
    @instead(m.repair.Repair, "tell")
    def tell(original: Any, self: Any, lanes: Any) -> None:
        if self._sender.answers:
            original(self, lanes)


@defect("a user without rights to the control topic cannot connect", "E3/refused_control_topic")
def _(m: Machinery) -> None:
    @instead(m.repair.Repair, "restore")
    async def restore(original: Any, self: Any, connection: Any) -> None:
        await connection.call(connection.transport.subscribe(self.topic), 5)
        self._has_topic = True


@defect("what waits is sent before the others are back", "R7/held")
def _(m: Machinery) -> None:
    @instead(m.repair.Repair, "resume")
    def resume(original: Any, self: Any, *args: Any) -> None:
        original(self, *args)
        self._release()


@defect("what waits is held for good", "R7/held")
def _(m: Machinery) -> None:
    nothing(m.outbox.Outbox, "release")


@defect("only the first host is tried", "R8/bad_first_host")
def _(m: Machinery) -> None:
    @instead(m.link.Link, "_hosts")
    async def hosts(original: Any, self: Any, *args: Any) -> Any:
        return (await original(self, *args))[:1]


@defect("each attempt begins with the first host", "R8/next_attempt")
def _(m: Machinery) -> None:
    @instead(m.link.Link, "_attempt")
    async def attempt(original: Any, self: Any) -> Any:
        self._next_host = 0
        return await original(self)


@defect("a silent host takes all the time", "R8/bad_first_host")
def _(m: Machinery) -> None:
    @instead(m.link.Link, "_establish")
    async def establish(original: Any, self: Any, settings: Any, within: float) -> Any:
        return await original(self, settings, 3 * within)


@defect("unsubscribing waits for the end of the outage", "R6/in_an_outage")
def _(m: Machinery) -> None:
    @instead(m.subscriptions.Subscriptions, "remove")
    async def remove(original: Any, self: Any, subscription: Any) -> None:
        await self._link.up()
        await original(self, subscription)


@defect("messages never share a frame", "T1/leaves_together")
def _(m: Machinery) -> None:
    m.sending.JOINED_MESSAGES = 1


@defect("a lone message waits for others", "T1/at_once")
def _(m: Machinery) -> None:
    @instead(m.outbox.Outbox, "_start")
    def start(original: Any, self: Any, lane: Any, now: float) -> None:
        self._loop.call_later(0.02, original, self, lane, now)


@defect("topics wait for each other", "T1/no_other")
def _(m: Machinery) -> None:
    @instead(m.outbox.Outbox, "_start")
    def start(original: Any, self: Any, lane: Any, now: float) -> None:
        if not self._calls:
            original(self, lane, now)


@defect("sending blocks the event loop", "T2/blocked_for_long")
def _(m: Machinery) -> None:
    @instead(m.outbox.Outbox, "add")
    def add(original: Any, self: Any, *args: Any) -> None:
        sum(range(45_000))
        original(self, *args)


@defect("the outbox has no limit", "T3/outbox T3/small_messages")
def _(m: Machinery) -> None:
    @instead(m.outbox.Outbox, "add")
    def add(original: Any, self: Any, *args: Any) -> None:
        counted, self._sender.bytes = self._sender.bytes, 0
        original(self, *args)
        self._sender.bytes += counted


@defect("small messages cost nothing", "T3/small_messages")
def _(m: Machinery) -> None:
    m.sending.MESSAGE_COST = m.outbox.MESSAGE_COST = 0


@defect("what has left still counts", "T3/outbox")
def _(m: Machinery) -> None:
    @instead(m.sending.Sender, "_settled")
    def settled(original: Any, self: Any, *args: Any) -> Any:
        counted = self.bytes
        found = original(self, *args)
        self.bytes = counted
        return found


@defect("senders are never forgotten", "T3/known_senders")
def _(m: Machinery) -> None:
    nothing(m.receiving.Receiver, "_make_room", True)


@defect("newcomers push out a regular sender", "T3/newcomers")
def _(m: Machinery) -> None:
    m.receiving.SILENCE = 0.0


@defect("a number is told for ever", "T4/four_times T4/cost_nothing")
def _(m: Machinery) -> None:
    m.sending.TELLINGS = tuple(range(1, 1000))
