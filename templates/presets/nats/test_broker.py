"""What is special about NATS: rights by subject, keys, clusters, servers that lie, and one that cuts off slow subscribers."""

import asyncio
import base64
import json
import os
import random
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import nats
import nkeys  # type: ignore[import-untyped]
import pytest
from nats.errors import NoRespondersError
from pydantic import ValidationError

from .broker import ThreeServers
from .contract.public import (
    PATIENCE,
    Authority,
    Change,
    Log,
    MakeHost,
    MakeNode,
    Node,
    ProxyFor,
    Serve,
    Server,
    Wire,
    at_port,
    eventually,
    patience,
    reported,
)
from .subject import Settings, contract


@pytest.mark.clause("E3")
async def test_a_refusal_is_told_to_the_call_that_it_is_about(serve: Serve, node: MakeNode) -> None:
    rights = {"publish": ["allowed"], "subscribe": ["allowed"]}
    users = [{"user": "limited", "password": "s3cr3t", "permissions": rights}, {"user": "other", "password": "s3cr3t"}]
    url = serve(configuration={"authorization": {"users": users}}).url
    one: Node = await node(url=url, username="limited", password="s3cr3t", heartbeat=0.4, publish_timeout=60)
    other: Node = await node(url=url.replace("://", "://other:s3cr3t@"))
    mailbox, answers = Log(), Log()
    await one.subscribe("allowed", mailbox)
    await other.subscribe("allowed", answers)
    for number in range(5):
        results = await asyncio.gather(
            one.publish("Allowed", "refused, in spite of its name"),
            one.publish("allowed", number),
            one.subscribe("forbidden", mailbox),
            one.publish("forbidden", "refused"),
            one.subscribe("allowed", mailbox),
            return_exceptions=True,
        )
        kinds = [contract.PublishRefusedError, type(None), contract.SubscribeRefusedError]
        kinds += [contract.PublishRefusedError, type(None)]
        assert [type(result) for result in results] == kinds
        assert "Permissions Violation" in str(results[0])
    assert await answers.count(5) == [0, 1, 2, 3, 4]
    await other.publish("allowed", "in")
    assert await mailbox.count(1) == ["in"]
    assert (one.is_ready, one.stats()["reconnects"]) == (True, 0)


@pytest.mark.clause("L3", "L9")
async def test_tokens_keys_and_passwords_let_in(serve: Serve, node: MakeNode, tmp_path: Path) -> None:
    pair = nkeys.from_seed(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))
    seed = tmp_path / "user.nk"
    seed.write_bytes(bytes(pair.seed))
    keyed = serve(configuration={"authorization": {"users": [{"nkey": pair.public_key.decode()}]}})
    await node(url=keyed.url, nkey_seed_file=seed)
    tokened = serve(configuration={"authorization": {"token": "t0ken/x"}})
    await node(url=tokened.url, token="t0ken/x")
    await node(url=tokened.url.replace("://", "://t0ken%2Fx@"))
    for wrong in ({"token": "wr0ng"}, {"username": "somebody", "password": "wr0ng"}, {}):
        connector: Node = await node(connect=False, url=tokened.url, **wrong)
        with pytest.raises(contract.ConnectError, match="uthorization") as raised:
            await connector.connect()
        assert raised.value.refused
        assert "wr0ng" not in f"{raised.value!r} {raised.value.__cause__!r}"


