"""Chapter S: frames that no sender can have sent harm nobody, signed or not; depth and size have limits."""

import time
from collections.abc import Callable
from itertools import pairwise
from math import inf
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from ..subject import BrokerTransport, contract, sending, serialization, wire_format
from .balance import reported, sum_of
from .faults import forged, pings
from .nodes import PATIENCE, Log, Node, SpiedNode, Wire
from .proxy import Proxy
from .public import MakeNode

MSGPACK = serialization.MessagePack.code


def in_msgpack(message: bytes) -> bytes:
    """Return a frame of one message, which is MessagePack already."""
    return forged(uuid4().bytes, 0, b"\xdd\x00\x00\x00\x01" + message, code=MSGPACK)


def in_json(message: bytes, count: int = 1) -> bytes:
    """Return a frame of one message, which is JSON already."""
    return forged(uuid4().bytes, 0, b"[" + message + b"]", count=count)


def nested(depth: int) -> Any:
    """Return lists in lists, this deep."""
    inner: Any = []
    for _ in range(depth - 1):
        inner = [inner]
    return inner


BOGUS = {
    "an extension type": in_msgpack(b"\xd4\x05\x00"),
    "a date": in_msgpack(msgspec.msgpack.encode(msgspec.msgpack.Ext(-1, b"\x00\x00\x00\x01"))),
    "bytes": in_msgpack(msgspec.msgpack.encode(b"bytes")),
    "a number as a key": in_msgpack(msgspec.msgpack.encode({1: 2})),
    "bytes inside": in_msgpack(msgspec.msgpack.encode({"a": [b"bytes"]})),
    "not a number": in_msgpack(msgspec.msgpack.encode(float("nan"))),
    "too deep in MessagePack": in_msgpack(b"\x91" * 600 + b"\x90"),
    "too deep in JSON": in_json(b"[" * 600 + b"]" * 600),
    "much too deep in JSON": in_json(b"[" * 100_000 + b"]" * 100_000),
    "infinity": in_json(b"1e999"),
    "a large integer": in_json(b"99999999999999999999999"),
    "no array": forged(uuid4().bytes, 0, b'{"a": 1}'),
    "more than it claims": in_json(b"1,2"),
    "less than it claims": in_json(b"1", count=2),
    "no messages": forged(uuid4().bytes, 0, b"[]", count=0),
    "an unknown serialisation": forged(uuid4().bytes, 0, code=99),
    "an unknown kind": forged(uuid4().bytes, 0, kind=99),
    "no kind": forged(uuid4().bytes, 0, kind=0),
    "a base above its number": forged(uuid4().bytes, 5, base=6),
    "an impossible number": forged(uuid4().bytes, 2**63),
    "no answer": forged(uuid4().bytes, 0, b"nonsense", kind=wire_format.ANSWER),
    "no control frame": forged(uuid4().bytes, 0, b"nonsense", kind=wire_format.CONTROL),
}


@pytest.mark.clause("S4")
async def test_what_no_sender_can_have_sent_is_told_and_not_delivered(node: MakeNode, wire: Wire, topic: str) -> None:
    publisher, subscriber = await node(), await node(noisy=True)
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    sent = [payload for payload in BOGUS.values() if len(payload) <= (wire.transport.max_frame_bytes or inf)]
    for payload in sent:
        await wire.transport.publish(topic, payload)
    await wire.transport.publish(topic, forged(uuid4().bytes, 0, b'["the last of them"]'))
    await mailbox.before("the last of them")
    await publisher.publish(topic, "end")
    assert await mailbox.before("end") == ["the last of them"]
    await subscriber.close()
    assert sum_of(subscriber, contract.BadFrameError) == len(sent)
    assert {type(error) for error in subscriber.errors.items} == {contract.BadFrameError}


@pytest.mark.clause("S4", "T3")
async def test_a_flood_of_junk_is_told_once_with_a_count(node: MakeNode, wire: Wire, topic: str) -> None:
    publisher, subscriber = await node(), await node(noisy=True)
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    for _ in range(300):
        await wire.transport.publish(topic, b"x")
    await wire.transport.publish(topic, forged(uuid4().bytes, 0, b'["the last of them"]'))
    await mailbox.count(1)
    await publisher.publish(topic, "end")
    await mailbox.before("end")
    told = len(subscriber.errors.items)
    await subscriber.close()
    assert sum_of(subscriber, contract.BadFrameError) == 300
    assert told <= 5  # one a second; this takes less than one
    assert (subscriber.errors.items[0].count, subscriber.errors.items[0].topic) == (1, topic)


