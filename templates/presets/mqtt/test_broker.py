"""What is special about MQTT: rights by topic, and brokers that drop what slow subscribers do not fetch."""

import asyncio
import hashlib
import json
import os
import re
from base64 import b64encode
from pathlib import Path

import pytest
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import SecretStr, ValidationError

from .contract.public import PATIENCE, Log, MakeHost, MakeNode, Node, ProxyFor, Serve, at_port, eventually
from .subject import Settings, contract


@pytest.fixture
def rights(tmp_path: Path) -> list[str]:
    """The configuration of a server where `limited` may use the topic `allowed`, and `other` may do all."""
    plugins = sorted(Path("/usr").glob("lib/**/mosquitto_dynamic_security.so"))
    if not plugins:
        pytest.skip("mosquitto has no plugin for rights here")
    salt = os.urandom(12)
    secret = b64encode(hashlib.pbkdf2_hmac("sha512", b"s3cr3t", salt, 101)).decode()
    login = {"password": secret, "salt": b64encode(salt).decode(), "iterations": 101}
    kinds = {"publishClientSend", "subscribePattern"}
    topics = {"limited": "allowed", "other": "#"}
    setup = {
        "defaultACLAccess": {"publishClientReceive": True, "unsubscribe": False},
        "clients": [{"username": name, "roles": [{"rolename": name}], **login} for name in topics],
        "roles": [
            {"rolename": name, "acls": [{"acltype": kind, "topic": topic, "allow": True} for kind in kinds]}
            for name, topic in topics.items()
        ],
    }
    file = tmp_path / "rights.json"
    file.write_text(json.dumps(setup))
    return ["allow_anonymous false", f"plugin {plugins[0]}", f"plugin_opt_config_file {file}"]


@pytest.mark.clause("E3", "R5")
async def test_a_user_with_rights_to_one_topic_needs_no_others(serve: Serve, rights: list[str], node: MakeNode) -> None:
    url = serve(configuration=rights).url
    one: Node = await node(url=url, username="limited", password="s3cr3t", heartbeat=0.4, publish_timeout=60)
    other: Node = await node(url=url.replace("://", "://other:s3cr3t@"))
    mailbox, second, answers = Log(), Log(), Log()
    await one.subscribe("allowed", mailbox)
    await other.subscribe("allowed", answers)
    with pytest.raises(contract.PublishRefusedError, match="Not authorized"):
        await one.publish("forbidden", 1)
    with pytest.raises(contract.SubscribeRefusedError, match="Not authorized"):
        await one.subscribe("forbidden", mailbox)
    await one.publish("allowed", "out")
    await one.subscribe("allowed", second)
    await other.publish("allowed", "in")
    assert (await mailbox.count(1), await second.count(1), await answers.count(1)) == (["in"], ["in"], ["out"])
    clock: Node = await node(url=url, username="other", password="s3cr3t", heartbeat=0.4)
    for number in range(10):
        clock.publish_nowait("allowed", number)
        await mailbox.count(number + 2)
    assert (one.is_ready, one.errors.items) == (True, [])


@pytest.mark.clause("M2")
async def test_the_broker_sends_nobody_his_own_messages(node: MakeNode, topic: str) -> None:
    one, other = await node(), await node()
    mailbox = Log()
    await one.subscribe(topic, mailbox)
    for number in range(10):
        await one.publish(topic, number)
    await other.publish(topic, "marker")
    assert await mailbox.before("marker") == []
    assert one.stats()["filtered"] == 0


@pytest.mark.clause("S5")
@pytest.mark.parametrize(
    ("limit", "told"), [("max_packet_size 4000", None), ("message_size_limit 2990", 2990)], ids=["known", "unknown"]
)
async def test_more_than_the_broker_takes_is_too_large(
    serve: Serve, node: MakeNode, topic: str, limit: str, told: int | None
) -> None:
    url = serve(configuration=[limit]).url
    publisher, subscriber = await node(url=url, max_frame_bytes=told), await node(url=url)
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    with pytest.raises(contract.MessageTooLargeError):
        await publisher.publish(topic, "x" * 4000)
    for number in range(500):
        publisher.publish_nowait(topic, [number, "x" * 900])
    await publisher.publish(topic, "x" * 2900)
    assert len(await mailbox.count(501)) == 501
    assert publisher.stats()["reconnects"] == 0


@pytest.mark.clause("L9")
async def test_a_client_identifier_is_used_and_kept(serve: Serve, node: MakeNode, topic: str) -> None:
    server = serve(configuration=["clientid_prefixes node-"])
    connector: Node = await node(url=server.url, client_id="node-1", noisy=True)
    refused: Node = await node(url=server.url, connect=False)
    with pytest.raises(contract.ConnectError) as raised:
        await refused.connect()
    assert raised.value.refused
    await server.restart()
    await connector.until_ready(2)
    await connector.publish(topic, "again")


