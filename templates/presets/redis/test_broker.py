"""What is special about Redis: rights by channel, slow subscribers, replicas, sentinels, clusters, and what it pushes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any
from uuid import uuid4

import hiredis
import pytest
from pydantic import SecretStr, ValidationError
from redis.asyncio import Redis

from .broker import Broker, RedisCluster, Sentinel, Sentinels
from .contract.public import Authority, Change, Log, MakeNode, Node, Serve, Wire
from .subject import Settings, contract


@pytest.fixture
async def admin(given: Settings) -> AsyncIterator[Redis]:
    """A plain client, to set the server up."""
    async with Redis.from_url(given.url.get_secret_value()) as admin:
        yield admin


@pytest.fixture
async def limited(admin: Redis) -> AsyncIterator[dict[str, str]]:
    """Username and password of a user with the channel `allowed` and its commands, and nothing else."""
    name = f"limited-{uuid4().hex}"
    rights = ["+publish", "+subscribe", "+unsubscribe"]
    await admin.acl_setuser(name, enabled=True, passwords=["+s3cr3t"], channels=["allowed"], commands=rights)
    yield {"username": name, "password": "s3cr3t"}
    await admin.acl_deluser(name)


@pytest.mark.clause("E3", "R5")
async def test_a_user_with_rights_to_one_channel_needs_no_others(
    limited: dict[str, str], node: MakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    one: Node = await node(heartbeat=0.4, publish_timeout=60, **limited)
    other: Node = await node()
    mailbox, answers = Log(), Log()
    await one.subscribe("allowed", mailbox)
    await other.subscribe("allowed", answers)
    with pytest.raises(contract.PublishRefusedError, match="NOPERM"):
        await one.publish("forbidden", 1)
    with pytest.raises(contract.SubscribeRefusedError, match="NOPERM"):
        await one.subscribe("forbidden", mailbox)
    await one.publish("allowed", "out")
    await other.publish("allowed", "in")
    assert (await mailbox.count(1), await answers.count(1)) == (["in"], ["out"])
    clock: Node = await node(heartbeat=0.4)
    for number in range(10):
        other.publish_nowait("allowed", number)
        await mailbox.count(number + 2)
    await clock.close()
    assert (one.is_ready, one.errors.items) == (True, [])
    assert sum("control_topic" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.clause("R4")
async def test_a_subscriber_that_the_server_cuts_off_gets_all_that_it_missed(
    node: MakeNode, admin: Redis, topic: str
) -> None:
    publisher: Node = await node(publish_timeout=60)
    others = {client["id"] for client in await admin.client_list()}
    subscriber: Node = await node(noisy=True)
    mailbox, sent = Log(), ["first"]
    await subscriber.subscribe(topic, mailbox)
    await publisher.publish(topic, "first")
    await mailbox.count(1)
    for number in range(2000):
        sent.append(f"{number:04000}")
        publisher.publish_nowait(topic, sent[-1])
    (connection,) = (client["id"] for client in await admin.client_list() if client["id"] not in others)
    await admin.client_kill_filter(_id=connection)
    while len(subscriber.readies.items) < 2:
        sent.append("away")
        await publisher.publish(topic, "away")
    sent.append("last")
    await publisher.publish(topic, "last")
    await mailbox.until(lambda items: items[-1] == "last", "the last message")
    assert mailbox.items == sent
    assert subscriber.stats()["repaired"] > subscriber.stats()["lost"] == 0


@pytest.mark.production("cluster")
@pytest.mark.clause("R8")
async def test_a_replica_is_no_server_for_a_node(serve: Serve, node: MakeNode, topic: str) -> None:
    primary: Broker = serve()
    replica: Broker = serve(options=[f"replicaof 127.0.0.1 {primary.port}"])
    stranger: Node = await node(connect=False, url=replica.url)
    with pytest.raises(contract.ConnectError, match=f"127.0.0.1:{replica.port} is a replica"):
        await stranger.connect()
    one: Node = await node(url=f"{replica.url},{primary.url}")
    other: Node = await node(url=primary.url)
    mailbox = Log()
    await other.subscribe(topic, mailbox)
    await one.publish(topic, "heard")
    assert await mailbox.count(1) == ["heard"]


@pytest.mark.production("cluster")
@pytest.mark.clause("R8", "R1")
async def test_a_server_that_becomes_a_replica_is_left_while_it_still_answers(
    serve: Serve, node: MakeNode, topic: str
) -> None:
    first, second = serve(), serve()
    one: Node = await node(noisy=True, url=f"{first.url},{second.url}")
    other: Node = await node(url=second.url)
    mailbox = Log()
    await other.subscribe(topic, mailbox)
    first.ask("REPLICAOF", "127.0.0.1", second.port)
    assert "is a replica" in str(await one.error(contract.ConnectionLostError))
    await one.until_ready(2)
    await one.publish(topic, "heard")
    assert await mailbox.count(1) == ["heard"]


@asynccontextmanager
async def talking(node: MakeNode, topic: str, **settings: Any) -> AsyncIterator[tuple[Node, Node]]:
    """Publish numbers from one node to another while the block runs; both lose and find their server in it."""
    one, other = [await node(noisy=True, publish_timeout=30, **settings) for _ in range(2)]
    mailbox, numbers, is_over = Log(), count(), asyncio.Event()
    await other.subscribe(topic, mailbox)

    async def talk() -> None:
        while not is_over.is_set():
            await one.publish(topic, next(numbers))
            await asyncio.sleep(0.005)

    talk_ends = asyncio.ensure_future(talk())
    await mailbox.count(10)
    yield one, other
    is_over.set()
    await talk_ends
    await one.publish(topic, "end")
    heard = await mailbox.before("end")
    assert heard == list(range(next(numbers)))
    for each in (one, other):
        assert each.stats()["lost"] == 0
        assert {type(error) for error in each.errors.items} >= {contract.ConnectionLostError}


@pytest.mark.production("cluster")
@pytest.mark.clause("R4", "R8")
async def test_nodes_follow_the_sentinels_to_another_primary_and_leave_the_old_one_behind(
    serve: Serve, node: MakeNode, topic: str
) -> None:
    sentinels: Sentinels = serve(Sentinels)
    old = sentinels.servers[0]
    async with talking(node, topic, url=sentinels.url) as nodes:
        old.stop()
        for each in nodes:
            await each.until_ready(2)
        old.start()  # for ten seconds, it thinks it is a primary
        late: Node = await node(url=sentinels.url)
        mailbox = Log()
        await late.subscribe(topic, mailbox)
        await mailbox.count(1)


@pytest.mark.production("cluster", "tls")
@pytest.mark.clause("R4", "R8")
@pytest.mark.needs("speaks_tls")
async def test_nodes_follow_a_planned_change_of_the_primary_with_tls_and_logins_of_both_kinds(
    serve: Serve, authority: Authority, node: MakeNode, topic: str
) -> None:
    logins = {"login": ("node", "s3cr3t-of-servers"), "sentinel_login": ("guard", "s3cr3t-of-sentinels")}
    certificates = {"certificate": authority.issue("127.0.0.1"), "sentinel_certificate": authority.issue("localhost")}
    sentinels: Sentinels = serve(Sentinels, **certificates, **logins)
    url = sentinels.url.replace("127.0.0.1", "localhost")
    settings = {"url": url, "tls_ca_file": authority.file, "username": "node", "sentinel_username": "guard"}
    passwords = {name: SecretStr(logins[login][1]) for name, login in PASSWORDS.items()}
    async with talking(node, topic, **settings, **passwords) as nodes:
        await sentinels.switch_over()
        for each in nodes:
            await each.until_ready(2)
    for wrong in PASSWORDS:
        stranger: Node = await node(connect=False, **settings, **{**passwords, wrong: SecretStr("wr0ng-s3cr3t")})
        with pytest.raises(contract.ConnectError, match="WRONGPASS") as raised:
            await stranger.connect()
        assert raised.value.refused


PASSWORDS = {"password": "login", "sentinel_password": "sentinel_login"}
"""The settings for the passwords of `Sentinels`."""


@pytest.mark.clause("L3", "R8")
async def test_a_sentinel_and_a_server_are_told_apart_and_a_primary_that_no_sentinel_knows_is_named(
    serve: Serve, node: MakeNode
) -> None:
    server: Broker = serve()
    sentinel: Sentinel = serve(Sentinel, options=[f"sentinel monitor nodes 127.0.0.1 {server.port} 1"])
    for url, text in (
        (f"redis+sentinel://127.0.0.1:{sentinel.port}/others", "does not know a primary named 'others'"),
        (f"redis+sentinel://127.0.0.1:{server.port}/nodes", "is a server, not a sentinel"),
        (f"redis://127.0.0.1:{sentinel.port}", "is a sentinel, not a server"),
    ):
        stranger: Node = await node(connect=False, url=url)
        with pytest.raises(contract.ConnectError, match=text):
            await stranger.connect()
    known: Node = await node(url=f"redis+sentinel://127.0.0.1:{sentinel.port}/nodes")
    assert known.is_ready


@pytest.mark.production("cluster")
@pytest.mark.clause("M1")
async def test_messages_pass_between_nodes_at_all_servers_of_a_cluster_also_its_replicas(
    serve: Serve, node: MakeNode, topic: str
) -> None:
    cluster: RedisCluster = serve(RedisCluster)
    nodes = [await node(url=server.url) for server in cluster.servers]
    mailboxes = [Log() for _ in nodes]
    for each, mailbox in zip(nodes, mailboxes, strict=True):
        await each.subscribe(topic, mailbox)
    for number, each in enumerate(nodes):
        await each.publish(topic, number)
    for number, mailbox in enumerate(mailboxes):
        assert sorted(await mailbox.count(5)) == [other for other in range(6) if other != number]
    everywhere: Node = await node(url=cluster.url)
    assert everywhere.is_ready


@pytest.mark.clause("L3")
async def test_a_unix_socket_is_taken(serve: Serve, node: MakeNode, topic: str) -> None:
    server: Broker = serve(options=["unixsocket socket"])
    other: Node = await node(url=server.url)  # the socket is there when the server answers
    one: Node = await node(url=f"unix://{server.folder}/socket")
    mailbox = Log()
    await one.subscribe(topic, mailbox)
    await other.publish(topic, "heard")
    assert await mailbox.count(1) == ["heard"]


HELLO = b"%2\r\n+mode\r\n+standalone\r\n+role\r\n+master\r\n"


@asynccontextmanager
async def scripted(greeting: bytes = b"", **answers: bytes) -> AsyncIterator[str]:
    """Lend the url of a server for one connection, which answers each command with the entry for its first word."""
    closed = Log()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands = hiredis.Reader()
        writer.write(greeting)
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                commands.feed(data)
                while command := commands.gets():
                    writer.write(answers.get(command[0].decode(), b""))
            writer.close()
            await writer.wait_closed()
        closed()

    server = await asyncio.start_server(serve, "127.0.0.1")
    yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    await closed.count(1)


@pytest.mark.clause("E3")
async def test_what_a_server_pushes_by_itself_answers_nothing(change: Change) -> None:
    strays = (
        b">2\r\n+invalidate\r\n*1\r\n+key\r\n>4\r\n+MIGRATING\r\n:1\r\n:2\r\n:3\r\n>0\r\n"
        b">1\r\n+message\r\n>3\r\n+subscribe\r\n+another\r\n:1\r\n>3\r\n+unsubscribe\r\n+topic\r\n:1\r\n"
    )
    marker = b">3\r\n$7\r\nmessage\r\n$6\r\nmarker\r\n$0\r\n\r\n"
    refusal = b":1\r\n" + strays + b"-NOPERM no\r\n"
    async with scripted(HELLO=strays + HELLO, PUBLISH=strays + marker, SUBSCRIBE=refusal) as url:
        wire = Wire(change(url=url))
        await wire.transport.connect()
        publish = asyncio.ensure_future(wire.transport.publish("topic", b"x"))
        await wire.payloads.count(1)
        assert not publish.done()
        with pytest.raises(contract.SubscribeRefusedError, match="NOPERM"):
            await wire.transport.subscribe("topic")
        await publish
        await wire.transport.close()
        assert wire.losses.items == []


@pytest.mark.clause("L3")
@pytest.mark.parametrize("said", [b"-ERR max number of clients reached\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_what_a_server_says_in_place_of_an_answer_is_told(
    node: MakeNode, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted(said) as url:
        stranger: Node = await node(connect=False, url=url)
        with pytest.raises(contract.ConnectError, match=r"max number of clients|answer makes no sense"):
            await stranger.connect()
    assert caplog.messages == []


@pytest.mark.clause("E3", "L3")
async def test_a_server_that_wants_a_password_says_so_in_few_words(serve: Serve, node: MakeNode) -> None:
    server: Broker = serve(login=("node", "s3cr3t"))
    stranger: Node = await node(connect=False, url=server.url)
    with pytest.raises(contract.ConnectError, match=r": the server wants a password \(NOAUTH\)\. ") as raised:
        await stranger.connect()
    assert raised.value.refused


@pytest.mark.clause("R1")
async def test_what_a_server_says_without_being_asked_is_a_loss(
    change: Change, caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted(HELLO=HELLO + b"-ERR no more\r\n") as url:
        wire = Wire(change(url=url))
        await wire.transport.connect()
        (loss,) = await wire.losses.count(1)
        await wire.transport.close()
    assert "ERR no more" in str(loss)
    assert caplog.messages == []


@pytest.mark.clause("L1")
@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("redis://127.0.0.1/1", "must end after its hosts: leave out '/1', since publish/subscribe is the same in all"),
        ("redis://127.0.0.1/s3cr3t", "must end after its hosts: leave out the path"),
        ("rediss://127.0.0.1?ssl_ca_certs=ca.pem", "takes no options; TLS is set by tls_ca_file"),
        ("redis+sentinel://127.0.0.1/nodes?ssl_ca_certs=ca.pem", "takes no options; TLS is set by tls_ca_file"),
        ("unix:///run/redis?password=s3cr3t", "takes no options"),
        ("redis+sentinel://127.0.0.1", "name of the primary"),
        ("redis+sentinel://127.0.0.1/nodes/1", "name of the primary"),
    ],
)
def test_what_the_url_says_in_vain_is_refused(url: str, rule: str) -> None:
    with pytest.raises(ValidationError, match=rule) as raised:
        Settings(url=SecretStr(url))
    assert "s3cr3t" not in str(raised.value)


@pytest.mark.clause("L1", "L9")
@pytest.mark.parametrize("url", ["redis://127.0.0.1", "rediss://127.0.0.1", "unix:///run/redis"])
@pytest.mark.parametrize("field", ["sentinel_username", "sentinel_password"])
def test_a_login_for_sentinels_is_refused_where_there_are_none(url: str, field: str) -> None:
    login: dict[str, Any] = {field: "s3cr3t"}
    with pytest.raises(ValidationError, match=f"{field}: only for the sentinels") as raised:
        Settings(url=SecretStr(url), **login)
    assert "s3cr3t" not in str(raised.value)


@pytest.mark.clause("L1", "L9")
def test_a_unix_socket_with_tls_is_refused() -> None:
    with pytest.raises(ValidationError, match="a Unix socket has no TLS"):
        Settings(url=SecretStr("unix:///run/redis"), tls=True)
