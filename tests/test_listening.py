"""How messages come from a payload to a listener, on a clock that jumps: inbox, queues, turns, events, floods, bridge, receipts."""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from functools import partial
from math import inf
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from jumping import ERRORS, FOREVER, WIRE, block, jump, module, now, raising

BRIDGE, EVENTS, FLOODS, LISTENERS = module("bridge"), module("events"), module("floods"), module("listeners")
NODE_INBOX, RECEIPT, RECEIVING, SENDING = (
    module("node_inbox"),
    module("receipt"),
    module("receiving"),
    module("sending"),
)
JSON = module("serialization").by_name("json")

ADVICE = "Let no one else publish on the cluster's topics; run all nodes with one version and the same keys."


async def turns(count: int) -> None:
    """Let the loop turn so often."""
    for _ in range(count):
        await asyncio.sleep(0)


# Queues of listeners.


def batch(messages: list[Any], skip: int = 0, size: int = 0, decoded: bool = False, published: float = 0.0) -> Any:
    """Make a batch with a body of so many bytes, or of as few as its messages need."""
    body = json.dumps(messages).encode()
    body = body[:-1] + b" " * (size - len(body)) + b"]"
    return LISTENERS.Batch(JSON, body, len(messages), published, messages if decoded else None, skip)


def limits(most: int = 1000, most_bytes: int = 10**9) -> Any:
    """Return settings for one listener."""
    return SimpleNamespace(max_pending_messages=most, max_pending_bytes=most_bytes)


class Desk:
    """Makes queues that share turns, and keeps what they report."""

    def __init__(self) -> None:
        self.turns = LISTENERS.Turns()
        self.told: list[Any] = []

    def subscription(self, listener: Callable[[Any], Any], *most: int) -> Any:
        made = LISTENERS.Subscription("t", ("t",), listener, limits(*most), self.told.append, self.turns)
        made.live = True
        return made

    def pulled(self, *most: int) -> Any:
        made = LISTENERS.PulledSubscription("t", ("t",), limits(*most), self.told.append, self.turns)
        made.live = True
        return made

    @property
    def dropped(self) -> int:
        return sum(error.count for error in self.told if isinstance(error, ERRORS.SlowListenerError))