@pytest.mark.clause("R2", "M6")
async def test_no_topic_makes_a_node_forget_its_client_identifier(serve: Serve, node: MakeNode) -> None:
    server = serve()
    connector: Node = await node(url=server.url, noisy=True)
    mailbox = Log()
    for topic in ("name", "client_id"):
        await connector.subscribe(topic, mailbox)
        await connector.unsubscribe(topic, mailbox)
    await server.restart()
    await connector.until_ready(2)
    names = re.findall(r" as (deepstream-\w+)", (server.folder / "server.log").read_text())
    assert (len(names), len(set(names))) == (2, 1)


@pytest.mark.clause("R4")
async def test_what_the_broker_drops_for_a_slow_subscriber_arrives_later(
    serve: Serve, proxy_for: ProxyFor, node: MakeNode, topic: str
) -> None:
    limits = ["max_queued_bytes 1000", "max_inflight_bytes 100000", "max_queued_messages 5"]
    server = serve(configuration=limits)
    proxy = await proxy_for(server)
    publisher: Node = await node(url=server.url, publish_timeout=60)
    subscriber: Node = await node(url=at_port(server.url, proxy.port), noisy=True, heartbeat=PATIENCE / 4)
    mailbox, sent = Log(), 100
    await subscriber.subscribe(topic, mailbox)
    await publisher.publish(topic, "first")
    await mailbox.count(1)
    proxy.mute()
    for number in range(sent):
        await publisher.publish(topic, f"{number:x>50000}")
    await proxy.heal()
    _, *numbers = await mailbox.count(sent + 1)
    assert [number.lstrip("x") for number in numbers] == list(map(str, range(sent)))
    assert subscriber.stats()["repaired"] > 0


@pytest.mark.clause("L4")
async def test_a_killed_node_leaves_nothing_behind(given: Settings, host: MakeHost, topic: str) -> None:
    answers = Log()
    asking = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    loop = asyncio.get_running_loop()

    def answered(client: Client, data: object, number: int, reason: ReasonCode, properties: object) -> None:
        loop.call_soon_threadsafe(answers, str(reason))

    asking.on_publish = answered
    host_name, port = given.targets()[0]
    await asyncio.to_thread(asking.connect, host_name, port or 1883)
    asking.loop_start()

    async def has_subscriber() -> bool:
        asking.publish(topic, b"", qos=1)
        return bool((await answers.count(len(answers.items) + 1))[-1] != "No matching subscribers")

    async def has_none() -> bool:
        return not await has_subscriber()

    try:
        killed = await host()
        await killed.tell("subscribe", topic)
        assert await has_subscriber()
        await killed.kill()
        await eventually(has_none, "the end of the session")
    finally:
        asking.disconnect()
        await asyncio.to_thread(asking.loop_stop)


async def taken_over(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve a client as a broker that lets it in, and says at once that another one has taken its place."""
    await reader.read(1000)
    writer.write(b"\x20\x03\0\0\0" + b"\xe0\x02\x8e\0")
    writer.close()


@pytest.mark.clause("R1")
async def test_another_node_with_the_same_client_identifier_is_named(node: MakeNode) -> None:
    async with await asyncio.start_server(taken_over, "127.0.0.1", 0) as server:
        url = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        connector: Node = await node(url=url, client_id="node-1", connect=False)
        with pytest.raises(contract.ConnectError, match=r"Session taken over: another node .* client_id = 'node-1'"):
            await connector.connect()


@pytest.mark.clause("R2")
async def test_nodes_with_one_client_identifier_take_turns_ever_more_slowly(serve: Serve, node: MakeNode) -> None:
    settings = {"url": serve().url, "client_id": "node-1", "heartbeat": 600, "reconnect_delay_max": 600}
    both = [await node(**settings, noisy=True) for _ in range(2)]
    times = Log()
    for each in both:
        each.on("ready", lambda: times(asyncio.get_running_loop().time()))
    first, *_, last = (await times.count(12))[:12]
    assert last - first > 0.8  # six delays of each, of at least half of 0.02, 0.04, 0.08 and so on
    assert "client_id = 'node-1'" in str(await both[0].error(contract.ConnectionLostError))


@pytest.mark.clause("L3")
async def test_a_loop_that_cannot_watch_sockets_is_told_so(node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def add_reader(*_: object) -> None:
        raise NotImplementedError  # as asyncio.ProactorEventLoop does

    connector: Node = await node(connect=False)
    with monkeypatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "add_reader", add_reader)
        with pytest.raises(contract.ConnectError, match=r"asyncio\.SelectorEventLoop"):
            await connector.connect()
    await connector.connect()


@pytest.mark.clause("L1")
@pytest.mark.parametrize("rest", ["/path", "?tls_ca_file=s3cr3t", "/?password=s3cr3t"])
def test_a_url_with_more_than_hosts_is_refused(rest: str) -> None:
    with pytest.raises(ValidationError, match="must end after its hosts") as raised:
        Settings(url=SecretStr(f"mqtt://127.0.0.1{rest}"))
    assert "s3cr3t" not in str(raised.value)
