"""Chapter M: topics are exact strings."""

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..subject import Topic, contract
from .nodes import PHASES, Log, Node, Wire
from .public import MakeNode

TOPICS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=200).filter(lambda name: name != "CONTROL")


LITERAL_TOPICS = [
    "a",
    "A",
    "a ",
    " a",
    "a.b",
    "a.*",
    "*",
    "#",
    ">",
    "+",
    "?",
    "a?",
    "[a]",
    "a/b",
    "a/+",
    "a/#",
    "/a",
    "a/",
    "a//b",
    "a..b",
    ".",
    "..",
    "$a",
    "$SYS/broker",
    "%2A",
    "%",
    "a%20b",
    "a b",
    "line\nbreak",
    "line\r\nbreak",
    "a\r",
    "tab\t",
    "\u00fc\u00df\u4f60\U0001f600",
    "e\u0301",
    "\u00e9",
    "x" * 200,
    "\U0001f600" * 200,
    "quote'\"\\",
    "{a}",
    "a,b",
    "a;b",
    "a:b",
    "_",
    "-",
    "\x00",
    "a\x00b",
    Topic.RECORD,
    "record",
]


@pytest.mark.clause("M6")
async def test_topics_are_literal(node: MakeNode) -> None:
    publisher, subscriber = await node(), await node()
    mailboxes = {name: Log() for name in LITERAL_TOPICS}
    for name, mailbox in mailboxes.items():
        await subscriber.subscribe(name, mailbox)
    for name in LITERAL_TOPICS:
        await publisher.publish(name, ["for", name])
    for name in reversed(LITERAL_TOPICS):
        await publisher.publish(name, "end")
    for name, mailbox in mailboxes.items():
        assert await mailbox.before("end") == [["for", name]]


@pytest.mark.clause("M6")
@settings(max_examples=30, deadline=None, phases=PHASES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(TOPICS, min_size=1, max_size=5, unique=True))
async def test_any_text_is_a_topic(node: MakeNode, pairs: dict[str, Any], names: list[str]) -> None:
    if not pairs:
        pairs.update(publisher=await node(), subscriber=await node())
    mailboxes = {name: Log() for name in names}
    for name, mailbox in mailboxes.items():
        await pairs["subscriber"].subscribe(name, mailbox)
    for name in names:
        await pairs["publisher"].publish(name, name)
        await pairs["publisher"].publish(name, ["end"])
    for name, mailbox in mailboxes.items():
        assert await mailbox.before(["end"]) == [name]
        await pairs["subscriber"].unsubscribe(name, mailbox)


LIMITS = [30, 50, 60, 63, 64, 100, 120, 127, 128, 200, 240, 249, 250, 255, 256, 500]
"""Lengths near which brokers and clients cut names."""


@pytest.mark.clause("M6")
@pytest.mark.parametrize("letter", ["x", "\u00e9", "%"], ids=["plain", "not ASCII", "escaped"])
async def test_long_topics_that_differ_at_the_end_stay_apart(node: MakeNode, topic: str, letter: str) -> None:
    publisher, subscriber = await node(), await node()
    names = [f"{topic}-{letter * length}{end}" for length in LIMITS for end in "12"]
    mailboxes = {name: Log() for name in names}
    for name, mailbox in mailboxes.items():
        await subscriber.subscribe(name, mailbox)
    for name in names:
        await publisher.publish(name, ["for", name])
        await publisher.publish(name, "end")
    for name, mailbox in mailboxes.items():
        assert await mailbox.before("end") == [["for", name]]


@pytest.mark.clause("M6")
async def test_no_topic_brings_those_that_begin_like_it(node: MakeNode, wire: Wire, topic: str) -> None:
    publisher: Node = await node()
    await wire.transport.subscribe(topic)
    for more in ("b", "/b", ".b", "-b", "_b", ":b", " b", "*", "#", "%"):
        await publisher.publish(f"{topic}{more}", "a longer topic")
    await publisher.publish(topic[:-1], "a shorter topic")
    await publisher.publish(topic, "the topic itself")
    await wire.payloads.until(lambda payloads: topic in dict(payloads), "the topic itself")
    assert [name for name, _ in wire.payloads.items] == [topic]


@pytest.fixture
def pairs() -> dict[str, Any]:
    """The two nodes that all examples of a test use."""
    return {}


@pytest.mark.clause("M6")
@given(topic=TOPICS, mark=st.sampled_from("%_"))
def test_escaped_topics_are_plain_and_can_be_read_back(topic: str, mark: str) -> None:
    name = contract.escape(topic, mark)
    assert re.fullmatch(r"[A-Za-z0-9_%-]+", name)
    assert contract.unescape(name, mark) == topic


@pytest.mark.clause("M6")
@given(topics=st.lists(TOPICS, min_size=2, max_size=2, unique=True))
def test_names_that_are_cut_stay_apart(topics: list[str]) -> None:
    one, other = (contract.escape("x" * 200 + topic, longest=100) for topic in topics)
    assert one != other
    assert len(one) == len(other) == 100
    assert contract.escape("RECORD", longest=100) == "RECORD"


@pytest.mark.clause("M6")
@pytest.mark.parametrize("topic", ["", "\ud800"])
async def test_no_topic_at_all_is_an_error(node: MakeNode, topic: str) -> None:
    connector: Node = await node()
    with pytest.raises(contract.PublishRefusedError):
        await connector.publish(topic, 1)
    with pytest.raises(contract.SubscribeRefusedError):
        await connector.subscribe(topic, Log())
