"""The inbox of a node: each payload is checked, counted, decoded, and handed to the listeners of its topic."""

import asyncio
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from . import inbox, serialization, wire
from .errors import BadFrameError, MessagesLostError, ShardsDifferError
from .floods import PAUSE, Flood, Report, counted
from .listeners import Batch, Pending
from .receiving import Bogus, Delivery, Effect, Loss, Receiver
from .repair import Repair
from .sending import JOINED_BYTES, JOINED_MESSAGES
from .settings import ConnectorSettings
from .shards import Shards
from .wire import Frame, Signer

DIFFERING = 1024
"""How many senders with another number of shards a node reports."""


class NodeInbox:
    """Takes the bytes that arrive at a node, whatever they are."""

    def __init__(
        self,
        settings: ConnectorSettings,
        node: bytes,
        receiver: Receiver,
        subscriptions: Callable[[str], Sequence[Pending]],
        report: Report,
    ) -> None:
        self._node = node
        self._receiver = receiver
        self._subscriptions = subscriptions
        self._report = report
        self._largest = max(settings.max_message_bytes, JOINED_BYTES) + wire.overhead(JOINED_MESSAGES)
        self._time = asyncio.get_running_loop().time
        self._shards = Shards(settings.shards)
        self._differing: set[bytes] = set()
        self._quiet_until = -inf
        self._floods: dict[str, Flood] = {}
        self._faults: dict[str, str] = {}
        self._decoded: tuple[Frame, list[Any]] | None = None
        """The frame that is being taken, and its messages."""
        self.repair: Repair[Any]
        self.signer = Signer()
        self.delivered = 0
        self.filtered = 0
        self.lost = 0
        self.repaired = 0

    def received(self, topic: str, payload: bytes) -> None:
        """Take one payload; its type, and the topic's, are checked only where they lead nowhere."""
        try:
            is_control = topic == self.repair.topic
            if wire.is_from(self._node, payload):
                self.filtered += not is_control
                return
            subscriptions = self._subscriptions(topic)
            if not (is_control or subscriptions):
                inbox.check(topic, payload)
                return
            content = bytes(payload)
            frame = wire.unpack(self.signer.verify(topic, content))
            if is_control or frame.kind >= wire.ANSWER:
                effects = self._take_word(topic, frame, is_control)
            else:
                effects = self._take_messages(topic, frame, subscriptions)
        except Exception as error:
            inbox.check(topic, payload)
            self._bad(f"A payload of {len(payload)} bytes", topic, f"is not a connector's frame: {error}")
            return
        if effects or self._receiver.has_changed:
            self.handle(effects)
        self._decoded = None

    def handle(self, effects: Sequence[Effect]) -> None:
        """Deliver what is due, and report what is lost."""
        for effect in effects:
            if isinstance(effect, Delivery):
                self._deliver(effect)
            elif isinstance(effect, Loss):
                self._missed(effect)
            else:
                self._reject(effect)
        if self._receiver.has_changed:
            self.repair.changed()

    def forget(self, topic: str) -> None:
        """Take no more messages on a topic, and start afresh when somebody listens to it again."""
        self._receiver.forget(topic)
        topic = self._shards.coarse(topic)
        if flood := self._floods.pop(topic, None):
            flood.flush()
            del self._faults[topic]
        self.repair.changed()

    def close(self) -> None:
        """Report what was not reported yet."""
        for flood in self._floods.values():
            flood.flush()

    def _take_word(self, topic: str, frame: Frame, is_control: bool) -> Sequence[Effect]:
        """Take a frame in which a node says something about its messages."""
        now = self._time()
        if frame.kind == wire.CONTROL:
            control = wire.unpack_control(frame)
            self._compare_shards(topic, frame)
            if is_control:
                if any(question.topic == topic for question in control.questions):
                    raise ValueError("it asks for messages on the cluster's own topic, which takes none")
                return self.repair.take(frame, control)
            counts = [count for count in control.counts if count.topic == topic]
            return self._receiver.told(frame.sender, counts, bool(frame.flags & wire.ANSWERS), now)
        if is_control:
            raise ValueError("the topic is the cluster's own, and takes no messages")
        return self._receiver.answered(topic, frame, wire.unpack_answer(frame), now)

    def _take_messages(self, topic: str, frame: Frame, subscriptions: Sequence[Pending]) -> Sequence[Effect]:
        """Take a frame with messages; if it is the next of its sender, deliver it at once."""
        is_again = frame.kind == wire.AGAIN
        if is_again and not self._receiver.wants(topic, frame):
            return ()
        if len(frame.body) > self._largest:
            self._bad(
                f"A frame of {len(frame.body)} bytes",
                topic,
                f"exceeds this node's limit ({self._largest} bytes, from max_message_bytes)",
            )
        else:
            codec = serialization.by_code(frame.serialization)
            messages = codec.decode(wire.unpack_again(frame)[1] if is_again else frame.body)
            if len(messages) != frame.count:
                raise ValueError(f"it holds {len(messages)} messages and claims {frame.count}")
            if not is_again and self._receiver.is_next(topic, frame, now := self._time()):
                self.delivered += frame.count
                batch = Batch(codec, frame.body, frame.count, now, messages)
                for subscription in subscriptions:
                    subscription.put(batch)
                return ()
            self._decoded = frame, messages
            self._compare_shards(topic, frame)
        return self._receiver.take(topic, frame, self._time())

    def _deliver(self, delivery: Delivery) -> None:
        """Give the messages of a frame, each listener's own copy, to the listeners of its topic."""
        topic, frame, skip, received = delivery
        if len(frame.body) > self._largest:
            self._missed(Loss(topic, frame.sender, frame.count - skip))
            return
        codec = serialization.by_code(frame.serialization)
        decoded = self._decoded[1] if self._decoded and self._decoded[0] is frame else None
        self.delivered += frame.count - skip
        if frame.kind != wire.AGAIN:
            batch = Batch(codec, frame.body, frame.count, received, decoded, skip)
            for subscription in self._subscriptions(topic):
                subscription.put(batch)
            return
        self.repaired += frame.count - skip
        runs, body = wire.unpack_again(frame)
        for subscription in self._subscriptions(topic):
            # A listener that came later gets nothing that was published before.
            before = 0
            for run in runs:
                if received - run.age / 1000 >= subscription.since:
                    break
                before += run.count
            if (first := max(skip, before)) < frame.count:
                subscription.put(Batch(codec, body, frame.count, received, decoded, first))
                decoded = None

    def _missed(self, loss: Loss) -> None:
        self.lost += loss.count
        topic = self._shards.coarse(loss.topic)
        self._report(
            MessagesLostError(
                f"{counted(loss.count)} of sender {loss.sender.hex()} on topic {topic!r} did not arrive and cannot be "
                "recovered. The sender is gone, gave up after its publish_timeout, or no longer keeps what it sent (its "
                "max_history_bytes); or it sent more than this node's max_message_bytes allows; or one of the two may not "
                "use the control topic. If it matters, fetch the state of that topic again.",
                topic=topic,
                node=loss.sender.hex(),
                count=loss.count,
            )
        )

    def _compare_shards(self, topic: str, frame: Frame) -> None:
        """Report a sender with another number of shards, once, and at most one in `PAUSE` seconds."""
        if frame.shards == self._shards.number or frame.sender in self._differing or len(self._differing) >= DIFFERING:
            return
        if (now := self._time()) < self._quiet_until:
            return
        self._quiet_until = now + PAUSE
        self._differing.add(frame.sender)
        topic = self._shards.coarse(topic)
        self._report(
            ShardsDifferError(
                f"Sender {frame.sender.hex()} has shards = {frame.shards}, and this node has {self._shards.number} (seen on "
                f"topic {topic!r}). Messages with a key may not arrive, and nobody asks for them. Set shards to the same "
                "value at all nodes of the cluster.",
                topic=topic,
                node=frame.sender.hex(),
                mine=self._shards.number,
                theirs=frame.shards,
            )
        )

    def _reject(self, bogus: Bogus) -> None:
        self._bad("A frame", bogus.topic, "has numbers that its sender never assigned: it is forged")

    def _bad(self, what: str, topic: str, fault: str) -> None:
        """Report a payload that no sender of this contract can have sent; a flood of them once a second."""
        topic = self._shards.coarse(topic)
        flood = self._floods.get(topic)
        if flood is None:
            flood = self._floods[topic] = Flood(self._report, lambda count: self._bad_frame(topic, count))
        self._faults[topic] = f"{what} on topic {topic!r} {fault}"
        flood.add(1)

    def _bad_frame(self, topic: str, count: int) -> BadFrameError:
        more = "" if count == 1 else f" It is the last of {count} on this topic."
        return BadFrameError(
            f"{self._faults[topic]}.{more} Let no one else publish on the cluster's topics; run all nodes with one "
            "version and the same keys.",
            topic=topic,
            count=count,
        )
