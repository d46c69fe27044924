"""What is special about MQTT: rights by topic, and brokers that drop what slow subscribers do not fetch."""

import hashlib
import json
import os
import re
from base64 import b64encode
from pathlib import Path

import pytest
import trustme

from .contract.public import PATIENCE, Log, MakeHost, MakeNode, Node, ProxyFor, Serve, Wire, at_port, eventually
from .subject import contract


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


@pytest.mark.clause("L3", "L9")
async def test_a_wrong_password_is_told_without_showing_it(serve: Serve, rights: list[str], node: MakeNode) -> None:
    connector: Node = await node(
        connect=False, url=serve(configuration=rights).url, username="limited", password="wr0ng-s3cr3t"
    )
    with pytest.raises(contract.ConnectError, match=r"Not authorized|Bad user name") as raised:
        await connector.connect()
    assert raised.value.refused
    assert "wr0ng-s3cr3t" not in f"{raised.value!r} {raised.value.__cause__!r}"


@pytest.mark.production("tls")
@pytest.mark.clause("L3")
async def test_tls_with_certificates_on_both_sides(serve: Serve, node: MakeNode, tmp_path: Path, topic: str) -> None:
    authority, files = trustme.CA(), {name: str(tmp_path / name) for name in ("ca", "server", "client")}
    authority.cert_pem.write_to_path(files["ca"])
    for name in ("server", "client"):
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(files[name])
    tls = f"cafile {files['ca']}", f"certfile {files['server']}", f"keyfile {files['server']}"
    url = serve(configuration=["allow_anonymous true", *tls, "require_certificate true"]).url.replace("mqtt:", "mqtts:")
    settings = {"url": url, "tls_ca_file": files["ca"]}
    one, other = [await node(**settings, tls_cert_file=files["client"]) for _ in range(2)]
    mailbox = Log()
    await one.subscribe(topic, mailbox)
    for number in range(100):
        other.publish_nowait(topic, [number, "x" * 10_000])
    assert [number for number, _ in await mailbox.count(100)] == list(range(100))
    for missing in ({"tls_cert_file": files["client"], "tls_ca_file": None}, {}):
        stranger: Node = await node(connect=False, **{**settings, **missing})
        with pytest.raises(contract.ConnectError):
            await stranger.connect()


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
async def test_more_than_the_broker_takes_is_too_large(serve: Serve, node: MakeNode, topic: str) -> None:
    url = serve(configuration=["allow_anonymous true", "max_packet_size 4000"]).url
    publisher, subscriber = await node(url=url), await node(url=url)
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
    server = serve(configuration=["allow_anonymous true", "clientid_prefixes node-"])
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
    server = serve(configuration=["allow_anonymous true", *limits])
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
async def test_a_killed_node_leaves_nothing_behind(wire: Wire, host: MakeHost, topic: str) -> None:
    async def has_subscriber() -> bool:
        assert wire.transport._client
        info = wire.transport._client.publish(topic, b"", qos=1)
        reason = await wire.transport._answer(info.rc, info.mid)
        return str(reason) != "No matching subscribers"

    killed = await host()
    await killed.tell("subscribe", topic)
    assert await has_subscriber()
    await killed.kill()

    async def has_none() -> bool:
        return not await has_subscriber()

    await eventually(has_none, "the end of the session")
