"""What arrives: an own frame? a duplicate? a gap before it? Then decode, and hand on."""

from collections import OrderedDict
from collections.abc import Callable

from . import frame
from .codec import decode
from .errors import BadFrameError, MessagesLostError
from .listeners import Subscription

KNOWN_SENDERS = 65_536
"""How many senders are remembered, counted for each topic; beyond it the one unheard for longest is forgotten."""


class Intake:
    """Checks every payload, and gives its messages to the subscriptions of its topic.

    For each sender on each topic it knows the number of the next message: lower ones are duplicates
    and are dropped, skipped ones are reported as `MessagesLostError`. A sender counts from the first
    frame that is heard of it; one that was forgotten counts anew.
    """

    def __init__(
        self, own_id: bytes, subscriptions: Callable[[str], list[Subscription]], report: Callable[[Exception], None]
    ) -> None:
        self._own_id = own_id
        self._subscriptions = subscriptions
        self._report = report
        self._next: OrderedDict[tuple[str, bytes], int] = OrderedDict()
        self.delivered = 0
        self.filtered = 0
        self.lost = 0
        self.duplicates = 0

    def take(self, topic: str, payload: bytes) -> None:
        """Take one payload; whatever it holds, nothing is raised."""
        payload = bytes(payload)
        if frame.is_from(self._own_id, payload):
            self.filtered += 1
            return
        subscriptions = self._subscriptions(topic)
        if not subscriptions:
            return
        try:
            head = frame.unpack(payload)
            messages = decode(head.serialization, head.body)
        except Exception as error:
            self._report(
                BadFrameError(
                    f"A payload of {len(payload)} bytes on topic {topic!r} is no frame of a connector: {error}. "
                    "Keep other publishers off the topics of the cluster, and its nodes at one version."
                )
            )
            return
        known = self._count(topic, head.sender, head.number, len(messages))
        if known:
            del messages[:known]
        if messages:
            self.delivered += len(messages)
            first, *others = subscriptions
            copies = [decode(head.serialization, head.body)[known:] for _ in others]
            first.put(messages)
            for subscription, copy in zip(others, copies, strict=True):
                subscription.put(copy)

    def forget(self, topic: str) -> None:
        """Count anew on a topic to which nobody listens any more."""
        for key in [key for key in self._next if key[0] == topic]:
            del self._next[key]

    def _count(self, topic: str, sender: bytes, number: int, messages: int) -> int:
        """Return how many of the messages are known already; report those that were skipped."""
        key = topic, sender
        due = self._next.get(key, number)
        self._next[key] = max(due, number + messages)
        self._next.move_to_end(key)
        if len(self._next) > KNOWN_SENDERS:
            self._next.popitem(last=False)
        if number > due:
            self._missed(topic, sender, number - due)
        known = min(max(due - number, 0), messages)
        self.duplicates += known
        return known

    def _missed(self, topic: str, sender: bytes, count: int) -> None:
        self.lost += count
        self._report(
            MessagesLostError(
                f"{count} messages of node {sender.hex()} on topic {topic!r} did not arrive: a connection was lost, "
                "or the broker dropped them. Fetch the state of that topic anew if it matters.",
                topic=topic,
                node=sender.hex(),
                count=count,
            )
        )
