"""What is special about Pub/Sub: subscriptions that outlive a connection, and go with the node; projects; sizes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
from google.pubsub_v1 import types
from pydantic import ValidationError

from .contract.public import PATIENCE, Log, MakeHost, MakeNode, Node, Proxy, Serve, Wire, balance, eventually
from .subject import Settings, contract

ONCE: dict[str, Any] = {"retry": None, "timeout": PATIENCE}


@pytest.fixture
async def admin(change: Callable[..., Settings]) -> AsyncIterator[Any]:
    """A bare transport, whose clients ask the server."""
    wire = Wire(change())
    await wire.transport.connect()
    yield wire.transport
    await wire.transport.close()


async def subscriptions(admin: Any, topic: str) -> list[str]:
    """Return the names of the subscriptions that the server has to a topic."""
    names = await admin._publisher.list_topic_subscriptions(topic=admin.settings.topic_name(topic), **ONCE)
    return [name async for name in names]


@pytest.mark.clause("L4", "R4")
async def test_a_subscription_outlives_a_connection_and_goes_with_its_node(
    node: MakeNode, admin: Any, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    subscriber: Node = await node(noisy=True, **through)
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    before = await subscriptions(admin, topic)
    await proxy.cut()
    await subscriber.until_ready(2)
    assert await subscriptions(admin, topic) == before
    assert len(before) == 1
    await subscriber.close()
    assert await subscriptions(admin, topic) == []


@pytest.mark.clause("L4", "R6")
async def test_what_was_left_in_an_outage_is_left_at_the_server_too(
    node: MakeNode, admin: Any, proxy: Proxy, through: dict[str, Any], topic: str
) -> None:
    subscriber: Node = await node(noisy=True, **through)
    leaver, back = Log(), Log()
    await subscriber.subscribe(topic, leaver)
    (first,) = await subscriptions(admin, topic)
    await proxy.refuse()
    await subscriber.until_down()
    await subscriber.unsubscribe(topic, leaver)
    await admin.publish(topic, b"nobody listens")
    returning = asyncio.ensure_future(subscriber.subscribe(topic, back))
    await proxy.heal()
    await returning
    (second,) = await subscriptions(admin, topic)
    assert first != second
    assert back.items == leaver.items == []


@pytest.mark.clause("L4")
async def test_the_subscription_of_a_killed_node_expires_as_soon_as_it_can(
    host: MakeHost, admin: Any, topic: str
) -> None:
    killed = await host()
    await killed.tell("subscribe", topic)
    await killed.kill()
    (name,) = await subscriptions(admin, topic)
    left = await admin._subscriber.get_subscription(subscription=name, **ONCE)
    assert left.expiration_policy.ttl == timedelta(days=1)  # the least that the service takes
    assert left.message_retention_duration == timedelta(minutes=10)  # likewise
    await admin._subscriber.delete_subscription(subscription=name, **ONCE)


@pytest.mark.clause("M2", "M7")
async def test_the_service_is_asked_to_keep_the_order_and_to_leave_out_own_messages(
    node: MakeNode, wire: Wire, admin: Any, topic: str
) -> None:
    one, other = await node(), await node()
    mailbox, messages = Log(), Log()
    await one.subscribe(topic, mailbox)
    (name,) = await subscriptions(admin, topic)
    subscription = await admin._subscriber.get_subscription(subscription=name, **ONCE)
    probe = types.Subscription(name=f"{name}.probe", topic=admin.settings.topic_name(topic))
    await admin._subscriber.create_subscription(probe, **ONCE)
    await one.publish(topic, "own")
    await other.publish(topic, "other's")
    while len({message.attributes["node"] for message in messages.items}) < 2:
        pulled = await admin._subscriber.pull(subscription=probe.name, max_messages=10, **ONCE)
        for received in pulled.received_messages:
            messages(received.message)
    await admin._subscriber.delete_subscription(subscription=probe.name, **ONCE)
    assert all(message.ordering_key == message.attributes["node"] for message in messages.items)
    own = next(message.attributes["node"] for message in messages.items if b"own" in message.data)
    assert subscription.enable_message_ordering
    assert subscription.filter == f'attributes.node != "{own}"'
    assert await mailbox.count(1) == ["other's"]
    await eventually(lambda: one.stats()["filtered"], "own messages, which the emulator sends all the same")


@pytest.mark.clause("E3", "R5")
async def test_a_refusal_is_told_to_the_call_that_it_is_about(serve: Serve, node: MakeNode) -> None:
    url = serve(projects="allowed").url
    one: Node = await node(url=url, publish_timeout=60)
    with pytest.raises(contract.PublishRefusedError, match="project"):
        await one.publish("a", 1)
    with pytest.raises(contract.SubscribeRefusedError, match="project"):
        await one.subscribe("a", Log())
    assert (one.is_ready, one.stats()["reconnects"]) == (True, 0)
    allowed = url.replace("deepstream", "allowed")
    publisher, subscriber = await node(url=allowed), await node(url=allowed)
    mailbox = Log()
    await subscriber.subscribe("a", mailbox)
    await publisher.publish("a", "in")
    assert await mailbox.count(1) == ["in"]


@pytest.mark.clause("R1", "R2", "R4")
async def test_cuts_leave_an_exact_balance(node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str) -> None:
    nodes: list[Node] = [await node(noisy=True, publish_timeout=60, **through) for _ in range(3)]
    await balance(nodes, topic, proxy.cut, 5)


@pytest.mark.clause("R2", "R4")
async def test_a_subscription_that_somebody_deletes_is_made_again(node: MakeNode, admin: Any, topic: str) -> None:
    subscriber: Node = await node(noisy=True)
    publisher, mailbox = await node(), Log()
    await subscriber.subscribe(topic, mailbox)
    await publisher.publish(topic, "first")
    await mailbox.count(1)
    (name,) = await subscriptions(admin, topic)
    await admin._subscriber.delete_subscription(subscription=name, **ONCE)
    await subscriber.until_ready(2)
    await publisher.publish(topic, "back")
    assert await mailbox.count(2) == ["first", "back"]


@pytest.mark.clause("S5")
async def test_more_than_a_request_may_hold_is_too_large(node: MakeNode, topic: str) -> None:
    publisher: Node = await node(max_message_bytes=20_000_000, publish_timeout=60)
    subscriber, mailbox = await node(max_message_bytes=20_000_000), Log()
    await subscriber.subscribe(topic, mailbox)
    with pytest.raises(contract.MessageTooLargeError):
        await publisher.publish(topic, "x" * 10_000_000)
    await publisher.publish(topic, "x" * 9_990_000)
    assert [len(text) for text in await mailbox.count(1)] == [9_990_000]


@pytest.mark.clause("L1")
def test_an_emulator_is_where_the_url_or_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def place(url: str) -> tuple[str | None, str]:
        settings = Settings(url=url)
        return settings.emulator, settings.project

    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)
    assert place("pubsub://my-project") == (None, "my-project")
    assert place("pubsub://localhost:1234/my-project") == ("localhost:1234", "my-project")
    assert place("pubsub://localhost/my-project") == ("localhost:8085", "my-project")
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", "localhost:4321")
    assert place("pubsub://my-project") == ("localhost:4321", "my-project")
    for wrong in ({"prefix": "1"}, {"retention": 599}, {"credentials_file": "/no/such/file"}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            Settings(**wrong)
    with pytest.raises(ValidationError, match="one project or one emulator"):
        Settings(url="pubsub://one,two")
    with pytest.raises(ValidationError, match="no options"):
        Settings(url="pubsub://localhost:1234/my-project?retention=700")


@pytest.mark.clause("L3")
@pytest.mark.parametrize(
    "login", [{"username": "somebody"}, {"password": "s3cr3t"}, {"url": "pubsub://u:s3cr3t@127.0.0.1:1/deepstream"}]
)
async def test_a_login_is_refused_with_what_to_set_in_its_place(node: MakeNode, login: dict[str, str]) -> None:
    connector: Node = await node(connect=False, **login)
    with pytest.raises(contract.ConnectError, match="credentials_file") as raised:
        await connector.connect()
    assert raised.value.refused


class ShutDoor(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Lets nobody in, like the service where the credentials are wrong."""

    def service(self, details: Any) -> Any:
        async def refuse(request: bytes, context: Any) -> None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "invalid credentials")

        return grpc.unary_unary_rpc_method_handler(refuse)


@pytest.mark.clause("L3")
async def test_wrong_credentials_are_a_refusal(node: MakeNode) -> None:
    server = grpc.aio.server([])
    server.add_generic_rpc_handlers((ShutDoor(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    connector: Node = await node(connect=False, url=f"pubsub://127.0.0.1:{port}/deepstream")
    with pytest.raises(contract.ConnectError, match="invalid credentials") as raised:
        await connector.connect()
    assert raised.value.refused
    await server.stop(None)


@pytest.mark.clause("L3", "L9")
async def test_a_key_that_is_none_is_told_without_showing_it(
    node: MakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)
    key = tmp_path / "key.json"
    key.write_text('{"type": "service_account", "private_key": "wr0ng-s3cr3t", "client_email": "a", "token_uri": "b"}')
    connector: Node = await node(connect=False, url="pubsub://my-project", credentials_file=key)
    with pytest.raises(contract.ConnectError, match="pubsub://my-project") as raised:
        await connector.connect()
    assert "wr0ng" not in f"{raised.value!r} {raised.value.__cause__!r}"
