"""Chapter M: who gets which messages, in which order."""

import asyncio
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..subject import BrokerTransport, Topic, contract, private_topic
from .nodes import PATIENCE, PHASES, Log, Node, SpiedNode, Wire
from .plugin import MakeNode
from .proxy import Proxy

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
    Topic.RECORD,
    "record",
]


@pytest.mark.basic(3)
@pytest.mark.clause("M1")
async def test_every_other_subscribed_node_gets_each_message_once(node: MakeNode, topic: str) -> None:
    nodes: list[Node] = [await node() for _ in range(3)]
    bystander: Node = await node()
    mailboxes = [Log() for _ in nodes]
    for each, mailbox in zip(nodes, mailboxes, strict=True):
        await each.subscribe(topic, mailbox)
    for number in range(20):
        for index, each in enumerate(nodes):
            await each.publish(topic, [index, number])
    for each in nodes:
        await each.publish(topic, "end")
    for index, mailbox in enumerate(mailboxes):
        got = await mailbox.until(lambda items: items.count("end") == 2)
        wanted = [[other, number] for number in range(20) for other in range(3) if other != index]
        assert sorted(message for message in got if message != "end") == sorted(wanted)
    assert bystander.stats()["delivered"] == 0


@pytest.mark.basic(4)
@pytest.mark.clause("M2")
async def test_a_node_never_gets_its_own_messages(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    one: Node = await node(**through, noisy=True)
    other: Node = await node()
    own = private_topic(one.node_name)
    mailboxes = {name: [Log(), Log()] for name in (topic, own)}
    for name, pair in mailboxes.items():
        for mailbox in pair:
            await one.subscribe(name, mailbox)
    for turn in ("before", "after"):
        for name, pair in mailboxes.items():
            await one.publish(name, "own")
            one.publish_nowait(name, "own")
            await one.publish(name, "own")
            await other.publish(name, turn)
            for mailbox in pair:
                assert "own" not in await mailbox.before(turn)
        if turn == "before":
            await proxy.cut()
            await one.until_ready(2)


@pytest.mark.clause("M2")
async def test_two_connectors_with_the_same_settings_are_two_nodes(node: MakeNode, topic: str) -> None:
    one: Node = await node(node_name="twin")
    two: Node = await node(node_name="twin")
    mailboxes = [Log(), Log()]
    await one.subscribe(topic, mailboxes[0])
    await two.subscribe(topic, mailboxes[1])
    await one.publish(topic, "from one")
    await two.publish(topic, "from two")
    assert await mailboxes[0].count(1) == ["from two"]
    assert await mailboxes[1].count(1) == ["from one"]


@pytest.mark.clause("M3")
async def test_a_subscription_is_live_when_subscribe_returns(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    for number in range(25):
        mailbox = Log()
        name = f"{topic}-{number % 5}"
        await publisher.publish(name, "too early")
        await subscriber.subscribe(name, mailbox)
        await publisher.publish(name, number)
        assert await mailbox.before(number) == []
        await subscriber.unsubscribe(name, mailbox)


@pytest.mark.parametrize(
    "method",
    [
        pytest.param("publish", marks=pytest.mark.clause("R3")),
        pytest.param("subscribe", marks=pytest.mark.clause("M3")),
    ],
)
async def test_it_returns_when_the_broker_has_answered_and_not_before(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str, method: str
) -> None:
    connector: Node = await node(**through, heartbeat=10 * PATIENCE)
    one, other, ticks = await node(), await node(), Log()
    await one.subscribe(f"{topic}-clock", ticks)
    proxy.mute()
    argument: Any = Log() if method == "subscribe" else "something"
    waiting = asyncio.ensure_future(getattr(connector, method)(topic, argument))
    for tick in range(10):
        await other.publish(f"{topic}-clock", tick)
    await ticks.count(10)
    assert not waiting.done(), f"`{method}` returned though the broker could not answer"
    await proxy.heal()
    await waiting


@pytest.mark.clause("M3")
async def test_a_second_listener_gets_nothing_from_before_it_subscribed(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    first, late = Log(), Log()
    await subscriber.subscribe(topic, first)
    for number in range(10):
        await publisher.publish(topic, number)
        await subscriber.subscribe(topic, late)
        await publisher.publish(topic, f"end {number}")
        assert await late.before(f"end {number}") == []
        await subscriber.unsubscribe(topic, late)
        late.items.clear()
    assert len(await first.count(20)) == 20


@pytest.mark.clause("M3")
async def test_what_is_on_its_way_when_a_second_listener_comes_passes_it_by(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    if BrokerTransport.ping is contract.Transport.ping:
        pytest.skip("not applicable: without `ping` in the transport there is no telling what is on its way")
    subscriber: SpiedNode = await node(SpiedNode, **through, heartbeat=10 * PATIENCE)
    publisher: Node = await node()
    first, late, entered = Log(), Log(), Log()
    await subscriber.subscribe(topic, first)

    async def enter(*_: object) -> None:
        entered()

    subscriber.trouble["ping"] = enter
    proxy.mute()
    await publisher.publish(topic, "on its way")
    coming = asyncio.ensure_future(subscriber.subscribe(topic, late))
    for _turn in range(10):
        await asyncio.sleep(0)
    await proxy.heal()
    await coming
    await publisher.publish(topic, "end")
    assert await late.before("end") == []
    assert await first.before("end") == ["on its way"]


@pytest.mark.clause("M4", "M5")
async def test_after_the_last_listener_the_broker_delivers_no_more(node: MakeNode, wire: Wire, topic: str) -> None:
    publisher: Node = await node()
    await wire.transport.subscribe(topic)
    await wire.transport.subscribe(f"{topic}-marker")
    await wire.transport.unsubscribe(topic)
    await publisher.publish(topic, "nobody wants it")
    await publisher.publish(f"{topic}-marker", "marker")
    ((name, _), *_more) = await wire.payloads.count(1)
    assert name != topic, "the transport's `unsubscribe` did not end the subscription"


@pytest.mark.clause("M4")
async def test_listeners_share_one_subscription_at_the_broker(node: MakeNode, topic: str) -> None:
    subscriber: SpiedNode = await node(SpiedNode)
    publisher: Node = await node()
    mailboxes = [Log() for _ in range(3)]
    await asyncio.gather(*(subscriber.subscribe(topic, mailbox) for mailbox in mailboxes))
    await publisher.publish(topic, "all")
    for mailbox in mailboxes:
        assert await mailbox.count(1) == ["all"]
    for mailbox in mailboxes[1:]:
        await subscriber.unsubscribe(topic, mailbox)
    assert subscriber.called("unsubscribe") == 0
    await publisher.publish(topic, "one")
    assert await mailboxes[0].count(2) == ["all", "one"]
    await subscriber.unsubscribe(topic, mailboxes[0])
    assert (subscriber.called("subscribe"), subscriber.called("unsubscribe")) == (1, 1)


@pytest.mark.clause("M4")
async def test_subscribing_and_unsubscribing_at_once_ends_as_it_was_asked(node: MakeNode, topic: str) -> None:
    subscriber, publisher = await node(), await node()
    mailboxes = [Log() for _ in range(4)]
    for _ in range(5):
        await asyncio.gather(*(subscriber.subscribe(topic, mailbox) for mailbox in mailboxes))
        await asyncio.gather(
            *(subscriber.unsubscribe(topic, mailbox) for mailbox in mailboxes),
            subscriber.subscribe(topic, kept := Log()),
        )
        await publisher.publish(topic, "kept")
        assert await kept.count(1) == ["kept"]
        await subscriber.unsubscribe(topic, kept)
    assert [mailbox.items for mailbox in mailboxes] == [[]] * 4


@pytest.mark.basic(5)
@pytest.mark.clause("M5")
async def test_unsubscribe_ends_it_for_that_listener_alone(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    leaver, stayer = Log(), Log()
    await subscriber.subscribe(topic, leaver)
    await subscriber.subscribe(topic, stayer)
    await publisher.publish(topic, 1)
    await leaver.count(1)
    await subscriber.unsubscribe(topic, leaver)
    for number in range(2, 50):
        await publisher.publish(topic, number)
    assert await stayer.count(49) == list(range(1, 50))
    assert leaver.items == [1]
    with pytest.raises(contract.UnsubscribeError):
        await subscriber.unsubscribe(topic, leaver)
    with pytest.raises(contract.UnsubscribeError):
        await subscriber.unsubscribe(f"{topic} of another name", stayer)


@pytest.mark.clause("M5")
async def test_what_waits_for_a_listener_goes_with_it(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    gate, entered, stayer = asyncio.Event(), Log(), Log()

    async def slow(message: object) -> None:
        entered(message)
        await gate.wait()

    await subscriber.subscribe(topic, slow)
    await subscriber.subscribe(topic, stayer)
    for number in range(5):
        await publisher.publish(topic, number)
    await stayer.count(5)
    await subscriber.unsubscribe(topic, slow)
    gate.set()
    await publisher.publish(topic, "end")
    assert await stayer.before("end") == [0, 1, 2, 3, 4]
    assert entered.items == [0]


@pytest.mark.clause("M5")
async def test_the_last_listener_gets_nothing_after_unsubscribe(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    gone, back = Log(), Log()
    for turn in range(5):
        await subscriber.subscribe(topic, gone)
        flood = [asyncio.ensure_future(publisher.publish(topic, [turn, number])) for number in range(50)]
        await gone.count(1)
        await subscriber.unsubscribe(topic, gone)
        seen = len(gone.items)
        await asyncio.gather(*flood)
        await subscriber.subscribe(topic, back)
        await publisher.publish(topic, turn)
        assert await back.before(turn) == []
        assert len(gone.items) == seen
        await subscriber.unsubscribe(topic, back)
        gone.items.clear()
        back.items.clear()


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


@pytest.mark.clause("M7")
async def test_messages_stay_in_order(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    waiting = []
    for number in range(3000):
        if number % 3:
            waiting.append(asyncio.ensure_future(publisher.publish(topic, number)))
            await asyncio.sleep(0)
        else:
            publisher.publish_nowait(topic, number)
    await asyncio.gather(*waiting)
    assert await mailbox.count(3000) == list(range(3000))


@pytest.mark.clause("M8")
async def test_a_private_topic_is_its_owners(node: MakeNode) -> None:
    owner, other, publisher = await node(), await node(), await node()
    mine, theirs = Log(), Log()
    await owner.subscribe(private_topic(owner.node_name), mine)
    await other.subscribe(private_topic(other.node_name), theirs)
    await publisher.publish(private_topic(owner.node_name), "for the owner")
    await publisher.publish(private_topic(other.node_name), "for the other")
    assert await mine.count(1) == ["for the owner"]
    assert await theirs.count(1) == ["for the other"]


@pytest.mark.clause("M9")
async def test_a_listener_may_do_anything(node: MakeNode, topic: str) -> None:
    one, other = await node(), await node()
    answers, extra = Log(), Log()
    await other.subscribe(f"{topic}-answers", answers)

    async def listener(message: str) -> None:
        await one.publish(f"{topic}-answers", f"{message} published")
        await one.subscribe(f"{topic}-more", extra)
        await one.publish(f"{topic}-answers", f"{message} subscribed")
        await one.unsubscribe(topic, listener)
        await one.publish(f"{topic}-answers", f"{message} unsubscribed")

    async def closer(_: object) -> None:
        await one.close()
        extra("closed by its listener")

    await one.subscribe(topic, listener)
    await other.publish(topic, "1")
    assert await answers.count(3) == ["1 published", "1 subscribed", "1 unsubscribed"]
    await other.publish(f"{topic}-more", "2")
    assert await extra.count(1) == ["2"]
    await one.subscribe(topic, closer)
    await other.publish(topic, "3")
    assert await extra.count(2) == ["2", "closed by its listener"]
    assert len(await one.closes.count(1)) == 1


@pytest.mark.clause("M10")
async def test_a_listener_that_raises_harms_nobody(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node(noisy=True)
    bad, worse, good = Log(), Log(), Log()

    def raises(message: object) -> None:
        bad(message)
        raise ValueError("bad day")

    async def raises_later(message: object) -> None:
        worse(message)
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    for listener in (raises, raises_later, good):
        await subscriber.subscribe(topic, listener)
    await asyncio.gather(*(publisher.publish(topic, number) for number in range(3)))
    for log in (bad, worse, good):
        assert await log.count(3) == [0, 1, 2]
    errors = await subscriber.errors.count(6)
    assert all(isinstance(error, contract.ListenerError) for error in errors)
    assert sum("bad day" in str(error) and isinstance(error.__cause__, ValueError) for error in errors) == 3


@pytest.mark.clause("M10")
async def test_what_one_listener_does_to_a_message_no_other_sees(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    good = Log()
    await subscriber.subscribe(topic, lambda message: message.clear())
    await subscriber.subscribe(topic, good)
    await publisher.publish(topic, {"kept": True})
    assert await good.count(1) == [{"kept": True}]


@pytest.mark.clause("M11")
async def test_a_slow_listener_delays_nobody(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    gate, entered, left, quick, quick_too, elsewhere = asyncio.Event(), Log(), Log(), Log(), Log(), Log()

    async def slow(message: object) -> None:
        entered(message)
        await gate.wait()
        left(message)

    async def quick_coroutine(message: object) -> None:
        await asyncio.sleep(0)
        quick_too(message)

    await subscriber.subscribe(topic, slow)
    await subscriber.subscribe(topic, quick)
    await subscriber.subscribe(topic, quick_coroutine)
    await subscriber.subscribe(f"{topic}-other", elsewhere)
    for number in range(5):
        await publisher.publish(topic, number)
    await publisher.publish(f"{topic}-other", "through")
    await subscriber.publish(f"{topic}-other", "and out")
    assert await quick.count(5) == [0, 1, 2, 3, 4]
    assert await quick_too.count(5) == [0, 1, 2, 3, 4]
    assert await elsewhere.count(1) == ["through"]
    assert (entered.items, left.items) == ([0], [])
    gate.set()
    assert await left.count(5) == [0, 1, 2, 3, 4]


@pytest.mark.clause("M11")
async def test_a_quick_listener_loses_nothing_to_a_large_frame(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node(max_pending_messages=10)
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    for number in range(200):
        publisher.publish_nowait(topic, number)
    assert await mailbox.count(200) == list(range(200))


@pytest.mark.clause("M11", "T3")
async def test_too_slow_a_listener_loses_the_oldest_and_is_told_how_many(node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node(noisy=True, max_pending_messages=10)
    gate, got, quick = asyncio.Event(), Log(), Log()

    async def slow(message: object) -> None:
        got(message)
        await gate.wait()

    await subscriber.subscribe(topic, slow)
    await subscriber.subscribe(topic, quick)
    await publisher.publish(topic, 0)
    await got.count(1)
    for number in range(1, 21):
        await publisher.publish(topic, number)
        await quick.count(number + 1)
    await asyncio.gather(*(publisher.publish(topic, number) for number in range(21, 31)))
    await quick.count(31)
    gate.set()
    assert await got.count(11) == [0, *range(21, 31)]
    errors = await subscriber.errors.until(lambda errors: sum(error.count for error in errors) >= 20, "20 in all")
    assert sum(error.count for error in errors) == 20
    assert {(type(error), error.topic) for error in errors} == {(contract.SlowListenerError, topic)}
    assert len(errors) <= 3