async def captured(wire: Wire, publisher: Node, topic: str, message: Any) -> bytes:
    """Publish a message on a topic that is still unheard, and return the frame in which it travels."""
    await publisher.publish(topic, message)
    payloads = await wire.payloads.until(lambda payloads: any(name == topic for name, _ in payloads), "the frame")
    return next(bytes(payload) for name, payload in payloads if name == topic)


FORGERIES: dict[str, Callable[[Any, str], bytes]] = {
    "a high number": lambda frame, _: forged(frame.sender, 2**62),
    "a high number without a flag": lambda frame, _: forged(frame.sender, 2**62, flags=0),
    "the highest number": lambda frame, _: forged(frame.sender, 2**63 - 1),
    "an impossible number": lambda frame, _: forged(frame.sender, 2**63),
    "a high base": lambda frame, _: forged(frame.sender, 2**62, base=2**62),
    "a broken frame sent again": lambda frame, _: forged(frame.sender, 2**62, kind=wire_format.AGAIN),
    "a high number told": lambda frame, topic: told(frame, topic, 2**62),
}


@pytest.mark.clause("S6")
async def test_no_forged_frame_makes_later_messages_of_a_living_node_vanish(
    node: MakeNode, wire: Wire, topic: str
) -> None:
    publisher: Node = await node()
    subscriber: SpiedNode = await node(SpiedNode, noisy=True, heartbeat=0.4)
    mailboxes = {f"{topic} {name}": Log() for name in FORGERIES}
    for name, mailbox in mailboxes.items():
        await wire.transport.subscribe(name)
        await subscriber.subscribe(name, mailbox)
        frame = wire_format.unpack(await captured(wire, publisher, name, "first"))
        await mailbox.count(1)
        await wire.transport.publish(name, FORGERIES[name.removeprefix(f"{topic} ")](frame, name))
        for number in range(3):
            await publisher.publish(name, number)
    await pings(subscriber, 12)  # in four heartbeats, all questions have been given up
    for name, mailbox in mailboxes.items():
        for number in range(3, 5):
            await publisher.publish(name, number)
        await publisher.publish(name, "end")
        arrived = await mailbox.before("end")
        assert [message for message in arrived if message != "forged"] == ["first", *range(5)], name
    assert reported(subscriber) == 0


@pytest.mark.clause("S6")
async def test_a_forged_run_of_the_next_numbers_is_seen_through(node: MakeNode, wire: Wire, topic: str) -> None:
    publisher: Node = await node(heartbeat=10 * PATIENCE)
    subscriber: SpiedNode = await node(SpiedNode, noisy=True, heartbeat=0.4)
    mailbox = Log()
    await wire.transport.subscribe(topic)
    await subscriber.subscribe(topic, mailbox)
    frame = wire_format.unpack(await captured(wire, publisher, topic, "first"))
    await pings(subscriber, 1)  # the publisher has said how far it is, and will not say so again
    body = serialization.Json().join([b'"forged"'] * 1000)
    await wire.transport.publish(topic, forged(frame.sender, frame.number + 1, body, count=1000))
    await mailbox.count(1001)
    await publisher.publish(topic, "with the number of the forged frame")
    for number in range(5):
        await publisher.publish(topic, number)
    await publisher.publish(topic, "end")
    assert (await mailbox.before("end"))[-5:] == list(range(5))


def count_of(topic: str, base: int, number: int) -> wire_format.Count:
    """Return the count of a node that has just reached a number."""
    return wire_format.Count(topic, base, number, given=number, quiet=0)


def told(frame: Any, topic: str, number: int) -> bytes:
    """Return a control frame in which the sender of `frame` seems to have reached a number."""
    control = wire_format.Control(counts=[count_of(topic, 0, number)])
    return forged(frame.sender, 0, wire_format.pack_body(control), kind=wire_format.CONTROL, count=0)


