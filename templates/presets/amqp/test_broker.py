"""What is special about AMQP: rights, large messages, queues left behind, and a broker that is short of memory."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiormq
import pytest
from pydantic import SecretStr, ValidationError

from .broker import LARGEST, Broker
from .contract.public import Authority, Log, MakeNode, Node, Proxy, Serve, SpiedNode, Wire, patience
from .subject import Settings, contract

LIMITED = {"username": "limited", "password": "s3cr3t"}


@pytest.fixture
def own(broker: Broker) -> Broker:
    """The broker that the tests have started, with its users and virtual hosts."""
    if not broker.is_running:
        pytest.skip("the broker is not ours to set up")
    return broker


@pytest.mark.clause("E3")
async def test_a_refusal_is_told_to_its_caller_alone(own: Broker, node: MakeNode) -> None:
    other: Node = await node()  # makes the exchange, to which `one` has no right
    one: Node = await node(publish_timeout=60, **LIMITED)
    mailbox, answers = Log(), Log()
    await one.subscribe("allowed", mailbox)
    await other.subscribe("allowed", answers)
    asked = [one.publish(f"forbidden-{number}" if number % 2 else "allowed", number) for number in range(20)]
    asked += [one.subscribe(f"forbidden-{number}" if number % 2 else "allowed", Log()) for number in range(20)]
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(result) for result in results[:20]] == [type(None), contract.PublishRefusedError] * 10
    assert [type(result) for result in results[20:]] == [type(None), contract.SubscribeRefusedError] * 10
    assert all("ACCESS_REFUSED" in str(result) for result in results if result)
    await other.publish("allowed", "in")
    assert (await mailbox.count(1), await answers.count(10)) == (["in"], list(range(0, 20, 2)))
    assert (one.is_ready, len(one.readies.items)) == (True, 1)


@pytest.mark.clause("E3", "L3", "L9")
async def test_who_may_not_enter_is_told_so_without_showing_the_password(own: Broker, node: MakeNode) -> None:
    for changes in ({"password": "wr0ng-s3cr3t"}, {"virtual_host": "nowhere"}, {"exchange": "not.mine"}):
        connector: Node = await node(connect=False, **{**LIMITED, **changes})
        with pytest.raises(contract.ConnectError, match=r"ACCESS_REFUSED|virtual host") as raised:
            await connector.connect()
        assert raised.value.refused
        assert "s3cr3t" not in f"{raised.value!r} {raised.value.__cause__!r}"


@pytest.mark.clause("L1")
async def test_virtual_hosts_and_exchanges_are_apart(own: Broker, node: MakeNode, topic: str) -> None:
    places = [{}, {"exchange": "other"}, {"virtual_host": "other/host"}, {"virtual_host": "/"}]
    nodes: list[Node] = [await node(**place) for place in places]
    nodes.append(await node(url=f"{own.url}/other%2Fhost"))
    mailboxes = [Log() for _ in nodes]
    for each, mailbox in zip(nodes, mailboxes, strict=True):
        await each.subscribe(topic, mailbox)
    for index, each in enumerate(nodes):
        await each.publish(topic, index)
    assert [await mailboxes[index].count(1) for index in (0, 2, 3, 4)] == [[3], [4], [0], [2]]
    assert mailboxes[1].items == []


@pytest.mark.clause("S5")
async def test_too_large_a_message_is_not_sent_or_is_told(own: Broker, node: MakeNode, topic: str) -> None:
    careful: SpiedNode = await node(SpiedNode, max_message_bytes=2 * LARGEST, max_frame_bytes=LARGEST)
    careless: SpiedNode = await node(SpiedNode, max_message_bytes=2 * LARGEST)
    mailbox = Log()
    await (await node(max_message_bytes=2 * LARGEST)).subscribe(topic, mailbox)
    for publisher in (careful, careless):
        with pytest.raises(contract.MessageTooLargeError):
            await publisher.publish(topic, "x" * LARGEST)
        await publisher.publish(topic, "y" * (LARGEST - 1000))
    assert [len(text) for text in await mailbox.count(2)] == [LARGEST - 1000] * 2
    assert (careful.called("publish"), careless.called("publish")) == (1, 2)


@pytest.mark.clause("L4", "R1")
@pytest.mark.parametrize("fate", ["closed", "killed", "silent"])
async def test_a_node_that_leaves_leaves_no_queue(
    change: Callable[..., Settings], proxy: Proxy, through: dict[str, Any], given: Settings, fate: str
) -> None:
    wire = Wire(change(**through))
    await wire.transport.connect()
    name = wire.transport._queue
    if fate == "killed":
        await proxy.cut()
    elif fate == "silent":
        proxy.mute()
    else:
        await wire.transport.close()
    async with aiormq.connect(given.url.get_secret_value()) as admin, patience():
        while True:
            channel = await admin.channel()
            try:
                await channel.queue_declare(name, passive=True)
            except aiormq.ChannelLockedResource:  # is another's: still there
                await asyncio.sleep(0.01)
            except aiormq.ChannelNotFoundEntity:
                break
    await wire.transport.close()


@pytest.mark.clause("R4", "T3")
async def test_what_the_queue_does_not_hold_arrives_later(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    publisher: Node = await node(publish_timeout=60, max_history_bytes=64_000_000)
    subscriber: Node = await node(noisy=True, **through, heartbeat=60, max_queue_bytes=100_000)
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    await publisher.publish(topic, "first")
    await mailbox.count(1)
    proxy.mute()
    for number in range(2000):
        await publisher.publish(topic, f"{number:x>20000}")
    await proxy.heal()
    _, *numbers = await mailbox.count(2001)
    assert [number.lstrip("x") for number in numbers] == list(map(str, range(2000)))
    assert (subscriber.stats()["repaired"] > 0, len(subscriber.readies.items)) == (True, 1)


@pytest.mark.clause("R3", "R5")
async def test_a_broker_that_is_short_of_memory_is_not_gone(own: Broker, node: MakeNode, topic: str) -> None:
    publisher: Node = await node(publish_timeout=3)
    subscriber: Node = await node(noisy=True)
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    await publisher.publish(topic, "before")
    await asyncio.to_thread(own.control, "eval", "rabbit_alarm:set_alarm( { {resource_limit, memory, node()}, [] } ).")
    try:
        with pytest.raises(contract.PublishUnconfirmedError, match="publish_timeout"):
            await publisher.publish(topic, "in between")
        for _ in range(2):
            await asyncio.sleep(publisher.settings.heartbeat)
            await subscriber.subscribe(topic, Log())
    finally:
        await asyncio.to_thread(own.control, "eval", "rabbit_alarm:clear_alarm( {resource_limit, memory, node()} ).")
    await publisher.publish(topic, "after")
    await mailbox.until(lambda items: items[-1] == "after")
    assert [len(each.readies.items) for each in (publisher, subscriber)] == [1, 1]


def way_to(broker: Settings, ways: list[asyncio.Event]) -> Callable[..., Awaitable[None]]:
    """Return a server's handler that forwards to the broker; each connection flows while its event in `ways` is set."""
    address = broker.url.get_secret_value().rpartition("@")[2].partition("/")[0]

    async def forward(way: asyncio.Event, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await way.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ways.append(way := asyncio.Event())
        way.set()
        far_reader, far_writer = await asyncio.open_connection(*address.split(":"))
        await asyncio.gather(forward(way, reader, far_writer), forward(way, far_reader, writer))

    return serve


@pytest.mark.clause("R1")
@pytest.mark.parametrize("index", [0, 1], ids=["sending", "receiving"])
async def test_the_silence_of_one_connection_is_noticed_by_its_ping(
    given: Settings, node: MakeNode, index: int
) -> None:
    ways: list[asyncio.Event] = []
    async with await asyncio.start_server(way_to(given, ways), "127.0.0.1", 0) as server:
        url = f"amqp://guest:guest@127.0.0.1:{server.sockets[0].getsockname()[1]}"
        one: Node = await node(url=url, noisy=True)
        ways[index].clear()
        assert "TimeoutError" in str(await one.error(contract.ConnectionLostError))
        await one.until_ready(2)
        await one.close()
        ways[index].set()


@pytest.mark.real
@pytest.mark.production("tls")
@pytest.mark.clause("L3")
async def test_a_node_may_log_in_with_its_certificate(
    serve: Serve, authority: Authority, node: MakeNode, topic: str
) -> None:
    server = serve(certificate=authority.issue("127.0.0.1"), login=("node", "s3cr3t"))
    place = {"url": server.url, "tls_ca_file": authority.file, "sasl_mechanism": "EXTERNAL"}
    known, stranger = authority.issue("node"), authority.issue("stranger")
    one, other = [await node(**place, tls_cert_file=known.cert, tls_key_file=known.key) for _ in range(2)]
    mailbox = Log()
    await one.subscribe(topic, mailbox)
    await other.publish(topic, "from a node with a certificate")
    await mailbox.count(1)
    refused: Node = await node(connect=False, **place, tls_cert_file=stranger.cert, tls_key_file=stranger.key)
    with pytest.raises(contract.ConnectError, match="ACCESS_REFUSED") as raised:
        await refused.connect()
    assert raised.value.refused


@pytest.mark.clause("L1")
def test_a_login_with_a_certificate_needs_one() -> None:
    with pytest.raises(ValidationError, match="tls_cert_file"):
        Settings(sasl_mechanism="EXTERNAL")


@pytest.mark.clause("L1", "L9")
@pytest.mark.parametrize("option", ["cafile", "certfile", "no_verify_ssl", "auth", "heartbeat", "foo"])
def test_options_in_the_url_are_refused_by_name(option: str) -> None:
    with pytest.raises(ValidationError, match=f"no options, and has {option}") as raised:
        Settings(url=SecretStr(f"amqp://127.0.0.1/host?{option}=s3cr3t"))
    assert "s3cr3t" not in str(raised.value)