def user_key() -> Any:
    return nkeys.from_seed(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwt(signer: Any, of: Any, kind: str, **claims: Any) -> str:
    """Return a signer's statement about another key, as NATS wants it."""
    head = {"typ": "JWT", "alg": "ed25519-nkey"}
    body = {"jti": "1", "iat": 1, "iss": signer.public_key.decode(), "name": kind, "sub": of.public_key.decode()}
    body["nats"] = {"type": kind, "version": 2, **claims}
    text = ".".join(encoded(json.dumps(part).encode()) for part in (head, body))
    return f"{text}.{encoded(signer.sign(text.encode()))}"


@pytest.mark.clause("L3", "L9")
async def test_a_credentials_file_lets_in(serve: Serve, node: MakeNode, tmp_path: Path) -> None:
    operator, account = (
        nkeys.from_seed(nkeys.encode_seed(os.urandom(32), kind))
        for kind in (nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT)
    )
    limits = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
    accounts = {account.public_key.decode(): jwt(operator, account, "account", limits=limits)}
    server = serve(
        configuration={
            "operator": jwt(operator, operator, "operator"),
            "resolver": "MEMORY",
            "resolver_preload": accounts,
        }
    )
    user, file = user_key(), tmp_path / "user.creds"
    permit = jwt(account, user, "user", subs=-1, data=-1, payload=-1)
    seed = bytes(user.seed).decode()
    texts = ("NATS USER JWT", permit), ("USER NKEY SEED", seed)
    file.write_text("".join(f"-----BEGIN {name}-----\n{text}\n------END {name}------\n\n" for name, text in texts))
    await node(url=server.url, credentials_file=file)
    broken = file.read_text().replace(seed, seed[:-1])
    of_another = file.read_text().replace(seed, bytes(user_key().seed).decode())
    for text, rule in ((permit, "the seed of a"), (broken, "the seed of a"), (of_another, "uthorization")):
        file.write_text(text)
        stranger: Node = await node(connect=False, url=server.url, credentials_file=file)
        with pytest.raises(contract.ConnectError, match=rule) as raised:
            await stranger.connect()
        shown = f"{raised.value!r} {raised.value.__cause__!r}"
        assert permit not in shown
        assert seed[:-1] not in shown


@pytest.mark.clause("L1")
@pytest.mark.parametrize("end", ["/path", "?tls=true", "/?name=x", "/a,other:4222"])
def test_what_a_url_of_nats_cannot_say_is_refused(end: str) -> None:
    with pytest.raises(ValidationError, match=r"must end after its hosts|must look like"):
        Settings(url=f"nats://127.0.0.1:4222{end}")
    assert len(Settings(url="nats://a:1,nats://b:2").targets()) == 2


@pytest.mark.production("tls")
@pytest.mark.clause("L3", "L9")
async def test_tls_begins_when_the_server_says_so_or_before(
    serve: Serve, node: MakeNode, authority: Authority, topic: str
) -> None:
    files = authority.issue("127.0.0.1")
    tls = {"cert_file": str(files.cert), "key_file": str(files.key)}
    first = serve(configuration={"tls": {**tls, "handshake_first": True}})
    both = serve(configuration={"tls": tls, "allow_non_tls": True})
    only = serve(configuration={"tls": tls})
    for url, is_first in ((first.url, True), (both.url, False), (only.url, False)):
        one, other = [
            await node(url=url, tls_ca_file=authority.file, **({"tls_handshake_first": True} if is_first else {}))
            for _ in range(2)
        ]
        mailbox = Log()
        await one.subscribe(topic, mailbox)
        await other.publish(topic, "private")
        assert await mailbox.count(1) == ["private"]
    unknown: Node = await node(connect=False, url=only.url)  # speaks TLS, but knows no authority of this server
    with pytest.raises(contract.ConnectError, match="certificate"):
        await unknown.connect()


@pytest.mark.clause("M2")
async def test_the_server_sends_nobody_his_own_messages(node: MakeNode, topic: str) -> None:
    one, other = await node(), await node()
    mailbox = Log()
    await one.subscribe(topic, mailbox)
    for number in range(10):
        await one.publish(topic, number)
    await other.publish(topic, "marker")
    assert await mailbox.before("marker") == []
    assert one.stats()["filtered"] == 0


@pytest.mark.clause("S5")
async def test_more_than_the_server_takes_is_too_large(serve: Serve, node: MakeNode, topic: str) -> None:
    url = serve(configuration={"max_payload": 2000}).url
    publisher, subscriber = await node(url=url), await node(url=url)
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    with pytest.raises(contract.MessageTooLargeError):
        await publisher.publish(topic, "x" * 2000)
    for number in range(500):
        publisher.publish_nowait(topic, [number, "x" * 900])
    await publisher.publish(topic, "x" * 1900)
    assert len(await mailbox.count(501)) == 501
    assert publisher.stats()["reconnects"] == 0


@pytest.mark.clause("R4")
async def test_a_subscriber_that_the_server_cuts_off_gets_later_what_it_missed(
    serve: Serve, proxy_for: ProxyFor, node: MakeNode, topic: str
) -> None:
    server = serve(configuration={"max_pending": 1_000_000, "max_payload": 500_000})
    proxy = await proxy_for(server)
    publisher: Node = await node(url=server.url, publish_timeout=60, max_history_bytes=64_000_000)
    subscriber: Node = await node(url=at_port(server.url, proxy.port), noisy=True, heartbeat=2 * PATIENCE)
    mailbox, sent = Log(), 100
    await subscriber.subscribe(topic, mailbox)
    await publisher.publish(topic, "first")
    await mailbox.count(1)
    proxy.mute()
    for number in range(sent):
        await publisher.publish(topic, f"{number:x>400000}")
    await proxy.heal()
    await subscriber.until_ready(2)
    await publisher.publish(topic, "last")
    _, *numbers = await mailbox.before("last")
    assert [number.lstrip("x") for number in numbers] == list(map(str, range(sent)))
    assert subscriber.stats()["repaired"] > 0


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ThreeServers]:
    cluster = ThreeServers(tmp_path)
    try:
        cluster.start()
        yield cluster
    finally:
        await asyncio.to_thread(cluster.stop)


