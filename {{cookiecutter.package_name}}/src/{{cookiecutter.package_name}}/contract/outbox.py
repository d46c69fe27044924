"""What waits on a topic leaves together: one frame of a topic at a time, with what has come meanwhile."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic

from . import frame
from .errors import ConnectorError, MessageTooLargeError, OutboxFullError, PublishError
from .link import Connection
from .transport import S

JOINED_BYTES = 256 * 1024
JOINED_MESSAGES = 4096
"""How much is joined into one frame, so that handling it does not keep the event loop from other work."""

AT_A_TIME = 1000
"""How many messages are given up before other tasks have their turn."""

Settle = Callable[[ConnectorError | None], object]
"""Called with what became of a message: an error, or None once the broker has accepted it."""


class Message:
    """One serialised message on its way, until it is `settled`."""

    __slots__ = ("data", "deadline", "settle", "settled", "was_sent")

    def __init__(self, data: bytes, deadline: float, settle: Settle) -> None:
        self.data = data
        self.deadline = deadline
        self.settle = settle
        self.settled = False
        self.was_sent = False


class Shipment:
    """Messages in one frame, with the number of the first; a frame without any tells the number."""

    __slots__ = ("deadline", "messages", "number", "payload", "tries", "trouble")

    def __init__(self, messages: list[Message], number: int, payload: bytes, deadline: float) -> None:
        self.messages = messages
        self.number = number
        self.payload = payload
        self.deadline = deadline
        self.tries = 0
        self.trouble: BaseException | None = None


class Lane(Generic[S]):
    """One topic: what waits, the one frame that is on its way, and the number of the next message."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.waiting: deque[Message] = deque()
        self.shipment: Shipment | None = None
        self.sender: asyncio.Task[None] | None = None
        self.number = 0
        self.is_known = False
        """Whether a frame may have reached anybody, who then counts on hearing the number."""
        self.spoke = 0.0
        self.owes_number = False
        self.alone = 0
        """How many of the waiting messages travel one by one, since the broker refused them together."""