class Stuck:
    """A listener that waits in its first call until it is let go."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.free = asyncio.Event()

    async def __call__(self, message: Any) -> None:
        self.got.append(message)
        await self.free.wait()


@pytest.mark.parametrize(("size", "unit"), [(9, 3), (10, 4), (11, 4), (12, 4)])
def test_the_bytes_of_a_frame_are_shared_out_and_rounded_up(size: int, unit: int) -> None:
    shared = batch([1, 2, 3], size=size).unit
    assert (shared, type(shared)) == (unit, int)


def test_a_listener_gets_only_what_comes_while_it_is_live_and_since_it_listens() -> None:
    async def scene() -> None:
        desk, got = Desk(), list[Any]()
        one = LISTENERS.Subscription("t", ("t",), got.append, limits(), desk.told.append, desk.turns)
        assert not one.live
        one.put(batch(["early"]))
        one.live, one.since = True, 5.0
        one.put(batch(["before"], published=4.9))
        one.put(batch(["at once"], published=5.0))
        one.put(batch(["after"], published=5.1))
        await turns(3)
        assert got == ["at once", "after"]

    jump(scene)


def test_a_stopped_listener_gets_nothing_of_what_waits_or_comes() -> None:
    async def scene() -> None:
        desk = Desk()
        stuck, pulled = Stuck(), desk.pulled()
        pushed = desk.subscription(stuck)
        for each in (pushed, pulled):
            each.put(batch([1, 2, 3]))
            each.put(batch([4, 5, 6]))
        await turns(2)
        assert (pushed.waiting, pulled.waiting) == (5, 6)
        for each in (pushed, pulled):
            each.stop()
            each.put(batch([7]))
            assert (each.waiting, each.waiting_bytes) == (0, 0)
        stuck.free.set()
        await turns(3)
        assert stuck.got == [1]
        assert [message async for message in pulled] == []
        assert not desk.told

    jump(scene)


def test_a_finished_iteration_hands_out_what_had_arrived_and_ends() -> None:
    async def scene() -> None:
        pulled = Desk().pulled()
        pulled.put(batch([1, 2]))
        await pulled.finish(1.0)
        pulled.put(batch([3]))
        assert [message async for message in pulled] == [1, 2]
        assert (pulled.is_idle, pulled.is_calling_us()) == (True, False)

    jump(scene)


def test_a_frame_that_is_decoded_already_is_not_decoded_again_unless_much_waits() -> None:
    async def scene() -> None:
        pulled = Desk().pulled()
        frames = [batch([[number]], size=1024 * 1024 * (number == 1), decoded=True) for number in range(3)]
        decoded = [frame.messages[0] for frame in frames]
        for frame in frames:
            pulled.put(frame)
            assert frame.messages is None
        got = [await anext(pulled) for _ in frames]
        assert got == decoded
        assert [one is other for one, other in zip(got, decoded, strict=True)] == [True, True, False]

    jump(scene)


@pytest.mark.parametrize(("most", "most_bytes"), [(6, 10**9), (1000, 120), (6, 120)])
def test_of_what_waits_the_oldest_is_dropped_and_no_more_than_need_be(most: int, most_bytes: int) -> None:
    source = Random(1)

    async def run() -> None:
        desk = Desk()
        pulled = desk.pulled(most, most_bytes)
        model: list[tuple[int, int]] = []
        said = dropped = 0
        for _ in range(source.randint(1, 12)):
            if source.random() < 0.3:
                for _ in range(min(source.randint(1, 3), len(model))):
                    assert await anext(pulled) == model.pop(0)[0]
            else:
                count = source.randint(1, 7)
                skip = source.randrange(count)
                made = batch(list(range(said, said + count)), skip, source.choice((0, 20, 60)))
                model += [(number, made.unit) for number in range(said + skip, said + count)]
                said += count
                pulled.put(made)
            await turns(2)
            while len(model) > most or sum(unit for _, unit in model) > most_bytes:
                model.pop(0)
                dropped += 1
            assert (pulled.waiting, pulled.waiting_bytes) == (len(model), sum(unit for _, unit in model))
        await pulled.finish(1.0)
        assert [message async for message in pulled] == [number for number, _ in model]
        assert desk.dropped == dropped

    async def scene() -> None:
        for _ in range(100):
            await run()

    jump(scene)


def test_what_waits_for_a_listener_at_work_is_dropped_across_frames() -> None:
    async def scene() -> None:
        desk, stuck = Desk(), Stuck()
        one = desk.subscription(stuck, 6)
        drops = []
        for made in (
            batch(["a0", "a1", "a2", "a3", "a4"]),
            batch(["b0", "b1", "b2", "b3", "b4"]),
            batch(["c0", "c1", "c2", "c3"], skip=1),
            batch(["d0"]),
            batch(["e0", "e1", "e2", "e3", "e4"]),
        ):
            one.put(made)
            await turns(2)
            await asyncio.sleep(2)
            drops.append(desk.dropped)
            assert one.waiting == min(6, one.waiting)
        assert drops == [0, 3, 6, 7, 12]
        stuck.free.set()
        await turns(3)
        assert stuck.got == ["a0", "d0", "e0", "e1", "e2", "e3", "e4"]
        assert (one.waiting, one.waiting_bytes) == (0, 0)

    jump(scene)


def test_an_error_counts_what_was_dropped_and_names_the_listener() -> None:
    async def scene() -> None:
        desk = Desk()
        pulled = desk.pulled(2)
        pulled.put(batch([1, 2, 3]))
        await turns(2)
        [error] = desk.told
        assert (error.topic, error.count) == ("t", 1)
        assert str(error).startswith(f"The listener {pulled!r} on topic 't' is too slow and missed 1 message, ")
        assert "raise max_pending_messages (2) or max_pending_bytes (1000000000)" in str(error)

    jump(scene)


class Odd:
    """A listener that has no name and cannot be shown."""

    def __repr__(self) -> str:
        raise ZeroDivisionError

    def __call__(self, message: Any) -> None:
        raise ValueError("no")


def fail(message: Any) -> None:
    raise ValueError("no")


PARTIAL = partial(fail)


@pytest.mark.parametrize(
    ("listener", "name"),
    [(fail, "fail"), (PARTIAL, repr(PARTIAL)), (Odd(), "<Odd>")],
    ids=["function", "partial", "odd"],
)
def test_a_listener_that_fails_is_named(listener: Any, name: str) -> None:
    async def scene() -> None:
        desk = Desk()
        desk.subscription(listener).put(batch([1]))
        await turns(2)
        [error] = desk.told
        assert str(error) == (
            f"The listener {name} on topic 't' raised ValueError('no'). "
            "The listener does not get this message again; fix the listener."
        )
        assert isinstance(error.__cause__, ValueError)

    jump(scene)


def test_what_a_listener_returns_is_awaited_only_if_it_can_be() -> None:
    async def scene() -> None:
        desk, got = Desk(), list[Any]()

        def listener(message: Any) -> Any:
            got.append(message)
            return message

        desk.subscription(listener).put(batch([0, 5, None, "x", False]))
        await turns(2)
        assert got == [0, 5, None, "x", False]
        assert not desk.told

    jump(scene)


def test_a_listener_that_cancels_its_task_is_told_so_and_gets_the_rest() -> None:
    async def scene() -> None:
        desk, got = Desk(), list[Any]()

        def listener(message: Any) -> None:
            got.append(message)
            if message == 1:
                task = asyncio.current_task()
                assert task
                task.cancel()

        desk.subscription(listener).put(batch([1, 2]))
        await turns(4)
        assert got == [1, 2]
        [error] = desk.told
        assert "raised CancelledError('it cancelled its own task')." in str(error)
        assert isinstance(error.__cause__, asyncio.CancelledError)

    jump(scene)


def test_only_the_call_that_is_awaited_now_and_its_tasks_are_called_by_us() -> None:
    async def scene() -> None:
        inside, children, stale = list[bool](), list[bool](), list[bool]()

        async def child() -> None:
            children.append(one.is_calling_us())
            await asyncio.sleep(1.5)
            stale.append(one.is_calling_us())

        tasks = []

        async def listener(message: Any) -> None:
            tasks.append(asyncio.ensure_future(child()))
            await asyncio.sleep(1)
            inside.append(one.is_calling_us())

        one = Desk().subscription(listener)
        assert not one.is_calling_us()
        one.put(batch([1, 2, 3]))
        await asyncio.sleep(0.5)
        assert not one.is_calling_us()
        await asyncio.sleep(5)
        assert (inside, children, stale) == ([True] * 3, [True] * 3, [False] * 3)

    jump(scene)


# Turns.


def test_an_idle_listener_gets_many_messages_in_the_next_turn() -> None:
    async def scene() -> None:
        desk, got = Desk(), list[Any]()
        one = desk.subscription(got.append)
        for _ in range(3):
            got.clear()
            one.put(batch(list(range(100))))
            await turns(1)
            assert got == list(range(100))
            await asyncio.sleep(1)

    jump(scene)


def test_who_works_for_long_gets_another_whole_slice_after_a_turn_of_the_loop() -> None:
    async def scene() -> None:
        desk, got = Desk(), list[int]()

        def listener(message: int) -> None:
            got.append(message)
            block(0.02 if message == 0 else 0.0001)

        desk.subscription(listener).put(batch(list(range(50))))
        await turns(1)
        assert got == [0]
        await turns(2)
        assert got == list(range(50))

    jump(scene)


def test_listeners_that_work_for_long_have_one_turn_of_the_loop_each() -> None:
    async def scene() -> None:
        desk, seen, turn = Desk(), list[tuple[str, int]](), 0

        def listener(name: str, message: int) -> None:
            seen.append((f"{name}{message}", turn))
            block(0.02)

        for name in "abc":
            desk.subscription(partial(listener, name)).put(batch([1, 2]))
        for turn in range(20):  # noqa: B007
            await turns(1)
        assert [what for what, _ in seen] == ["a1", "a2", "b1", "c1", "b2", "c2"]
        assert len({when for _, when in seen}) == 6

    jump(scene)


@pytest.mark.parametrize(
    ("frames", "most", "most_bytes", "dropped"),
    [([5], 2, 10, 0), ([5, 5], 2, 100, 0), ([5, 5], 2, 101, 0), ([5, 5], 10, 99, 1), ([5, 5, 5], 20, 100, 5)],
)
def test_a_listener_that_waits_for_its_first_turn_is_not_slow_unless_frames_take_too_many_bytes(
    frames: list[int], most: int, most_bytes: int, dropped: int
) -> None:
    async def scene() -> None:
        desk, got, free = Desk(), list[Any](), asyncio.Event()
        busy = desk.subscription(lambda _: block(0.02))
        busy.put(batch([1, 2, 3]))

        async def listen(message: Any) -> None:
            got.append(message)
            if message == "stuck":
                await free.wait()

        late = desk.subscription(lambda message: listen(message), most, most_bytes)
        for count in frames:
            late.put(batch(list(range(count)), size=10 * count))
        await turns(10)
        assert got == [number for count in frames for number in range(count)][dropped:]
        assert desk.dropped == dropped
        late.put(batch(["stuck"]))
        await asyncio.sleep(3)
        late.put(batch(list(range(most + 3))))
        await turns(2)
        assert late.waiting <= most
        assert desk.dropped > dropped
        free.set()
        await turns(3)

    jump(scene)


# The end of a listener.


@pytest.mark.parametrize(("within", "each"), [(3.0, 1.2), (0.5, 0.2)])
def test_a_listener_has_the_time_that_it_is_given_for_what_waits(within: float, each: float) -> None:
    async def scene() -> None:
        desk, done = Desk(), list[Any]()

        async def listener(message: Any) -> None:
            await asyncio.sleep(each)
            done.append(message)

        one = desk.subscription(listener)
        one.put(batch([1, 2]))
        await turns(2)
        began = now()
        await one.finish(within)
        assert now() - began == pytest.approx(2 * each, abs=0.01)
        assert (done, desk.told, one.is_idle) == ([1, 2], [], True)
        one.put(batch([3]))
        await asyncio.sleep(1)
        assert done == [1, 2]

    jump(scene)


@pytest.mark.parametrize("resists", [False, True])
def test_a_listener_that_is_not_through_is_cancelled_and_that_is_no_error(resists: bool) -> None:
    async def scene() -> None:
        desk, got, free = Desk(), list[Any](), asyncio.Event()

        async def listener(message: Any) -> None:
            got.append(message)
            try:
                await asyncio.sleep(FOREVER)
            except asyncio.CancelledError:
                got.append("cancelled")
                if resists:
                    await free.wait()
                raise

        one = desk.subscription(listener)
        one.put(batch([1, 2]))
        await turns(2)
        began = now()
        await one.finish(2.0)
        assert now() - began == pytest.approx(4 if resists else 2, abs=0.01)
        free.set()
        await turns(3)
        assert (got, desk.told, one.is_idle) == ([1, "cancelled"], [], True)

    jump(scene)


def test_a_listener_that_finishes_itself_is_not_waited_for() -> None:
    async def scene() -> None:
        desk, got, began = Desk(), list[Any](), now()

        async def listener(message: Any) -> None:
            await one.finish(2.0)
            got.append(message)

        one = desk.subscription(listener)
        one.put(batch([1, 2]))
        await turns(3)
        assert (got, desk.told, one.is_idle) == ([1], [], True)
        assert now() - began < 0.1

    jump(scene)


# The inbox of a node.

ME, NODE, OTHER = (bytes([number]) * 16 for number in range(3))


class Ear:
    """Takes batches as a listener does."""

    def __init__(self, since: float = -inf) -> None:
        self.since = since
        self.got: list[list[Any]] = []
        self.were_decoded: list[bool] = []

    def put(self, made: Any) -> None:
        messages, made.messages = made.messages, None
        self.were_decoded.append(messages is not None)
        self.got.append((messages or made.serialization.decode(made.body))[made.skip :])


class Inbox:
    """A node that listens to the topics t and u, and what it reports."""

    def __init__(self, *ears: Ear) -> None:
        self.told: list[Any] = []
        self.ears = ears or (Ear(),)
        self.receiver = RECEIVING.Receiver(1.0, 10.0)
        self.receiver.can_ask = True
        for topic in "tu":
            self.receiver.listen(topic, now())
        sizes = SimpleNamespace(max_message_bytes=1000, shards=1)
        self.node = NODE_INBOX.NodeInbox(sizes, ME, self.receiver, lambda topic: self.ears, self.told.append)
        self.node.repair = SimpleNamespace(topic="CONTROL", take=lambda frame, control: [], changed=lambda: None)

    def take(self, payload: bytes, topic: str = "t") -> None:
        self.node.received(topic, payload)

    @property
    def got(self) -> list[list[Any]]:
        return self.ears[0].got

    @property
    def counts(self) -> tuple[int, ...]:
        node = self.node
        return node.delivered, node.repaired, node.lost, node.filtered


def payload(number: int, count: int, sender: bytes = NODE, flags: int = WIRE.ANSWERS, body: bytes | None = None) -> Any:
    """Make a frame whose messages are their numbers."""
    body = json.dumps(list(range(number, number + count))).encode() if body is None else body
    return WIRE.pack(1, WIRE.MESSAGES, sender, number, 0, count, flags, body)


def again(number: int, *runs: tuple[int, int]) -> Any:
    """Make a frame that is sent again, of some runs: counts and ages."""
    count = sum(count for count, _ in runs)
    body = WIRE.pack_again([WIRE.Run(*run) for run in runs], json.dumps(list(range(number, number + count))).encode())
    return WIRE.pack(1, WIRE.AGAIN, NODE, number, 0, count, WIRE.ANSWERS, body)


def test_what_is_known_of_a_frame_is_not_delivered_or_counted_again() -> None:
    async def scene() -> None:
        inbox = Inbox()
        assert inbox.counts == (0, 0, 0, 0)
        inbox.take(payload(0, 3))
        inbox.take(payload(0, 3))
        inbox.take(payload(1, 4))
        inbox.take(again(3, (2, 0), (1, 0)))
        inbox.take(again(5, (3, 0)))
        inbox.take(again(6, (2, 0), (1, 0)))
        assert inbox.got == [[0, 1, 2], [3, 4], [5], [6, 7], [8]]
        assert inbox.counts == (9, 4, 0, 0)
        assert not inbox.told

    jump(scene)


def test_a_frame_is_decoded_once_for_its_first_listener() -> None:
    async def scene() -> None:
        inbox = Inbox(Ear(), Ear())
        for frame in (payload(0, 3), payload(1, 3), payload(4, 1), again(5, (2, 0))):
            inbox.take(frame)
        first, second = inbox.ears
        assert first.got == second.got == [[0, 1, 2], [3], [4], [5, 6]]
        assert (first.were_decoded, second.were_decoded) == ([True] * 4, [False] * 4)

    jump(scene)


def test_frames_that_were_held_come_with_their_own_messages() -> None:
    async def scene() -> None:
        inbox = Inbox()
        for frame in (payload(0, 1), payload(3, 2), payload(5, 1), payload(1, 2)):
            inbox.take(frame)
        assert inbox.got == [[0], [1, 2], [3, 4], [5]]
        assert inbox.counts == (6, 0, 0, 0)

    jump(scene)


def test_of_what_is_sent_again_a_listener_gets_what_was_published_since_it_listens() -> None:
    async def scene() -> None:
        ears = [Ear(), Ear(now() - 2), Ear(now() - 0.25), Ear(now() + 1)]
        inbox = Inbox(*ears)
        inbox.take(payload(0, 1))
        for ear in ears:
            ear.got.clear()
        inbox.take(again(0, (2, 2001), (1, 2000), (1, 500), (1, 0)))
        assert [ear.got for ear in ears] == [[[1, 2, 3, 4]], [[2, 3, 4]], [[4]], []]

    jump(scene)


def test_what_is_larger_than_a_node_takes_is_told_and_lost() -> None:
    async def scene() -> None:
        inbox = Inbox()
        largest = SENDING.JOINED_BYTES + WIRE.overhead(SENDING.JOINED_MESSAGES)
        inbox.take(payload(0, 1, body=b'["' + b"x" * (largest - 4) + b'"]'))
        assert (len(inbox.got), inbox.told) == (1, [])
        inbox.take(payload(0, 3, body=b'["' + b"x" * (largest - 3) + b'"]'))
        assert len(inbox.got) == 1
        bad, loss = inbox.told
        assert (bad.topic, bad.count) == ("t", 1)
        assert str(bad) == (
            f"A frame of {largest + 1} bytes on topic 't' exceeds this node's limit ({largest} bytes, from "
            f"max_message_bytes). {ADVICE}"
        )
        assert (loss.topic, loss.node, loss.count) == ("t", NODE.hex(), 2)
        assert str(loss) == (
            f"2 messages of sender {NODE.hex()} on topic 't' did not arrive and cannot be recovered. The sender is "
            "gone, gave up after its publish_timeout, or no longer keeps what it sent (its max_history_bytes); or it sent "
            "more than this node's max_message_bytes allows; or one of the two may not use the control topic. If it "
            "matters, fetch the state of that topic again."
        )
        assert inbox.counts == (1, 0, 2, 0)

    jump(scene)


def test_what_was_held_and_is_too_large_is_lost_in_its_turn() -> None:
    async def scene() -> None:
        inbox = Inbox()
        large = b"[" + b" " * 300_000 + b"]"
        inbox.take(payload(0, 1))
        inbox.take(payload(2, 3, body=large))
        assert [type(error).__name__ for error in inbox.told] == ["BadFrameError"]
        inbox.take(payload(1, 1))
        inbox.take(payload(5, 1))
        assert [type(error).__name__ for error in inbox.told] == ["BadFrameError", "MessagesLostError"]
        assert (inbox.got, inbox.node.lost) == ([[0], [1], [5]], 3)

    jump(scene)


@pytest.mark.parametrize("answers", [True, False])
def test_a_node_that_says_it_is_further_is_asked_only_if_it_answers(answers: bool) -> None:
    async def scene() -> None:
        inbox = Inbox()
        for topic in "tu":
            inbox.take(payload(0, 1, flags=0), topic)
        counts = [WIRE.Count(topic, 0, 3, 3, 0) for topic in "tu"]
        body = WIRE.pack_body(WIRE.Control(counts=counts))
        inbox.take(WIRE.pack(0, WIRE.CONTROL, NODE, 0, 0, 0, WIRE.ANSWERS * answers, body))
        assert [inbox.receiver.has_gaps(topic) for topic in "tu"] == [answers, False]
        assert [(error.topic, error.count) for error in inbox.told] == ([] if answers else [("t", 2)])

    jump(scene)


def test_frames_of_this_node_are_counted_except_on_the_control_topic() -> None:
    async def scene() -> None:
        inbox = Inbox()
        for number in range(3):
            inbox.take(payload(number, 1, sender=ME))
        for number in range(2):
            inbox.take(payload(number, 1, sender=ME), "CONTROL")
        assert inbox.counts == (0, 0, 0, 3)
        assert not inbox.got

    jump(scene)


@pytest.mark.parametrize(
    ("topic", "payload", "told"),
    [
        ("t", "text", "payload must be bytes, not str"),
        ("t", None, "payload must be bytes, not NoneType"),
        (b"t", b"x", "topic must be str, not bytes"),
        (["t"], b"x", "topic must be str, not list"),
    ],
)
def test_what_is_not_text_and_bytes_is_an_error_of_the_transport(topic: Any, payload: Any, told: str) -> None:
    async def scene() -> None:
        inbox = Inbox()
        with pytest.raises(TypeError, match=f"^{told}$"):
            inbox.take(payload, topic)
        inbox.ears = ()
        with pytest.raises(TypeError, match=f"^{told}$"):
            inbox.take(payload, topic)
        assert not inbox.told

    jump(scene)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_bytes_in_another_form_are_taken(kind: Any) -> None:
    async def scene() -> None:
        inbox = Inbox()
        inbox.take(kind(payload(0, 1, flags=0)))
        inbox.take(kind(b"x"))
        assert (len(inbox.got), len(inbox.told)) == (1, 1)

    jump(scene)


def test_payloads_that_are_no_frames_are_told_once_a_second_by_topic() -> None:
    async def scene() -> None:
        inbox = Inbox()
        for size in (1, 2, 3):
            inbox.take(b"x" * size)
        inbox.take(b"xxxx", "u")
        await asyncio.sleep(2)
        assert [(error.topic, error.count) for error in inbox.told] == [("t", 1), ("u", 1), ("t", 2)]
        told = [
            f"A payload of {size} bytes on topic {topic!r} is not a connector's frame: {size} bytes are too few for a "
            f"frame.{more} {ADVICE}"
            for size, topic, more in (
                (1, "t", ""),
                (4, "u", ""),
                (3, "t", " It is the last of 2 on this topic."),
            )
        ]
        assert [str(error) for error in inbox.told] == told

    jump(scene)


@pytest.mark.parametrize("ends", ["forget", "close"])
def test_what_was_not_told_yet_is_told_when_nobody_listens_any_more(ends: str) -> None:
    async def scene() -> None:
        inbox = Inbox()
        for _ in range(4):
            inbox.take(b"x")
        if ends == "forget":
            inbox.node.forget("u")
            assert len(inbox.told) == 1
            inbox.node.forget("t")
        else:
            inbox.node.close()
        assert [error.count for error in inbox.told] == [1, 3]
        await asyncio.sleep(2)
        assert len(inbox.told) == 2

    jump(scene)


def test_a_frame_that_turns_out_to_be_forged_is_told() -> None:
    async def scene() -> None:
        inbox = Inbox()
        inbox.node.handle([RECEIVING.Bogus("u")])
        [error] = inbox.told
        assert (type(error), error.topic) == (ERRORS.BadFrameError, "u")
        assert str(error) == (
            f"A frame on topic 'u' has numbers that its sender never assigned: it is forged. {ADVICE}"
        )

    jump(scene)


# Events.


class Log(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def log() -> Iterator[list[logging.LogRecord]]:
    """What is logged."""
    handler = Log()
    logger: logging.Logger = EVENTS.logger
    logger.addHandler(handler)
    logger.propagate = False
    yield handler.records
    logger.removeHandler(handler)
    logger.propagate = True


def failure(event: str, error: str) -> str:
    return f"A handler of the event {event!r} raised {error}; fix the handler."


def test_a_handler_may_be_added_by_a_decorator_for_one_event_or_for_all() -> None:
    async def scene() -> None:
        events, got = EVENTS.Events(), list[Any]()

        @events.once("a")  # type: ignore[untyped-decorator]
        def first(value: Any) -> None:
            got.append(("once", value))

        @events.once("a")  # type: ignore[untyped-decorator]
        async def later(value: Any) -> None:
            got.append(("awaited", value))

        @events.on("a")  # type: ignore[untyped-decorator]
        def always(value: Any) -> None:
            got.append(("on", value))

        assert all(callable(each) for each in (first, later, always))
        for value in range(2):
            assert events.emit("a", value)
            await turns(2)
        assert got == [("once", 0), ("on", 0), ("awaited", 0), ("on", 1)]
        assert not events.emit("b", 5)

    jump(scene)


def test_a_handler_is_taken_back_and_others_stay() -> None:
    async def scene() -> None:
        events, got = EVENTS.Events(), list[Any]()

        def never(value: Any) -> None: ...

        def one(value: Any) -> None:
            got.append("one")

        def other(value: Any) -> None:
            got.append("other")

        def third(value: Any) -> None:
            got.append("third")

        for handler in (one, other):
            events.on("a", handler)
            events.on("a", handler)
        events.once("a", third)
        events.remove_listener("a", one)
        events.remove_listener("a", third)
        for handler in (one, never):
            with pytest.raises(KeyError) as raised:
                events.remove_listener("a", handler)
            assert raised.value.args == (handler,)
        events.emit("a", 0)
        assert got == ["other"]

    jump(scene)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("how", ["on", "once"])
def test_what_a_handler_raises_is_logged_with_its_event(log: list[logging.LogRecord], how: str, is_async: bool) -> None:
    error = ValueError("no")

    def handler() -> Any:
        if not is_async:
            raise error
        return raising(error)

    async def scene() -> None:
        events = EVENTS.Events()
        getattr(events, how)("ready", handler)
        events.emit("ready")
        await turns(2)
        await events.close()

    jump(scene)
    [record] = log
    assert record.getMessage() == failure("ready", "ValueError('no')")
    assert record.exc_info
    assert record.exc_info[1] is error


def test_a_handler_that_is_cancelled_before_the_end_is_logged(log: list[logging.LogRecord]) -> None:
    async def scene() -> None:
        events = EVENTS.Events()
        events.on("ready", lambda: raising(asyncio.CancelledError()))
        events.emit("ready")
        await turns(2)
        await events.close()

    jump(scene)
    assert [record.getMessage() for record in log] == [failure("ready", "CancelledError()")]


@pytest.mark.parametrize(("takes", "closes_in"), [(0.5, 0.5), (FOREVER, 1)])
def test_handlers_have_a_second_to_end_and_are_cancelled_without_a_word(
    log: list[logging.LogRecord], takes: float, closes_in: float
) -> None:
    async def scene() -> None:
        events, ended = EVENTS.Events(), list[float]()

        async def handler(seconds: float) -> None:
            try:
                await asyncio.sleep(seconds)
            finally:
                ended.append(seconds)

        events.on("ready", handler)
        for seconds in (0, takes):
            events.emit("ready", seconds)
        await turns(3)
        assert not events.is_calling_us()
        began = now()
        await events.close()
        assert now() - began == pytest.approx(closes_in, abs=0.01)
        assert ended == [0, takes]
        began = now()
        await events.close()
        assert now() == began

    jump(scene)
    assert not log


def test_a_handler_that_does_not_end_when_cancelled_is_waited_for_a_second_more(log: list[logging.LogRecord]) -> None:
    async def scene() -> None:
        events, free = EVENTS.Events(), asyncio.Event()

        async def handler() -> None:
            try:
                await asyncio.sleep(FOREVER)
            finally:
                await free.wait()

        events.on("ready", handler)
        events.emit("ready")
        await turns(2)
        began = now()
        await events.close()
        assert now() - began == pytest.approx(2, abs=0.01)
        free.set()
        await turns(3)

    jump(scene)
    assert not log


def test_a_handler_that_closes_is_not_waited_for_and_knows_that_it_is_called(log: list[logging.LogRecord]) -> None:
    async def scene() -> None:
        events, seen = EVENTS.Events(), list[Any]()

        async def handler() -> None:
            began = now()
            await events.close()
            seen.extend((events.is_calling_us(), now() - began))

        events.on("ready", handler)
        events.emit("ready")
        await turns(3)
        assert seen == [True, 0]

    jump(scene)
    assert not log


class Unseen:
    """It cannot be shown."""

    def __repr__(self) -> str:
        raise ZeroDivisionError


def test_what_cannot_be_shown_is_shown_by_its_type() -> None:
    assert EVENTS.shown(Unseen()) == "<Unseen>"
    assert EVENTS.shown(ValueError("no"), str) == "no"


@pytest.mark.parametrize("is_always", [False, True])
def test_a_log_that_fails_does_no_harm_and_is_tried_without_the_cause(
    log: list[logging.LogRecord], is_always: bool
) -> None:
    def refuse(record: logging.LogRecord) -> bool:
        if is_always or record.exc_info:
            raise ZeroDivisionError
        return True

    logger: logging.Logger = EVENTS.logger
    logger.addFilter(refuse)
    try:
        EVENTS.log_failure("ready", ValueError("no"))
        EVENTS.Events().report(OSError("not heard"))
    finally:
        logger.removeFilter(refuse)
    texts = [failure("ready", "ValueError('no')"), "OSError: not heard"]
    assert [record.getMessage() for record in log] == ([] if is_always else texts)


def test_an_error_is_logged_in_one_line_and_with_a_traceback_only_if_it_is_the_hosts_own(
    log: list[logging.LogRecord],
) -> None:
    for error in (ERRORS.ReconnectError("Cannot connect."), ERRORS.ListenerError("It raised.")):
        error.__cause__ = OSError("why")
        EVENTS.Events().report(error)
    assert [record.getMessage() for record in log] == ["ReconnectError: Cannot connect.", "ListenerError: It raised."]
    assert not log[0].exc_info
    assert log[1].exc_info
    assert isinstance(log[1].exc_info[1], OSError)


# Floods.


def test_a_flood_is_told_once_a_second_with_its_count() -> None:
    async def scene() -> None:
        told: list[tuple[float, int]] = []
        began = now()
        flood = FLOODS.Flood(lambda count: told.append((round(now() - began, 3), count)), lambda count: count)
        for pause in (0.2, 0.2, 0.2, 2.1, 0.4, 0.9, 0.1, 5):
            flood.add(1)
            await asyncio.sleep(pause)
        flood.add(3)
        flood.add(4)
        flood.flush()
        flood.flush()
        await asyncio.sleep(5)
        flood.add(1)
        assert [count for _, count in told] == [1, 3, 1, 1, 2, 3, 4, 1]
        assert [time for time, _ in told] == pytest.approx([0, 1, 2.7, 3.7, 4.7, 9.1, 9.1, 14.1], abs=0.001)

    jump(scene)


# The bridge.


def test_calls_over_a_bridge_are_made_in_order_a_slice_at_a_time() -> None:
    async def scene() -> None:
        bridge, made = BRIDGE.Bridge(), list[int]()

        def work(number: int) -> None:
            made.append(number)
            block(0.006)

        for _ in range(2):
            made.clear()
            for number in range(5):
                bridge.call(work, number)
            assert not made
            for count in (2, 4, 5, 5):
                await turns(1)
                assert made == list(range(count))

    jump(scene)


def test_a_call_over_a_bridge_that_raises_does_not_stop_the_others() -> None:
    async def scene() -> None:
        bridge, made, raised = BRIDGE.Bridge(), list[int](), list[Any]()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context["exception"]))
        bridge.call(made.append, 1)
        bridge.call(fail, 2)
        bridge.call(made.append, 3)
        await turns(3)
        assert made == [1, 3]
        assert [type(error) for error in raised] == [ValueError]

    jump(scene)


def test_a_call_over_a_bridge_is_dropped_when_the_loop_is_closed() -> None:
    bridges, made = [], list[int]()

    async def scene() -> None:
        bridges.append(BRIDGE.Bridge())

    jump(scene)
    for bridge in bridges:
        bridge.call(made.append, 1)
    assert not made


# Receipts.


@pytest.mark.parametrize("error", [None, ValueError("no")])
def test_who_hears_of_a_receipt_hears_the_error_once(error: Exception | None) -> None:
    async def scene() -> None:
        receipt, heard = RECEIPT.Receipt(), list[Any]()
        receipt.hears = heard.append
        receipt.settle(error)
        receipt.settle(OSError("late"))
        assert heard == [error]
        assert receipt.exception() is error

    jump(scene)


def test_what_a_hearer_of_a_receipt_raises_goes_to_the_loop() -> None:
    async def scene() -> None:
        receipt, contexts = RECEIPT.Receipt(), list[Any]()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: contexts.append(context))
        fault = ZeroDivisionError()

        def hear(error: Exception | None) -> None:
            raise fault

        receipt.hears = hear
        receipt.settle()
        assert receipt.done()
        assert contexts == [
            {"message": "A receipt's callback raised an exception", "exception": fault, "future": receipt}
        ]

    jump(scene)


def test_what_is_thrown_into_a_receipt_comes_out() -> None:
    async def scene() -> None:
        receipt, error = RECEIPT.Receipt(), ValueError("no")
        for thrown in ((error,), (ValueError, error), (ValueError, error, None)):
            with pytest.raises(ValueError, match="no") as raised:
                receipt.throw(*thrown)
            assert raised.value is error
        with pytest.raises(ValueError, match=r"^$"):
            receipt.throw(ValueError)

    jump(scene)


def test_messages_whose_task_was_cancelled_before_it_began_are_given_to_the_listener_in_the_end() -> None:
    async def scene() -> None:
        desk, got = Desk(), list[int]()
        one = desk.subscription(got.append)
        one.put(batch([1, 2]))
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(5)
        assert not one.is_idle
        await one.finish(2.0)
        assert got == [1, 2]

    jump(scene)


def test_the_end_of_an_outage_is_logged_once_if_its_beginning_was(
    log: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        events, ready = EVENTS.Events(), list[str]()
        events.on("ready", lambda: ready.append("ready"))
        events.ready("a://a")
        for error in (ERRORS.ConnectionLostError("Lost."), ERRORS.ReconnectError("Away.")):
            events.report(error)
        events.ready("a://a")
        events.ready("a://a")
        events.report(ERRORS.ListenerError("It raised."))
        events.ready("a://a")
        events.on("error", lambda error: None)
        events.report(ERRORS.ConnectionLostError("Lost."))
        events.ready("a://a")
        assert len(ready) == 5

    monkeypatch.setattr(EVENTS, "monotonic", iter([3.0, 9.94]).__next__)
    jump(scene)
    assert [(record.levelname, record.getMessage()) for record in log] == [
        ("ERROR", "ConnectionLostError: Lost."),
        ("ERROR", "ReconnectError: Away."),
        ("WARNING", "Connected to a://a after an outage of 6.9 s."),
        ("ERROR", "ListenerError: It raised."),
    ]


def test_messages_that_may_be_lost_are_logged_with_counts_that_add_up(log: list[logging.LogRecord]) -> None:
    async def scene() -> None:
        events = EVENTS.Events()
        events.log_unsent(OSError("one"))
        for error in ("two", "three"):
            events.log_unsent(OSError(error))
        await asyncio.sleep(1.1 * FLOODS.PAUSE)
        events.log_unsent(OSError("four"))
        await events.close()

    jump(scene)
    assert [record.getMessage() for record in log] == [
        "ConnectorError: 1 message of this node may be lost. The last error: one",
        "ConnectorError: 2 more messages of this node may be lost. The last error: three",
        "ConnectorError: 1 more message of this node may be lost. The last error: four",
    ]