@pytest.mark.clause("S6")
async def test_with_a_key_only_signed_frames_count(node: MakeNode, wire: Wire, topic: str) -> None:
    publisher: Node = await node(cluster_key="one", noisy=True)
    subscriber: Node = await node(cluster_key="one", noisy=True)
    keyless, stranger = await node(noisy=True), await node(cluster_key="two", noisy=True)
    mailbox, open_ears, elsewhere = Log(), Log(), f"{topic}-elsewhere"
    await wire.transport.subscribe(topic)
    await subscriber.subscribe(topic, mailbox)
    await subscriber.subscribe(elsewhere, mailbox)
    await keyless.subscribe(topic, open_ears)
    good = await captured(wire, publisher, topic, "first")
    sender = wire_format.unpack(good).sender
    bad = [
        forged(sender, 1),
        forged(sender, 2**62),
        forged(sender, 1, flags=wire_format.SIGNED) + bytes(wire_format.DIGEST_BYTES),
        forged(sender, 1, flags=wire_format.SIGNED),
        good[:-1] + bytes([good[-1] ^ 1]),
        good[:26] + b"\x01" + good[27:],  # the next number
    ]
    for payload in bad:
        await wire.transport.publish(topic, payload)
    await wire.transport.publish(elsewhere, good)
    await stranger.publish(topic, "signed by another key")
    await keyless.publish(topic, "not signed")
    await publisher.publish(elsewhere, "end elsewhere")
    for number in range(3):
        await publisher.publish(topic, number)
    await publisher.publish(topic, "end")
    await mailbox.before("end elsewhere")
    arrived = await mailbox.before("end")
    assert [message for message in arrived if message != "end elsewhere"] == ["first", 0, 1, 2]
    await subscriber.errors.until(
        lambda _: sum_of(subscriber, contract.BadFrameError) >= len(bad) + 3, "all bad frames"
    )
    await subscriber.close()
    told = [error for error in subscriber.errors.items if error.topic != subscriber.settings.control_topic]
    assert sum(error.count for error in told) == len(bad) + 3
    assert reported(subscriber) == subscriber.stats()["duplicates"] == 0
    assert (await open_ears.count(1))[0] == "first", "a node without a key takes signed frames, too"


@pytest.mark.clause("S6")
async def test_a_key_can_be_changed_while_the_cluster_runs(node: MakeNode, topic: str) -> None:
    keys = ("old",), ("old", "new"), ("new", "old"), ("new",)
    steps: list[Node] = [await node(noisy=True, cluster_key=each) for each in keys]
    mailboxes = [Log() for _ in steps]
    for index, each in enumerate(steps):
        for pair in (index - 1, index):
            await each.subscribe(f"{topic}-{pair}", mailboxes[index])
    for pair, (one, other) in enumerate(pairwise(steps)):
        await one.publish(f"{topic}-{pair}", f"{pair} up")
        await other.publish(f"{topic}-{pair}", f"{pair} down")
    for index, mailbox in enumerate(mailboxes):
        wanted = [f"{index - 1} up"] * (index > 0) + [f"{index} down"] * (index < 3)
        assert sorted(await mailbox.count(len(wanted))) == sorted(wanted)


