"""Messages that wait in this process for receivers on any event loop, in any thread."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import groupby
from math import inf
from time import monotonic
from typing import Any

logger = logging.getLogger(__name__.partition(".")[0])

MISSED = "connector.missed"
"""The group whose members are told, by a message of this type, that messages are missing."""

_MISSED = (inf, {"type": MISSED})


class WakingLock:
    """A lock for threads; its holder can wake waiters on event loops; each loop is notified once, after the release.

    A thread may take it again: a logging handler may send through the channel layer.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._woken: list[asyncio.Future[None]] = []

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        woken = self._woken
        if woken:
            self._woken = []
        self._lock.release()
        if woken:
            here = asyncio.get_running_loop()
            for loop, waiters in groupby(woken, lambda waiter: waiter.get_loop()):
                if loop is here:
                    _wake(waiters)
                else:
                    with suppress(RuntimeError):  # it was closed meanwhile
                        loop.call_soon_threadsafe(_wake, list(waiters))

    def wake(self, waiter: "asyncio.Future[None]") -> None:
        """Set a future of any event loop to None soon, unless it is done."""
        self._woken.append(waiter)


def _wake(waiters: "Iterable[asyncio.Future[None]]") -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)


class Mailbox:
    """The messages of one channel. `Mailboxes` lets only one thread at a time use it."""

    __slots__ = ("channel", "forget_at", "groups", "is_overflowing", "messages", "most", "waiters")

    def __init__(self, channel: str, most: int, forget_at: float) -> None:
        self.channel = channel
        self.most = most
        self.messages: deque[tuple[float, Any]] = deque()
        """Each with the time at which it expires."""
        self.waiters: deque[asyncio.Future[None]] = deque()
        """The futures of waiting receivers, each on an event loop of its own."""
        self.groups: set[str] = set()
        self.forget_at = forget_at
        """When the channel is forgotten, unless somebody waits for a message then."""
        self.is_overflowing = False
        """Whether a message was dropped since the mailbox was empty."""

    def has_room(self) -> bool:
        """Tell whether one more message may wait."""
        return len(self.messages) < self.most or self._expire()

    def put(self, message: tuple[float, Any]) -> None:
        """Add a message, or drop it if there is no room."""
        if self.has_room():
            self.messages.append(message)
            return
        self.miss()
        if not self.is_overflowing:
            self.is_overflowing = True
            logger.info(
                "Channel %r is full: new messages are dropped until these %d are received", self.channel, self.most
            )

    def take(self) -> tuple[float, Any] | None:
        """Return the oldest message that has not expired, if there is any."""
        if self._expire() and MISSED in self.groups:
            return _MISSED
        if self.messages:
            return self.messages.popleft()
        self.is_overflowing = False
        return None

    def miss(self) -> None:
        """Note that messages are missing at this place, for a consumer that wants to know."""
        if MISSED in self.groups and not (self.messages and self.messages[-1] is _MISSED):
            self.messages.append(_MISSED)

    def _expire(self) -> bool:
        """Drop the messages that have waited too long; return whether there were any."""
        now = monotonic()
        count = 0
        while self.messages and self.messages[0][0] <= now:
            self.messages.popleft()
            count += 1
        if count:
            logger.info("Channel %r: %d messages were not received in time, and have expired", self.channel, count)
        return count > 0


