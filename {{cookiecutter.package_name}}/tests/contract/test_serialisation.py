"""Chapter S: what arrives equals what was sent, or was refused."""

import asyncio
import datetime
import decimal
import enum
import math
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..subject import contract
from .nodes import PATIENCE, PHASES, Log, Node, SpiedNode, Wire, largest
from .public import MakeNode

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5), max_leaves=20
)
EDGES: list[Any] = [
    None,
    False,
    "",
    {},
    [],
    [[]],
    {"": {"": []}},
    -(2**63),
    2**63,
    2**64 - 1,
    0.1,
    -0.0,
    1.0,
    5e-324,
    1.7976931348623157e308,
    1e16,
    "\x00\x1f\x7f\u2028\ufeff",
    "\U0001f600 \u00e9 e\u0301",
    {"null": None, "nested": [{"a": [1, [2, [3, {"b": None}]]]}]},
]


class Colour(enum.Enum):
    """Something that JSON does not have."""

    RED = 1


def cycle() -> list[Any]:
    """A list that holds itself."""
    inner: list[Any] = []
    inner.append([inner])
    return inner


REFUSED = [
    b"bytes",
    bytearray(b"bytes"),
    {1, 2},
    frozenset(),
    math.nan,
    math.inf,
    -math.inf,
    {1: "integer key"},
    {None: "no key"},
    {True: "boolean key"},
    {1.5: "float key"},
    {(1, 2): "tuple key"},
    "\ud800",
    {"\udfff": 1},
    2**64,
    -(2**63) - 1,
    10**30,
    object(),
    Colour.RED,
    datetime.datetime(2020, 1, 1),
    datetime.date(2020, 1, 1),
    decimal.Decimal("1.5"),
    uuid.UUID(int=1),
    1j,
    cycle(),
    print,
]


@pytest.fixture
def pairs() -> dict[str, Any]:
    """The nodes that all examples of a test use."""
    return {}


