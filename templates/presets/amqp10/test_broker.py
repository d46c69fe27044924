"""What is special about AMQP 1.0: rights, links that end, what is left behind; and each kind of server in its own way."""

import asyncio
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from proton import Message

from .broker import (
    LARGEST,
    SILENCE,
    ActiveMQ,
    AmqpServer,
    Broker,
    Entities,
    Management,
    Qpid,
    RabbitMQWithPlugin,
    ServiceBus,
)
from .contract.public import (
    PATIENCE,
    Change,
    Log,
    MakeNode,
    Node,
    Proxy,
    Serve,
    SpiedNode,
    Wire,
    at_port,
    balance,
    eventually,
    patience,
)
from .subject import Settings, contract

SERVICE_BUS = os.environ.get("SERVICEBUS_TEST_URL", "")


@pytest.fixture
def own(broker: Broker) -> Broker:
    """The broker that the tests have started, with its users."""
    if not broker.is_running:
        pytest.skip("the broker is not ours to set up")
    return broker


@pytest.fixture(scope="module", params=[ActiveMQ, Qpid, RabbitMQWithPlugin], ids=lambda kind: kind.kind)
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AmqpServer]:
    """A server of another kind, running."""
    server: AmqpServer = request.param(tmp_path_factory.mktemp("other"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def gate(other: AmqpServer) -> AsyncIterator[Proxy]:
    """A proxy in front of the other server."""
    gate = Proxy({"url": ("127.0.0.1", other.port)}, {"url": 0})
    await gate.start()
    yield gate
    await gate.close()


def limited(server: AmqpServer, user: str = "limited", password: str = "s3cr3t") -> dict[str, Any]:
    """The settings for a user other than guest."""
    return {
        "url": server.url.replace("guest:guest@", ""),
        "server": server.kind,
        "username": user,
        "password": password,
    }


async def manage(broker: Broker, resource: str, operation: str, *arguments: object) -> Any:
    """Have Artemis do something that a connector never asks for; return its answer, or None if it cannot."""

    def ask() -> Any:
        connection = broker.connect(PATIENCE)
        try:
            answers = connection.create_receiver(None, dynamic=True)
            properties = {"_AMQ_ResourceName": resource, "_AMQ_OperationName": operation}
            reply_to = answers.link.remote_source.address
            question = Message(json.dumps(arguments), reply_to=reply_to, properties=properties)
            connection.create_sender("activemq.management").send(question)
            answer = answers.receive(timeout=PATIENCE)
            succeeded = answer.properties and answer.properties["_AMQ_OperationSucceeded"]
            return json.loads(str(answer.body))[0] if answer.body and succeeded else None
        finally:
            connection.close()

    return await asyncio.to_thread(ask)


async def until_left(broker: Broker, topic: str, queues: int) -> None:
    """Return when Artemis has so many queues for a topic."""
    async with patience():
        while len(await manage(broker, f"address.deepstream.{topic}", "getQueueNames") or ()) != queues:
            await asyncio.sleep(0.02)


@pytest.mark.clause("E3")
async def test_a_refusal_is_told_to_its_caller_alone(own: Broker, node: MakeNode) -> None:
    free: Node = await node()
    one: Node = await node(publish_timeout=60, **limited(own))
    mailbox, answers = Log(), Log()
    await one.subscribe("allowed", mailbox)
    await free.subscribe("allowed", answers)
    asked = [one.publish(f"forbidden-{number}" if number % 2 else "allowed", number) for number in range(20)]
    asked += [one.subscribe(f"forbidden-{number}" if number % 2 else "allowed", Log()) for number in range(20)]
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(result) for result in results[:20]] == [type(None), contract.PublishRefusedError] * 10
    assert [type(result) for result in results[20:]] == [type(None), contract.SubscribeRefusedError] * 10
    assert all("permission" in str(result) for result in results if result)
    await free.publish("allowed", "in")
    assert (await mailbox.count(1), await answers.count(10)) == (["in"], list(range(0, 20, 2)))
    assert (one.is_ready, len(one.readies.items)) == (True, 1)


@pytest.mark.clause("E3")
async def test_who_may_only_receive_is_refused_a_publish_where_the_address_is_there(
    own: Broker, node: MakeNode
) -> None:
    free: Node = await node()
    reader: Node = await node(publish_timeout=60, **limited(own, "reader"))
    mailbox = Log()
    await reader.subscribe("allowed", mailbox)
    with pytest.raises(contract.PublishRefusedError, match="permission='SEND'"):
        await reader.publish("allowed", "out")
    await free.publish("allowed", "in")
    assert await mailbox.count(1) == ["in"]


@pytest.mark.clause("S5")
async def test_too_large_a_message_is_not_sent(node: MakeNode, topic: str) -> None:
    publisher: SpiedNode = await node(SpiedNode, max_frame_bytes=100_000)
    mailbox = Log()
    await (await node()).subscribe(topic, mailbox)
    with pytest.raises(contract.MessageTooLargeError):
        await publisher.publish(topic, "x" * 100_000)
    await asyncio.gather(*(publisher.publish(topic, "y" * 60_000) for _ in range(5)))
    assert [len(text) for text in await mailbox.count(5)] == [60_000] * 5
    assert publisher.called("publish") >= 5  # each alone; the subscriber may have asked for one again


@pytest.mark.clause("L4", "R1")
@pytest.mark.parametrize("fate", ["unsubscribed", "closed", "killed", "silent"])
async def test_a_node_that_leaves_leaves_no_queue(
    own: Broker, change: Callable[..., Settings], proxy: Proxy, through: dict[str, Any], topic: str, fate: str
) -> None:
    wire = Wire(change(**through))
    await wire.transport.connect()
    for name in (topic, f"{topic}-2"):
        await wire.transport.subscribe(name)
    await until_left(own, topic, 1)
    started = asyncio.get_running_loop().time()
    if fate == "unsubscribed":
        await wire.transport.unsubscribe(topic)
    elif fate == "killed":
        await proxy.cut()
    elif fate == "silent":
        proxy.mute()
    else:
        await wire.transport.close()
    await until_left(own, topic, 0)
    assert (asyncio.get_running_loop().time() - started > SILENCE / 2) == (fate == "silent")
    await until_left(own, f"{topic}-2", 1 if fate == "unsubscribed" else 0)
    if fate != "closed":
        await wire.transport.close()
    await until_left(own, f"{topic}-2", 0)


@pytest.mark.clause("M3", "R4")
async def test_an_address_that_the_broker_has_removed_is_made_anew(own: Broker, node: MakeNode, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    for turn in range(3):
        mailbox = Log()
        await subscriber.subscribe(topic, mailbox)
        await publisher.publish(topic, turn)
        assert await mailbox.count(1) == [turn]
        await subscriber.unsubscribe(topic, mailbox)
        await until_left(own, topic, 0)
        await manage(own, "broker", "deleteAddress", f"deepstream.{topic}", True)  # as it does by itself, after a while
        await publisher.publish(topic, "to nobody")


@pytest.mark.clause("R1", "R4")
async def test_a_subscription_that_the_broker_ends_is_a_lost_connection(
    own: Broker, node: MakeNode, topic: str
) -> None:
    subscriber, publisher = await node(noisy=True), await node()
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    for turn in range(3):
        await publisher.publish(topic, turn)
        await mailbox.count(turn + 1)
        (queue,) = await manage(own, f"address.deepstream.{topic}", "getQueueNames")
        await manage(own, "broker", "destroyQueue", queue, True)
        await subscriber.until_ready(turn + 2)
    await publisher.publish(topic, "back")
    assert await mailbox.before("back") == [0, 1, 2]
    assert all(isinstance(error, contract.ConnectionLostError) for error in subscriber.errors.items)


@pytest.mark.clause("R3", "R4", "R5")
async def test_what_a_full_address_does_not_take_waits_and_is_no_loss_of_the_connection(
    own: Broker, node: MakeNode, proxy: Proxy, through: dict[str, Any]
) -> None:
    publisher: Node = await node(publish_timeout=1)
    subscriber: Node = await node(noisy=True, **through, heartbeat=60)
    mailbox, sent = Log(), 0
    await subscriber.subscribe("full", mailbox)
    proxy.mute()
    with pytest.raises(contract.PublishUnconfirmedError, match="publish_timeout"):  # noqa: PT012
        while True:
            sent += 1
            await publisher.publish("full", f"{sent:100000}")
    refused = await asyncio.gather(*(publisher.publish("full", "more") for _ in range(9)), return_exceptions=True)
    assert {type(error) for error in refused} == {contract.PublishUnconfirmedError}
    await proxy.heal()
    await mailbox.count(sent - 1)
    await publisher.publish("full", "after")
    await mailbox.until(lambda items: items[-1] == "after")
    assert len(mailbox.items) + subscriber.stats()["lost"] == sent + 10
    assert (len(publisher.readies.items), len(subscriber.readies.items)) == (1, 1)


@pytest.mark.clause("S4")
async def test_what_others_send_is_no_frame(own: Broker, node: MakeNode, topic: str) -> None:
    subscriber: Node = await node(noisy=True)
    publisher, mailbox = await node(), Log()
    await subscriber.subscribe(topic, mailbox)

    def send() -> None:
        connection = own.connect(PATIENCE)
        sender = connection.create_sender(f"deepstream.{topic}")
        for body in ("text", b"", b"bytes", 5, None, ["list"], {"a": "map"}):
            sender.send(Message(body))
        connection.close()

    await asyncio.to_thread(send)
    await publisher.publish(topic, "fine")
    assert await mailbox.count(1) == ["fine"]
    errors = await subscriber.errors.until(lambda errors: sum(error.count for error in errors) == 7, "7 bad frames")
    assert {type(error) for error in errors} == {contract.BadFrameError}
    assert len(subscriber.readies.items) == 1


@pytest.mark.production("tls")
@pytest.mark.clause("L3", "R8")
async def test_nobody_says_good_bye_to_a_host_that_has_never_answered(change: Change) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        wire = Wire(change(url=f"amqp://127.0.0.1:{silent.getsockname()[1]}"))
        connecting = asyncio.ensure_future(wire.transport.connect())
        await asyncio.wait((connecting,), timeout=0.1)
        connecting.cancel()
        async with asyncio.timeout(0.3):  # it takes this time from the other hosts
            await wire.transport.close()


@pytest.mark.clause("L3")
async def test_a_certificate_is_a_login(serve: Serve, authority: Any, node: MakeNode, topic: str) -> None:
    files = authority.issue("localhost", "127.0.0.1")
    url = serve(certificate=files, asks_for_certificate=True).url.replace("guest:guest@", "")
    ours = {"url": url, "tls_ca_file": files.ca, "tls_cert_file": files.cert, "tls_key_file": files.key}
    one, other = [await node(**ours) for _ in range(2)]
    mailbox = Log()
    await one.subscribe(topic, mailbox)
    await other.publish(topic, "without a password")
    assert await mailbox.count(1) == ["without a password"]


@pytest.mark.production("rotation")
@pytest.mark.clause("L12", "R9")
async def test_a_node_whose_password_has_changed_comes_back_with_the_new_one(
    serve: Serve, node: MakeNode, topic: str, tmp_path: Path
) -> None:
    server, file = serve(login=("node", "0ld-s3cr3t")), tmp_path / "password"
    file.write_text("0ld-s3cr3t")
    one: Node = await node(url=server.url, username="node", password_file=file, noisy=True)
    await one.publish(topic, "before")
    file.write_text("n3w-s3cr3t")
    await asyncio.to_thread(server.set_password, "n3w-s3cr3t")
    await one.publish(f"{topic}-2", "Artemis looks at the password of a connection for each new address")
    assert len(one.readies.items) == 2


@pytest.mark.clause("L1", "M6")
async def test_prefixes_are_apart(node: MakeNode, topic: str) -> None:
    nodes: list[Node] = [await node(prefix=prefix) for prefix in ("deepstream.", "other/", None)]
    mailboxes = [Log() for _ in nodes]
    for each, mailbox in zip(nodes, mailboxes, strict=True):
        await each.subscribe(topic, mailbox)
    for index, each in enumerate(nodes):
        await each.publish(topic, index)
    assert (await mailboxes[0].count(1), await mailboxes[2].count(1)) == ([2], [0])
    assert mailboxes[1].items == []


@pytest.mark.clause("L1")
def test_each_kind_of_server_has_its_addresses() -> None:
    def addresses(**options: Any) -> tuple[str, str]:
        settings = Settings(**options)
        return settings.address_of("a b", False), settings.address_of("a b", True)

    assert addresses() == ("deepstream.a_20b",) * 2
    assert addresses(server="activemq") == ("topic://deepstream.a_20b",) * 2
    assert addresses(server="qpid") == ("amq.topic/deepstream.a_20b",) * 2
    assert addresses(server="rabbitmq", prefix="/exchange/ours/") == ("/exchange/ours/a_20b",) * 2
    ours = {"server": "servicebus", "subscription": "node-1"}
    assert addresses(**ours) == ("deepstream.a_20b", "deepstream.a_20b/Subscriptions/node-1")
    with pytest.raises(ValueError, match="subscription"):
        Settings(server="servicebus")


@pytest.mark.clause("L1")
@pytest.mark.parametrize("rest", ["/vhost", "?verify=none", "/?sasl=PLAIN"])
def test_a_url_that_says_more_than_hosts_and_login_is_refused(rest: str) -> None:
    with pytest.raises(ValueError, match="must end after its hosts"):
        Settings(url=f"amqp://127.0.0.1:5672{rest}")


@pytest.mark.clause("M1")
async def test_service_bus(node: MakeNode) -> None:
    if not SERVICE_BUS:
        pytest.skip("not applicable: no server of Azure Service Bus is to be had; SERVICEBUS_TEST_URL names one")
    ours = {"url": SERVICE_BUS, "server": "servicebus", "connect_timeout": 60}
    nodes: list[Node] = [await node(subscription=name, **ours) for name in ("one", "two")]
    mailbox = Log()
    await nodes[1].subscribe("EVENT", mailbox)
    for number in range(10):
        await nodes[0].publish("EVENT", number)
    assert await mailbox.count(10) == list(range(10))


@pytest.fixture
def entities() -> Entities:
    """What the stand-in for Azure Service Bus has."""
    topics: Any = {f"deepstream.{topic}": {"one": [], "two": [], "sessions": []} for topic in ("EVENT", "CONTROL")}
    policies = {
        "Root": ("k3y", {"Send", "Listen", "Manage"}),
        "Sender": ("s3nd", {"Send"}),
        "Listener": ("l1sten", {"Listen"}),
    }
    return Entities(topics, policies, {"sessions"})


@pytest.fixture
async def service_bus(entities: Entities, authority: Any) -> AsyncIterator[dict[str, Any]]:
    """The settings that lead to the stand-in."""
    files = authority.issue("localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert, files.key)
    loop = asyncio.get_running_loop()
    async with await loop.create_server(lambda: ServiceBus(entities), "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        yield {
            "url": f"amqps://localhost:{port}",
            "tls_ca_file": files.ca,
            "server": "servicebus",
            "username": "Root",
            "password": "k3y",
        }
    assert not ServiceBus.connections


@pytest.mark.clause("M1", "M2", "M7")
async def test_service_bus_stand_in_broadcasts_in_order(service_bus: dict[str, Any], node: MakeNode) -> None:
    nodes: list[Node] = [await node(**service_bus, subscription=name) for name in ("one", "two")]
    assert {connection.mechanism for connection in ServiceBus.connections} == {"PLAIN"}
    mailboxes = [Log(), Log()]
    for each, mailbox in zip(nodes, mailboxes, strict=True):
        await each.subscribe("EVENT", mailbox)
    for number in range(100):
        await asyncio.gather(*(each.publish("EVENT", [index, number]) for index, each in enumerate(nodes)))
    for index, mailbox in enumerate(mailboxes):
        assert await mailbox.count(100) == [[1 - index, number] for number in range(100)]


@pytest.mark.clause("E3", "L3")
async def test_service_bus_stand_in_refuses(service_bus: dict[str, Any], node: MakeNode) -> None:
    with pytest.raises(contract.ConnectError, match="Authentication failed") as raised:
        await (await node(connect=False, **{**service_bus, "password": "wr0ng"}, subscription="one")).connect()
    assert raised.value.refused
    one: Node = await node(**service_bus, subscription="one")
    with pytest.raises(contract.PublishRefusedError, match="amqp:not-found"):
        await one.publish("no-such-topic", 1)
    for subscription, reason in (("nobody", "amqp:not-found"), ("sessions", "amqp:not-allowed")):
        other: Node = await node(**service_bus, subscription=subscription)
        with pytest.raises(contract.SubscribeRefusedError, match=reason):
            await other.subscribe("EVENT", Log())
    sender: Node = await node(**{**service_bus, "username": "Sender", "password": "s3nd"}, subscription="one")
    await sender.publish("EVENT", 1)
    with pytest.raises(contract.SubscribeRefusedError, match="'Listen' claim"):
        await sender.subscribe("EVENT", Log())
    listener: Node = await node(**{**service_bus, "username": "Listener", "password": "l1sten"}, subscription="two")
    await listener.subscribe("EVENT", Log())
    with pytest.raises(contract.PublishRefusedError, match="'Send' claim"):
        await listener.publish("EVENT", 1)


@pytest.mark.clause("S5")
async def test_service_bus_stand_in_takes_256_kb(service_bus: dict[str, Any], node: MakeNode) -> None:
    nodes: list[Node] = [await node(**service_bus, subscription=name) for name in ("one", "two")]
    mailbox = Log()
    await nodes[1].subscribe("EVENT", mailbox)
    for _ in range(2):
        with pytest.raises(contract.MessageTooLargeError):
            await nodes[0].publish("EVENT", "x" * 262_144)
        await nodes[0].publish("EVENT", "y" * 261_000)
    assert [len(text) for text in await mailbox.count(2)] == [261_000] * 2


@pytest.mark.clause("R1", "R4", "R5")
async def test_service_bus_stand_in_ends_what_is_idle(
    service_bus: dict[str, Any], entities: Entities, node: MakeNode
) -> None:
    entities.silence = 0.4
    nodes: list[Node] = [
        await node(**service_bus, subscription=name, heartbeat=60, noisy=True) for name in ("one", "two")
    ]
    mailbox = Log()
    await nodes[1].subscribe("EVENT", mailbox)
    await nodes[0].publish("EVENT", "before")
    connections = list(ServiceBus.connections)
    await eventually(
        lambda: all(each.looks > 25 for each in connections), "more time than the stand-in bears of silence"
    )
    for connection in connections:
        connection.detach("amqp:link:detach-forced", "IdleTimerExpired: Idle timeout: 00:10:00")
    await nodes[0].publish("EVENT", "the link is made anew")
    assert [len(each.readies.items) for each in nodes] == [1, 1]
    for connection in list(ServiceBus.connections):
        connection.force()
    for each in nodes:
        assert "amqp:connection:forced" in str(await each.error(contract.ConnectionLostError))
        await each.until_ready(2)
    await nodes[0].publish("EVENT", "after")
    assert await mailbox.before("after") == ["before", "the link is made anew"]


@pytest.mark.clause("R3")
async def test_service_bus_stand_in_is_asked_again_when_it_was_busy(
    service_bus: dict[str, Any], entities: Entities, node: MakeNode
) -> None:
    one: Node = await node(**service_bus, subscription="one")
    entities.busy = 3
    await one.publish("EVENT", "at last")
    assert entities.busy == 0


@pytest.mark.clause("L4", "M3", "E3")
async def test_service_bus_stand_in_has_subscriptions_made_and_deleted(
    service_bus: dict[str, Any], entities: Entities, authority: Any, node: MakeNode
) -> None:
    files = authority.issue("localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert, files.key)
    async with await asyncio.start_server(Management(entities).serve, "127.0.0.1", 0, ssl=context) as server:
        ours = {**service_bus, "management": f"localhost:{server.sockets[0].getsockname()[1]}"}
        nodes: list[Node] = [await node(**ours, subscription=name) for name in ("three", "one")]
        mailboxes = [Log(), Log()]
        for each, mailbox in zip(nodes, mailboxes, strict=True):
            await each.subscribe("EVENT", mailbox)
        assert set(entities.topics["deepstream.EVENT"]) == {"one", "two", "three", "sessions"}
        for index, each in enumerate(nodes):
            await each.publish("EVENT", index)
        assert [await mailbox.count(1) for mailbox in mailboxes] == [[1], [0]]
        await nodes[0].unsubscribe("EVENT", mailboxes[0])
        assert "three" not in entities.topics["deepstream.EVENT"]
        with pytest.raises(contract.SubscribeRefusedError, match="404"):
            await nodes[0].subscribe("no-such-topic", Log())
        stranger: Node = await node(**{**ours, "username": "Listener", "password": "l1sten"}, subscription="four")
        with pytest.raises(contract.SubscribeRefusedError, match="401"):
            await stranger.subscribe("EVENT", Log())
        for each in nodes:
            await each.close()
        assert [set(found) for found in entities.topics.values()] == [{"two", "sessions"}] * 2


@pytest.mark.clause("M1", "M2", "M6", "M7")
async def test_other_servers_broadcast_in_order(other: AmqpServer, node: MakeNode, topic: str) -> None:
    nodes: list[Node] = [await node(url=other.url, server=other.kind) for _ in range(3)]
    topics = [f"{topic}{rest}" for rest in ("", ".*", "/#", "?", "%2F", " \n", "é", "x" * 200)]
    mailboxes = [{name: Log() for name in topics} for _ in nodes]
    for each, boxes in zip(nodes, mailboxes, strict=True):
        for name, mailbox in boxes.items():
            await each.subscribe(name, mailbox)
    for name in topics:
        for number in range(5):
            await asyncio.gather(*(each.publish(name, [index, name, number]) for index, each in enumerate(nodes)))
    await nodes[0].publish("nobody-listens", 1)
    for index, boxes in enumerate(mailboxes):
        for name, mailbox in boxes.items():
            items = await mailbox.count(10)
            for sender in {0, 1, 2} - {index}:
                assert [item for item in items if item[0] == sender] == [[sender, name, number] for number in range(5)]
            with suppress(*[contract.UnsubscribeError] if other.kind == "rabbitmq" else ()):
                await nodes[index].unsubscribe(name, mailbox)
    assert [each.stats()["lost"] for each in nodes] == [0, 0, 0]


@pytest.mark.clause("E3", "L3", "L9")
async def test_other_servers_refuse(other: AmqpServer, node: MakeNode) -> None:
    with pytest.raises(contract.ConnectError, match="Authentication failed") as raised:
        await (await node(connect=False, **limited(other, password="wr0ng-s3cr3t"))).connect()
    assert raised.value.refused
    assert "wr0ng-s3cr3t" not in f"{raised.value!r} {raised.value.__cause__!r}"
    free: Node = await node(url=other.url, server=other.kind)
    one: Node = await node(publish_timeout=60, **limited(other))
    answers = Log()
    await free.subscribe("allowed", answers)
    asked = [one.publish(f"forbidden-{number}" if number % 2 else "allowed", number) for number in range(20)]
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), contract.PublishRefusedError] * 10
    assert await answers.count(10) == list(range(0, 20, 2))
    assert (one.is_ready, len(one.readies.items)) == (True, 1)


@pytest.mark.clause("S5")
async def test_other_servers_take_what_is_not_too_large(other: AmqpServer, node: MakeNode, topic: str) -> None:
    careless: Node = await node(url=other.url, server=other.kind, max_message_bytes=2 * LARGEST)
    mailbox = Log()
    hearer: Node = await node(url=other.url, server=other.kind, max_message_bytes=2 * LARGEST)
    await hearer.subscribe(topic, mailbox)
    await careless.publish(topic, "y" * (LARGEST - 1000))
    assert [len(text) for text in await mailbox.count(1)] == [LARGEST - 1000]
    if other.kind == "rabbitmq":
        with pytest.raises(contract.MessageTooLargeError):
            await careless.publish(topic, "x" * LARGEST)


@pytest.mark.timeout(240)
@pytest.mark.clause("R1", "R2", "R4")
async def test_other_servers_leave_an_exact_balance(other: AmqpServer, gate: Proxy, node: MakeNode, topic: str) -> None:
    url = at_port(other.url, gate.port)
    nodes: list[Node] = [
        await node(noisy=True, publish_timeout=60, url=url, server=other.kind, heartbeat=1.2) for _ in range(3)
    ]

    async def break_off() -> None:
        await gate.cut()

    async def fall_silent() -> None:
        gate.mute()
        await eventually(lambda: not any(each.is_ready for each in nodes), "three lost connections")
        await gate.heal()

    await balance(nodes, f"{topic}-1", break_off, 5)
    await balance(nodes, f"{topic}-2", fall_silent, 2)
    await balance(nodes, f"{topic}-3", other.restart, 1)


@pytest.mark.timeout(240)
@pytest.mark.clause("L4", "R4")
async def test_restarts_leave_no_queue_too_many(own: Broker, node: MakeNode, topic: str) -> None:
    nodes: list[Node] = [await node(noisy=True, publish_timeout=60) for _ in range(3)]
    await balance(nodes, topic, own.restart, 1)
    await until_left(own, topic, 3)