async def until_announced(server: Server) -> None:
    """Return when a server announces all three to its clients."""

    async def announces() -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        info = json.loads((await reader.readline()).partition(b" ")[2])
        writer.close()
        return len(info.get("connect_urls", ())) == 3

    await eventually(announces, "three servers that know one another")


@pytest.mark.production("cluster")
@pytest.mark.clause("R2", "R8")
async def test_servers_that_the_cluster_announces_take_over(cluster: ThreeServers, node: MakeNode, topic: str) -> None:
    named = cluster.servers[0]
    one: Node = await node(url=named.url, noisy=True)  # while the servers may not know one another yet
    await until_announced(named)
    other: Node = await node(url=cluster.url, noisy=True)
    mailbox = Log()
    await one.subscribe(topic, mailbox)
    await asyncio.to_thread(named.stop)
    await one.until_ready(2)
    await other.publish(topic, "elsewhere")
    await mailbox.count(1)


@pytest.mark.production("cluster")
@pytest.mark.clause("R2")
async def test_a_server_that_is_about_to_end_is_left_at_once(cluster: ThreeServers, node: MakeNode, topic: str) -> None:
    leaving = cluster.servers[0]
    await until_announced(leaving)
    one: Node = await node(url=leaving.url, noisy=True)
    await cluster.switch_over()
    lost = await one.error(contract.ConnectionLostError)
    assert "lame duck" in str(lost)
    await one.until_ready(2)
    assert leaving.is_running


def holds(item: Any, items: list[Any]) -> bool:
    return item in items


@pytest.mark.production("cluster")
@pytest.mark.clause("R2", "R4")
async def test_the_loss_of_one_server_after_another_is_survived(
    cluster: ThreeServers, node: MakeNode, topic: str
) -> None:
    servers = [*cluster.servers, *cluster.servers]
    urls = [",".join(server.url for server in servers[first : first + 3]) for first in range(3)]
    nodes = [await node(url=url, noisy=True, publish_timeout=60) for url in urls]  # one at each server
    mailboxes, sent, outcomes, is_over = [Log() for _ in nodes], [0 for _ in nodes], Log(), asyncio.Event()
    for each, mailbox in zip(nodes, mailboxes, strict=True):
        await each.subscribe(topic, mailbox)

    async def publish(index: int) -> None:
        while not is_over.is_set():
            sent[index] += 1
            nodes[index].publish_nowait(topic, [index, sent[index]], outcomes)
            await asyncio.sleep(0.01)

    publishing = [asyncio.ensure_future(publish(index)) for index in range(len(nodes))]
    for server in cluster.servers:
        await asyncio.to_thread(server.stop)
        for index, mailbox in enumerate(mailboxes):
            for sender in {0, 1, 2} - {index}:
                await mailbox.until(partial(holds, [sender, sent[sender] + 10]), "messages without the server")
        await server.restart()
    is_over.set()
    await asyncio.gather(*publishing)
    await outcomes.count(sum(sent))
    assert set(outcomes.items) == {None}
    for index, (each, mailbox) in enumerate(zip(nodes, mailboxes, strict=True)):
        owed = sum(sent) - sent[index]

        def came(each: Node = each, mailbox: Log = mailbox) -> int:
            return len(mailbox.items) + reported(each)

        await eventually(lambda: came() >= owed, lambda: f"{owed} messages, or word of their loss; {came()} came")  # noqa: B023
        assert came() == owed
        for sender in range(len(nodes)):
            numbers = [number for other, number in mailbox.items if other == sender]
            assert numbers == sorted(set(numbers))
    assert min(each.stats()["reconnects"] for each in nodes) >= 1


INFO = b'INFO {"max_payload":1048576}\r\n'

