"""What is special about NATS: rights by subject, clusters, and a server that cuts off slow subscribers."""

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import nats
import nkeys  # type: ignore[import-untyped]
import pytest
import trustme
from nats.errors import NoRespondersError

from .contract.public import (
    PATIENCE,
    Log,
    MakeHost,
    MakeNode,
    Node,
    ProxyFor,
    Serve,
    at_port,
    eventually,
    free_port,
    patience,
)
from .subject import Settings, contract


async def balance(publisher: Node, subscriber: Node, topic: str, trouble: Coroutine[Any, Any, None]) -> None:
    """Publish while there is trouble; all that was sent must arrive, once and in order."""
    mailbox, sent = Log(), 0
    await subscriber.subscribe(topic, mailbox)
    while not mailbox.items:
        await publisher.publish(topic, sent)
        sent += 1
        await asyncio.sleep(0.01)
    waiting = []
    troubling = asyncio.ensure_future(trouble)
    while not troubling.done() or not (publisher.is_ready and subscriber.is_ready):
        waiting.append(asyncio.ensure_future(publisher.publish(topic, sent)))
        sent += 1
        await asyncio.sleep(0.005)
    await troubling
    await asyncio.gather(*waiting)
    await mailbox.until(lambda items: items[-1] >= sent - 1, f"number {sent - 1}")
    assert mailbox.items == list(range(mailbox.items[0], sent))


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


@pytest.mark.production("tls")
@pytest.mark.clause("L3")
async def test_tls_with_certificates_on_both_sides(serve: Serve, node: MakeNode, tmp_path: Path, topic: str) -> None:
    authority, files = trustme.CA(), {name: str(tmp_path / name) for name in ("ca", "server", "client")}
    authority.cert_pem.write_to_path(files["ca"])
    for name in ("server", "client"):
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(files[name])
    tls = {"cert_file": files["server"], "key_file": files["server"], "ca_file": files["ca"], "verify": True}
    for first in (False, True):
        url = serve(configuration={"tls": {**tls, "handshake_first": first}}).url.replace("nats:", "tls:")
        settings = {"url": url, "tls_ca_file": files["ca"], "tls_handshake_first": first}
        one, other = [await node(**settings, tls_cert_file=files["client"]) for _ in range(2)]
        mailbox = Log()
        await one.subscribe(topic, mailbox)
        await other.publish(topic, "private")
        assert await mailbox.count(1) == ["private"]
        for missing in ({"tls_cert_file": files["client"], "tls_ca_file": None}, {}):
            stranger: Node = await node(connect=False, **{**settings, **missing})
            with pytest.raises(contract.ConnectError):
                await stranger.connect()
    plain: Node = await node(connect=False, url=serve().url, tls_ca_file=files["ca"], token="s3cr3t")
    with pytest.raises(contract.ConnectError, match="TLS") as raised:
        await plain.connect()
    assert not raised.value.refused


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


@pytest.mark.production("cluster")
@pytest.mark.clause("R2", "R4")
async def test_the_loss_of_any_server_of_a_cluster_is_survived(serve: Serve, node: MakeNode, topic: str) -> None:
    ports = [free_port() for _ in range(3)]
    routes = [f"nats://127.0.0.1:{port}" for port in ports]
    servers = [
        serve(
            configuration={
                "server_name": f"server-{port}",
                "cluster": {"name": "c", "listen": f"127.0.0.1:{port}", "routes": routes},
            }
        )
        for port in ports
    ]
    url = "nats://" + ",".join(f"127.0.0.1:{server.port}" for server in servers)
    publisher, subscriber = [await node(url=url, noisy=True, publish_timeout=60) for _ in range(2)]

    async def kill_one_after_the_other() -> None:
        for server in servers:
            await asyncio.to_thread(server.stop)
            await eventually(lambda: publisher.is_ready and subscriber.is_ready, "two connections to the other servers")
            await server.restart()

    await balance(publisher, subscriber, topic, kill_one_after_the_other())
    assert min(publisher.stats()["reconnects"], subscriber.stats()["reconnects"]) >= 1


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