class Outbox(Generic[S]):
    """Takes serialised messages, and settles each: accepted, refused, or not confirmed in time.

    Messages of a topic are numbered and sent in order. A frame that was on its way when the
    connection broke is sent again on the next, with the same number. A message that was given up
    keeps its number, so that its absence is noticed; a refused one does not, since nobody missed it.
    A topic keeps its number for good: topics are few and coarse.
    """

    def __init__(self, settings: S, sender_id: bytes) -> None:
        self._settings = settings
        self._sender_id = sender_id
        self._lanes: dict[str, Lane[S]] = {}
        self._connection: Connection[S] | None = None
        self._largest = settings.max_message_bytes
        self._frame_limit = JOINED_BYTES
        self._bytes = 0
        self._expiry: asyncio.TimerHandle | None = None
        self._beating: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Future[None] | None = None
        self.pending = 0
        self.published = 0

    def add(self, topic: str, data: bytes, settle: Settle) -> None:
        """Take one message; raise `MessageTooLargeError` or `OutboxFullError` if that cannot be."""
        if len(data) > self._largest:
            raise self._too_large(topic, data)
        if self._bytes + len(data) > self._settings.max_outbox_bytes:
            raise OutboxFullError(
                f"{self.pending} messages wait to be sent to {self._settings.where}; this one, of {len(data)} bytes, "
                f"would be more than max_outbox_bytes = {self._settings.max_outbox_bytes} allows. "
                "Publish more slowly, or raise the limit."
            )
        lane = self._lanes.get(topic)
        if lane is None:
            lane = self._lanes[topic] = Lane(topic)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.publish_timeout
        lane.waiting.append(Message(data, deadline, settle))
        self._bytes += len(data)
        self.pending += 1
        if self._expiry is None:
            self._expire_at(deadline)
        if lane.sender is None:
            self._start(lane)

    def resume(self, connection: Connection[S]) -> None:
        """Send over a new connection what waits, first what the last one left unconfirmed."""
        self._connection = connection
        self._frame_limit, self._largest = JOINED_BYTES, self._settings.max_message_bytes
        if (most := connection.transport.max_frame_bytes) is not None:
            self._frame_limit = min(self._frame_limit, most)
            self._largest = min(self._largest, most - frame.overhead(1))
        for lane in self._lanes.values():
            if lane.shipment and most is not None and len(lane.shipment.payload) > most:
                self._unload(lane, lane.shipment, lane.shipment.tries > 0)
            if lane.waiting or lane.shipment:
                self._start(lane)
        self._beat()

    def pause(self) -> None:
        """Send nothing until the next connection, and keep nobody waiting in `drain`."""
        if self._beating:
            self._beating.cancel()
        if self._emptied and not self._emptied.done():
            self._emptied.set_result(None)
        for lane in self._lanes.values():
            self._stop(lane)
            if lane.shipment and not lane.shipment.messages:
                lane.shipment = None
        self._connection = None

    async def drain(self) -> None:
        """Return when every message is settled, or the connection is gone."""
        if self.pending:
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied

    async def fail(self, error: Callable[[], ConnectorError]) -> None:
        """Settle all that is left with an error, for good."""
        self.pause()
        if self._expiry:
            self._expiry.cancel()
        for lane in self._lanes.values():
            left = [*(lane.shipment.messages if lane.shipment else ()), *lane.waiting]
            for start in range(0, len(left), AT_A_TIME):
                self._settle(left[start : start + AT_A_TIME], error)
                await asyncio.sleep(0)
        self._lanes.clear()

    def _start(self, lane: Lane[S]) -> None:
        if self._connection:
            lane.sender = asyncio.get_running_loop().create_task(self._send(lane, self._connection))

    def _stop(self, lane: Lane[S]) -> None:
        if lane.sender and self._connection:
            self._connection.abandon(lane.sender)
        lane.sender = None

    async def _send(self, lane: Lane[S], connection: Connection[S]) -> None:
        """Send what waits, frame after frame, until nothing does or this task is abandoned."""
        me = asyncio.current_task()
        while shipment := lane.shipment or self._load(lane):
            refusal: ConnectorError | None = None
            shipment.tries += 1
            try:
                await connection.transport.publish(lane.topic, shipment.payload)
            except (PublishError, MessageTooLargeError) as error:
                refusal = error
            except (Exception, asyncio.CancelledError) as error:
                if lane.sender is not me or (me and me.cancelling()):
                    raise
                shipment.trouble = error
                await asyncio.sleep(self._settings.reconnect_delay_min)
                continue
            if lane.sender is not me or connection.gone.done():
                return
            self._arrived(lane, shipment, refusal)
        lane.sender = None

    def _load(self, lane: Lane[S]) -> Shipment | None:
        """Join what waits into a shipment, as far as it fits."""
        waiting, messages, size = lane.waiting, list[Message](), 0
        while waiting and len(messages) < (1 if lane.alone else JOINED_MESSAGES):
            data = waiting[0].data
            if len(data) > self._largest:
                if waiting[0].was_sent:  # it may have arrived: its number is taken
                    if messages:
                        break
                    lane.number += 1
                self._settle([waiting.popleft()], lambda data=data: self._too_large(lane.topic, data))  # type: ignore[misc]
                continue
            size += len(data)
            if messages and size + frame.overhead(len(messages) + 1) > self._frame_limit:
                break
            messages.append(waiting.popleft())
        if not messages and not lane.owes_number:
            return None
        lane.owes_number = False
        lane.alone = max(lane.alone - len(messages), 0)
        if messages:
            deadline = messages[-1].deadline
        else:
            deadline = asyncio.get_running_loop().time() + self._settings.heartbeat
            self._expire_at(deadline)
        payload = frame.pack(
            self._settings.serialization, self._sender_id, lane.number, [message.data for message in messages]
        )
        lane.shipment = Shipment(messages, lane.number, payload, deadline)
        lane.number += len(messages)
        return lane.shipment

    def _unload(self, lane: Lane[S], shipment: Shipment, was_sent: bool) -> None:
        """Take apart a shipment that the broker does not take as a whole."""
        for message in shipment.messages:
            message.was_sent = was_sent
        lane.waiting.extendleft(reversed(shipment.messages))
        lane.number = shipment.number
        lane.shipment = None

    def _arrived(self, lane: Lane[S], shipment: Shipment, refusal: ConnectorError | None) -> None:
        lane.shipment = None
        lane.spoke = asyncio.get_running_loop().time()
        if refusal is None:
            lane.is_known = True
            self._settle(shipment.messages)
            return
        if len(shipment.messages) > 1:
            self._unload(lane, shipment, shipment.tries > 1)
            lane.alone = len(shipment.messages)
            return
        if shipment.tries == 1 and not any(message.was_sent for message in shipment.messages):
            lane.number = shipment.number
            lane.is_known = lane.is_known and bool(shipment.messages)
        text = self._settings.redact(
            f"{self._settings.where} refused a message to topic {lane.topic!r}: {refusal}. "
            "Check the topic, the message's size, and the rights of the user at the broker."
        )
        self._settle(shipment.messages, lambda: type(refusal)(text))

    def _settle(self, messages: Iterable[Message], error: Callable[[], ConnectorError] | None = None) -> None:
        for message in messages:
            if message.settled:
                continue
            message.settled = True
            self.pending -= 1
            self._bytes -= len(message.data)
            if error is None:
                self.published += 1
                message.settle(None)
            else:
                message.settle(error())
        if not self.pending and self._emptied and not self._emptied.done():
            self._emptied.set_result(None)

    def _expire_at(self, deadline: float) -> None:
        if self._expiry is None or deadline < self._expiry.when():
            if self._expiry:
                self._expiry.cancel()
            self._expiry = asyncio.get_running_loop().call_at(deadline, self._expire)

    def _expire(self) -> None:
        """Give up what has waited for `publish_timeout`."""
        self._expiry = None
        now = asyncio.get_running_loop().time()
        left = AT_A_TIME
        for lane in list(self._lanes.values()):
            if shipment := lane.shipment:
                overdue = [message for message in shipment.messages if message.deadline <= now]
                self._settle(overdue, lambda: self._too_late(lane, shipment))  # noqa: B023
                if shipment.deadline <= now:
                    lane.is_known = lane.is_known or shipment.tries > 0
                    lane.shipment = None
                    self._stop(lane)
            while lane.waiting and lane.waiting[0].deadline <= now and left:
                left -= 1
                lane.number += 1
                self._settle([lane.waiting.popleft()], lambda: self._too_late(lane, None))  # noqa: B023
            if lane.waiting and lane.sender is None:
                self._start(lane)
        for lane in self._lanes.values():  # looked at only now: whoever was told above may have published again
            if lane.waiting:
                self._expire_at(lane.waiting[0].deadline)
            if lane.shipment:
                unsettled = (message.deadline for message in lane.shipment.messages if not message.settled)
                self._expire_at(next(unsettled, lane.shipment.deadline))

    def _beat(self) -> None:
        """Have the number told on each topic where a heartbeat is about to pass in silence."""
        loop = asyncio.get_running_loop()
        quarter = self._settings.heartbeat / 4
        for lane in self._lanes.values():
            if lane.is_known and lane.sender is None and lane.spoke + 3 * quarter <= loop.time():
                lane.owes_number = True
                self._start(lane)
        self._beating = loop.call_later(quarter, self._beat)

    def _too_large(self, topic: str, data: bytes) -> MessageTooLargeError:
        return MessageTooLargeError(
            f"A message to topic {topic!r} has {len(data)} bytes; at most {self._largest} can be sent "
            f"(max_message_bytes = {self._settings.max_message_bytes}, or what the broker takes)."
        )

    def _too_late(self, lane: Lane[S], shipment: Shipment | None) -> PublishError:
        if self._connection is None:
            why = "there is no connection to it"
        elif shipment and shipment.trouble:
            why = f"the last attempt failed with {self._settings.describe(shipment.trouble)}"
        else:
            why = "it does not answer, or not fast enough"
        return PublishError(
            f"{self._settings.where} did not confirm a message to topic {lane.topic!r} within publish_timeout = "
            f"{self._settings.publish_timeout:g} s: {why}. Who misses it is told by a MessagesLostError."
        )