LIES = {
    "a message that is longer than it says": b"MSG a 1 3\r\nthree",
    "a message without a length": b"MSG a 1\r\nx\r\n",
    "a negative length": b"MSG a 1 -3\r\nfour\r\n",
    "a length beyond all limits": b"MSG a 1 99999999\r\n",
    "a length of many digits": b"MSG a 1 " + b"9" * 5000 + b"\r\n",
    "headers that nobody has asked for": b"HMSG a 1 12 12\r\nNATS/1.0\r\n\r\n\r\n",
    "an endless line": b"x" * 100_000,
    "an endless message line": b"MSG " + b"x" * 100_000,
    "an endless greeting": b'INFO {"a":"' + b"x" * 100_000,
    "a broken greeting": b"INFO {\r\n",
    "a greeting with a wrong type": b'INFO {"max_payload":"much"}\r\n',
    "a greeting of brackets": b'INFO {"a":' + b"[" * 60_000 + b"\r\n",
    "a PONG too many": b"PONG\r\n" * 10,
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "all bytes": bytes(range(256)) + b"\r\n",
}


class Liar:
    """A server that says what it should not, over and over, to present clients, or at once to new ones."""

    def __init__(self, lie: bytes) -> None:
        self.is_lying = asyncio.Event()
        self.cut = Log()
        self._lie = lie

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        telling = asyncio.ensure_future(self._lie_to(writer))
        if not self.is_lying.is_set():
            writer.write(INFO)
        try:
            while line := await reader.readline():
                if line == b"PING\r\n" and not self.is_lying.is_set():
                    writer.write(b"PONG\r\n")
        except ConnectionError:
            pass
        telling.cancel()
        writer.close()

    async def _lie_to(self, writer: asyncio.StreamWriter) -> None:
        await self.is_lying.wait()
        try:
            while True:
                writer.write(self._lie)
                await writer.drain()
                await asyncio.sleep(0)
        except ConnectionError:
            self.cut()


@pytest.mark.clause("R1", "E2")
@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("is_at_once", [False, True], ids=["later", "at once"])
async def test_a_server_that_says_what_is_no_nats_is_left_at_once(node: MakeNode, lie: str, is_at_once: bool) -> None:
    liar = Liar(LIES[lie])
    server = await asyncio.start_server(liar.talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    one: Node = await node(connect=False, noisy=True, url=f"nats://127.0.0.1:{port}", heartbeat=10 * PATIENCE)
    async with patience("one clear error"), server:
        if is_at_once:
            liar.is_lying.set()
            with pytest.raises(contract.ConnectError, match="does not speak NATS") as raised:
                await one.connect()
            assert len(str(raised.value)) < 400
        else:
            await one.connect()
            liar.is_lying.set()
            error = await one.error(contract.ConnectionLostError)
            assert "does not speak NATS" in str(error)
        await one.close()
        await liar.cut.count(1)


@pytest.mark.clause("S1")
async def test_it_matters_not_in_which_pieces_the_bytes_come(change: Change) -> None:
    wire = Wire(change())
    socket = Mock()
    wire.transport.connection_made(socket)
    subscribing = asyncio.ensure_future(wire.transport.subscribe("a"))
    await asyncio.sleep(0)
    payloads = [b"", b"x", b"\r\n", b"MSG a 1 1\r\nx\r\n", b"y" * 3000]
    plain, to_answer = (
        b"".join(b"MSG a 1 %b%d\r\n%b\r\n" % (reply, len(payload), payload) for payload in payloads)
        for reply in (b"", b"reply.to ")
    )
    said = INFO + b"PONG\r\n" + plain + b"PING\r\n" + to_answer
    draw = random.Random(1)
    for largest in (1, 2, 7, 100, 10_000):
        wire.payloads.items.clear()
        rest = said if largest == 1 else said.replace(b"PONG\r\n", b"")
        while rest:
            size = draw.randint(1, largest)
            wire.transport.data_received(rest[:size])
            rest = rest[size:]
        assert wire.payloads.items == [("a", payload) for payload in payloads * 2]
        socket.write.assert_called_with(b"PONG\r\n")
        socket.reset_mock()
    await subscribing
    assert not wire.losses.items


@pytest.mark.clause("L4")
async def test_a_killed_node_leaves_nothing_behind(given: Settings, host: MakeHost, topic: str) -> None:
    client = await nats.connect(given.url.get_secret_value())
    killed = await host()
    await killed.tell("subscribe", topic)
    with pytest.raises(nats.errors.TimeoutError):
        await client.request(topic, timeout=0.1)
    await killed.kill()
    async with patience():
        with pytest.raises(NoRespondersError):  # noqa: PT012
            while True:
                try:
                    await client.request(topic, timeout=0.1)
                except nats.errors.TimeoutError:
                    continue
    await client.close()