class Mailboxes:
    """The mailboxes and groups of this process, for any thread.

    `capacity(channel)` messages wait in a channel, for `expiry` seconds. A channel is forgotten, with its groups, `expiry`
    seconds after it was opened or a receiver of it was cancelled, and after `idle` seconds without a receiver.
    `on_empty(group)`, which must not call back, is called when the last channel has left a group.
    """

    def __init__(
        self, expiry: float, idle: float, capacity: Callable[[str], int], on_empty: Callable[[str], object]
    ) -> None:
        self._expiry = expiry
        self._idle = idle
        self._capacity = capacity
        self._on_empty = on_empty
        self._lock = WakingLock()
        self._boxes: dict[str, Mailbox] = {}
        self._groups: dict[str, dict[str, Mailbox]] = {}
        self._next_sweep = 0.0

    def open(self, channel: str) -> None:
        """Let messages wait in a channel."""
        with self._lock:
            self._box(channel)

    def put(self, channel: str, content: Any, *, must_fit: bool = False) -> bool:
        """Add a message to a channel; return whether somebody was waiting for it.

        A message that does not fit is dropped, or raises `OverflowError` if it `must_fit`.
        """
        with self._lock:
            box = self._box(channel)
            if must_fit and not box.has_room():
                raise OverflowError(f"channel = {channel!r}: {box.most} messages wait in it already")
            return self._put((box,), content)

    def put_group(self, group: str, content: Any) -> None:
        """Add a message to the channels of a group, where it fits; it is dropped elsewhere."""
        with self._lock:
            self._put(self._groups.get(group, {}).values(), content)

    def miss(self) -> None:
        """Tell those who want to know that messages are missing."""
        with self._lock:
            for box in self._groups.get(MISSED, {}).values():
                box.miss()
                self._wake_receiver(box)

    def take(self, channel: str) -> tuple[float, Any] | None:
        """Return the oldest message of a channel, if there is any, with the time at which it would have expired."""
        with self._lock:
            box = self._boxes.get(channel)
            return box.take() if box else None

    def is_awaited(self, channel: str) -> bool:
        """Tell whether somebody waits for a message of a channel."""
        with self._lock:
            box = self._boxes.get(channel)
            return bool(box and box.waiters)

    async def receive(self, channel: str, on_wait: Callable[[], object]) -> Any:
        """Return the next message of a channel; call `on_wait()` whenever it has to wait.

        Of several waiters, the first gets it. Cancelling loses no message.
        """
        while True:
            with self._lock:
                box = self._box(channel)
                if found := box.take():
                    box.forget_at = monotonic() + self._idle
                    return found[1]
                waiter = asyncio.get_running_loop().create_future()
                box.waiters.append(waiter)
            try:
                on_wait()
                await waiter
            except (Exception, asyncio.CancelledError):  # not GeneratorExit, which may come while the lock is held
                with self._lock:
                    if waiter in box.waiters:
                        box.waiters.remove(waiter)
                    elif box.messages:
                        self._wake_receiver(box)
                    box.forget_at = monotonic() + self._expiry
                raise

    def join(self, group: str, channel: str) -> None:
        """Add a channel to a group."""
        with self._lock:
            box = self._box(channel)
            box.groups.add(group)
            self._groups.setdefault(group, {})[channel] = box

    def leave(self, group: str, channel: str) -> None:
        """Take a channel out of a group, if it is in it."""
        with self._lock:
            self._leave(group, channel)

    def clear(self) -> None:
        """Forget all messages and groups; waiters keep waiting."""
        with self._lock:
            for channel, box in list(self._boxes.items()):
                box.messages.clear()
                self._forget(channel)
                if box.waiters:
                    self._boxes[channel] = box

    # What the lock guards.

    def _box(self, channel: str) -> Mailbox:
        box = self._boxes.get(channel)
        if box is None:
            now = monotonic()
            if now >= self._next_sweep:
                self._sweep(now)
            box = self._boxes[channel] = Mailbox(channel, self._capacity(channel), now + self._expiry)
        return box

    def _put(self, boxes: Iterable[Mailbox], content: Any) -> bool:
        message = (monotonic() + self._expiry, content)
        is_awaited = False
        for box in boxes:
            box.put(message)
            is_awaited = self._wake_receiver(box) or is_awaited
        return is_awaited

    def _wake_receiver(self, box: Mailbox) -> bool:
        """Let one waiter look into the mailbox; return whether there is one."""
        while box.waiters:
            waiter = box.waiters.popleft()
            if not waiter.get_loop().is_closed():
                box.forget_at = monotonic() + self._idle
                self._lock.wake(waiter)
                return True
            box.forget_at = monotonic() + self._expiry
        return False

    def _leave(self, group: str, channel: str) -> None:
        members = self._groups.get(group, {})
        if box := members.pop(channel, None):
            box.groups.discard(group)
            if not members:
                del self._groups[group]
                self._on_empty(group)

    def _forget(self, channel: str) -> None:
        for group in list(self._boxes[channel].groups):
            self._leave(group, channel)
        del self._boxes[channel]

    def _sweep(self, now: float) -> None:
        """Forget the channels that are gone. This comes before a new one, so their number is bounded."""
        self._next_sweep = now + self._expiry / 4
        for channel, box in list(self._boxes.items()):
            is_awaited = any(not waiter.get_loop().is_closed() for waiter in box.waiters)
            if not is_awaited and (box.waiters or box.forget_at <= now):
                self._forget(channel)