@pytest.mark.clause("S6", "R4")
async def test_what_is_signed_is_repaired_too(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    publisher: Node = await node(cluster_key="one")
    subscriber: Node = await node(cluster_key="one", noisy=True, **through)
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    await publisher.publish(topic, "first")
    await mailbox.count(1)
    await proxy.refuse()
    await subscriber.until_down()
    for number in range(3):
        await publisher.publish(topic, number)
    await proxy.heal()
    assert await mailbox.count(4) == ["first", 0, 1, 2]
    assert (reported(subscriber), sum_of(subscriber, contract.BadFrameError)) == (0, 0)


@pytest.mark.clause("S5", "T3")
async def test_a_frame_over_the_receivers_limit_is_refused_before_it_is_decoded(
    node: MakeNode, wire: Wire, topic: str
) -> None:
    publisher: Node = await node()
    subscriber: Node = await node(noisy=True, max_message_bytes=1000)
    mailbox = Log()
    size = sending.JOINED_BYTES + 20_000
    await subscriber.subscribe(topic, mailbox)
    await publisher.publish(topic, "first")
    await mailbox.count(1)
    try:
        await publisher.publish(topic, "x" * size)
    except contract.MessageTooLargeError:
        pytest.skip("not applicable: the broker takes no frame so large")
    await wire.transport.publish(topic, forged(uuid4().bytes, 0, b"not even JSON" * (size // 13)))
    await publisher.publish(topic, "end")
    assert await mailbox.before("end") == ["first"]
    await subscriber.errors.until(lambda _: subscriber.stats()["lost"] >= 2, "the loss of both large messages")
    assert (reported(subscriber), subscriber.stats()["duplicates"]) == (2, 0)
    await subscriber.close()
    bad = [error for error in subscriber.errors.items if isinstance(error, contract.BadFrameError)]
    assert sum(error.count for error in bad) == 2
    assert all("max_message_bytes" in str(error) for error in bad)


@pytest.mark.clause("S5", "T2")
@pytest.mark.parametrize("serialization", ["json", "msgpack"])
async def test_too_large_a_message_costs_no_more_than_reading_it_once(
    node: MakeNode, topic: str, serialization: str
) -> None:
    publisher: Node = await node(serialization=serialization)
    message = [{"number": number, "text": "x" * 20} for number in range(100_000)]
    started = time.thread_time()
    msgspec.json.encode(message)
    once = time.thread_time() - started
    costs = []
    for _ in range(3):
        started = time.thread_time()
        with pytest.raises(contract.MessageTooLargeError):
            publisher.publish_nowait(topic, message)
        costs.append(time.thread_time() - started)
    assert min(costs) < 4 * once + 0.01


@pytest.mark.clause("S1")
@pytest.mark.parametrize("serialization", ["json", "msgpack"])
async def test_the_deepest_message_arrives_at_all_and_a_deeper_one_is_refused(
    node: MakeNode, topic: str, serialization: str
) -> None:
    publisher, subscriber = await node(serialization=serialization), await node()
    mailboxes = [Log(), Log()]
    for mailbox in mailboxes:
        await subscriber.subscribe(topic, mailbox)
    deepest, deeper = nested(256), nested(257)
    await publisher.publish(topic, deepest)
    for message in (deeper, {"a": deepest}, nested(900), nested(5000)):
        with pytest.raises(contract.SerializationError, match="256"):
            await publisher.publish(topic, message)
    await publisher.publish(topic, "end")
    for mailbox in mailboxes:
        assert repr(await mailbox.before("end")) == repr([deepest])


@pytest.mark.clause("S6", "R4")
@pytest.mark.skipif(BrokerTransport.keeps_messages, reason="not applicable: nobody is asked for messages")
async def test_forged_control_frames_change_nothing(node: MakeNode, wire: Wire, topic: str) -> None:
    publisher: Node = await node()
    subscriber: SpiedNode = await node(SpiedNode, noisy=True, heartbeat=0.4)
    mailbox, control = Log(), publisher.settings.control_topic
    await wire.transport.subscribe(topic)
    await subscriber.subscribe(topic, mailbox)
    sender = wire_format.unpack(await captured(wire, publisher, topic, "first")).sender
    bodies = [
        wire_format.Control(counts=[count_of(topic, 0, 2**62)]),
        wire_format.Control(counts=[count_of(topic, 2**62, 2**62)]),
        wire_format.Control(questions=[wire_format.Question(sender, topic, 2**62, None, 1)]),
        wire_format.Control(questions=[wire_format.Question(sender, topic, 0, 2**40, 2)]),
        wire_format.Control(topics=[topic] * 1000, is_back=True),
    ]
    for body in bodies:
        payload = forged(sender, 0, wire_format.pack_body(body), kind=wire_format.CONTROL, count=0)
        await wire.transport.publish(control, payload)
        payload = forged(uuid4().bytes, 0, wire_format.pack_body(body), kind=wire_format.CONTROL, count=0)
        await wire.transport.publish(control, payload)
    for number in range(5):
        await publisher.publish(topic, number)
    await pings(subscriber, 12)
    await publisher.publish(topic, "end")
    assert await mailbox.before("end") == ["first", *range(5)]
    assert reported(subscriber) == 0