@pytest.mark.clause("S1")
@pytest.mark.parametrize("serialization", ["json", "msgpack"])
@settings(max_examples=60, deadline=None, phases=PHASES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(message=JSON)
async def test_any_json_value_arrives_as_it_was_sent(
    node: MakeNode, pairs: dict[str, Any], topic: str, serialization: str, message: Any
) -> None:
    if not pairs:
        pairs.update(publisher=await node(serialization=serialization), subscriber=await node(), mailbox=Log())
        await pairs["subscriber"].subscribe(topic, pairs["mailbox"])
    await pairs["publisher"].publish(topic, message)
    (got,) = await pairs["mailbox"].count(1)
    pairs["mailbox"].items.clear()
    assert_same(got, message)


@pytest.mark.clause("S1")
@pytest.mark.parametrize("serialization", ["json", "msgpack"])
async def test_edges_of_json_arrive_as_they_were_sent(node: MakeNode, topic: str, serialization: str) -> None:
    publisher, subscriber = await node(serialization=serialization), await node()
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    for message in [*EDGES, deep]:
        publisher.publish_nowait(topic, message)
    got = await mailbox.count(len(EDGES) + 1)
    for arrived, sent in zip(got, [*EDGES, deep], strict=True):
        assert_same(arrived, sent)


@pytest.mark.clause("S1")
async def test_nodes_of_both_serialisations_share_a_topic(node: MakeNode, topic: str) -> None:
    as_json, as_msgpack = await node(serialization="json"), await node(serialization="msgpack")
    mailboxes = Log(), Log()
    await as_json.subscribe(topic, mailboxes[0])
    await as_msgpack.subscribe(topic, mailboxes[1])
    await as_json.publish(topic, {"from": "json"})
    await as_msgpack.publish(topic, {"from": "msgpack"})
    assert await mailboxes[0].count(1) == [{"from": "msgpack"}]
    assert await mailboxes[1].count(1) == [{"from": "json"}]


@pytest.mark.clause("S1")
@pytest.mark.parametrize("serialization", ["json", "msgpack"])
async def test_frames_are_laid_out_as_connectors_of_any_make_expect(
    node: MakeNode, wire: Wire, topic: str, serialization: str
) -> None:
    publisher, other = [await node(serialization=serialization, heartbeat=10 * PATIENCE) for _ in range(2)]
    await wire.transport.subscribe(topic)
    await publisher.publish(topic, "zero")
    await asyncio.gather(*(publisher.publish(topic, number) for number in range(1, 9)))
    await publisher.publish(topic, {"number": 9})
    decode = msgspec.json.decode if serialization == "json" else msgspec.msgpack.decode
    await wire.payloads.until(lambda got: sum(len(decode(payload[40:])) for _, payload in got) == 10, "10 messages")
    frames = [payload for _, payload in wire.payloads.items]
    await other.publish(topic, "from another node")
    last = (await wire.payloads.count(len(frames) + 1))[-1][1]
    assert {frame[:19] for frame in frames} == {frames[0][:19]} != {last[:19]}  # version, serialisation, kind, sender
    assert frames[0][0] == 2
    first = int.from_bytes(frames[0][19:27], "big")
    number, messages = first, []
    for frame in frames:
        assert int.from_bytes(frame[19:27], "big") == number
        assert int.from_bytes(frame[27:35], "big") == first  # where the sender began to count
        body = decode(frame[40:])
        assert int.from_bytes(frame[35:39], "big") == len(body)
        number += len(body)
        messages += body
    assert messages == ["zero", *range(1, 9), {"number": 9}]
    assert decode(last[40:]) == ["from another node"]


@pytest.mark.clause("S2")
@pytest.mark.parametrize("serialization", ["json", "msgpack"])
async def test_what_cannot_round_trip_is_refused(node: MakeNode, topic: str, serialization: str) -> None:
    publisher, subscriber = await node(serialization=serialization), await node()
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    for bad in REFUSED:
        for message in (bad, {"fine": None, "bad": [bad]}):
            with pytest.raises(contract.SerializationError):
                await publisher.publish(topic, message)
            with pytest.raises(contract.SerializationError):
                publisher.publish_nowait(topic, message)
    await publisher.publish(topic, "end")
    assert await mailbox.before("end") == []


@pytest.mark.clause("S2")
@pytest.mark.parametrize("serialization", ["json", "msgpack"])
async def test_tuples_arrive_as_lists(node: MakeNode, topic: str, serialization: str) -> None:
    publisher, subscriber = await node(serialization=serialization), await node()
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    await publisher.publish(topic, ("a", [("b",)], {"c": ()}))
    assert await mailbox.count(1) == [["a", [["b"]], {"c": []}]]


@pytest.mark.clause("S3")
async def test_the_message_is_taken_as_it_is_at_the_call(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    message: dict[str, Any] = {"list": [1, 2], "number": 0}
    before: dict[str, Any] = {"list": [1, 2], "number": 0}
    calls = []
    for call in (publisher.publish, publisher.publish_nowait):
        result = call(topic, message)
        assert message == before
        message["list"].append("changed")
        if result is not None:
            calls.append(asyncio.ensure_future(result))
        message["list"].pop()
        message["number"] += 1
        before["number"] += 1
    await asyncio.gather(*calls)
    assert await mailbox.count(2) == [{"list": [1, 2], "number": 0}, {"list": [1, 2], "number": 1}]


@pytest.mark.clause("S4", "E2")
async def test_a_payload_that_is_no_frame_is_told_and_the_next_is_fine(node: MakeNode, wire: Wire, topic: str) -> None:
    publisher, subscriber = await node(), await node(noisy=True)
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    await wire.transport.subscribe(topic)
    await publisher.publish(topic, "first")
    ((_, good),) = await wire.payloads.count(1)
    junk = [b"x", b"not a frame at all, but long enough for one", bytes([good[0] + 1]) + good[1:], good[:-1] + b"\xff"]
    junk += [good[:20], bytes([good[0], 99]) + good[2:], bytes([*good[:2], 99]) + good[3:]]
    for payload in junk:
        await wire.transport.publish(topic, payload)
    await publisher.publish(topic, "second")
    assert await mailbox.count(2) == ["first", "second"]
    errors = await subscriber.errors.until(lambda errors: sum(error.count for error in errors) >= len(junk), "each")
    assert sum(error.count for error in errors) == len(junk)
    assert {(type(error), error.topic) for error in errors} == {(contract.BadFrameError, topic)}
    assert all(topic in str(error) for error in errors)


@pytest.mark.clause("S5")
@pytest.mark.parametrize("serialization", ["json", "msgpack"])
async def test_too_large_a_message_is_refused_before_it_is_sent(node: MakeNode, topic: str, serialization: str) -> None:
    publisher: SpiedNode = await node(SpiedNode, max_message_bytes=1000, serialization=serialization)
    subscriber: Node = await node()
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    with pytest.raises(contract.MessageTooLargeError, match="1000"):
        await publisher.publish(topic, "x" * 1000)
    with pytest.raises(contract.MessageTooLargeError):
        publisher.publish_nowait(topic, ["x" * 1000])
    assert publisher.called("publish") == 0
    await publisher.publish(topic, "x" * 990)
    assert await mailbox.count(1) == ["x" * 990]


@pytest.mark.clause("S5")
@pytest.mark.parametrize("serialization", ["json", "msgpack"])
async def test_what_the_broker_takes_is_never_exceeded(node: MakeNode, topic: str, serialization: str) -> None:
    publisher: SpiedNode = await node(SpiedNode, connect=False, serialization=serialization)
    subscriber: Node = await node()
    sizes, mailbox = Log(), Log()

    async def limit(transport: Any, _: object) -> None:
        transport.max_frame_bytes = 500
        publish = transport.publish

        async def measured(topic: str, payload: bytes) -> None:
            sizes(len(payload))
            await publish(topic, payload)

        transport.publish = measured

    publisher.trouble["connected"] = limit
    await publisher.connect()
    await subscriber.subscribe(topic, mailbox)
    for number in range(200):
        publisher.publish_nowait(topic, f"{number:060}")
    with pytest.raises(contract.MessageTooLargeError):
        await publisher.publish(topic, "x" * 500)
    await publisher.publish(topic, "x" * 420)
    assert await mailbox.count(201) == [*(f"{number:060}" for number in range(200)), "x" * 420]
    assert max(sizes.items) <= 500
    assert len(sizes.items) < 100


@pytest.mark.clause("S5", "E3")
async def test_what_the_broker_refuses_together_is_sent_one_by_one(node: MakeNode, topic: str) -> None:
    publisher: SpiedNode = await node(SpiedNode)
    subscriber: Node = await node()
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)

    async def refuse_large(transport: Any, _: object) -> None:
        if len(transport.payload) > 500:
            raise contract.PublishRefusedError("too large for a limit that nobody told")

    publisher.trouble["publish"] = refuse_large
    messages = ["a" * 300, "b" * 300, "c" * 900, "d" * 300]
    results = await asyncio.gather(*(publisher.publish(topic, message) for message in messages), return_exceptions=True)
    assert [type(result) for result in results] == [type(None)] * 2 + [contract.PublishRefusedError, type(None)]
    await publisher.publish(topic, "end")
    assert await mailbox.before("end") == [messages[0], messages[1], messages[3]]
    assert subscriber.stats()["lost"] == 0


@pytest.mark.clause("S5")
async def test_a_large_message_arrives(node: MakeNode, wire: Wire, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    most = largest(publisher, wire)
    for length in sorted({min(most, each) for each in (16_000, 64_000, 70_000, 140_000, 900_000, most - 10)}):
        await publisher.publish(topic, text := "".join(f"{number:08}" for number in range(length // 8)))
        got = await mailbox.count(1)
        assert got == [text]
        got.clear()


def assert_same(got: Any, sent: Any) -> None:
    """Assert equality, with types and the signs of zeros."""
    assert repr(got) == repr(sent) or got == sent
    assert got == sent
    assert type(got) is type(sent)
    if isinstance(sent, float):
        assert math.copysign(1, got) == math.copysign(1, sent)
