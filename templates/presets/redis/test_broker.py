"""What is special about Redis: rights by channel, and a server that cuts off slow subscribers."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from .contract.public import Log, MakeNode, Node
from .subject import Settings, contract


@pytest.fixture
async def admin(given: Settings) -> AsyncIterator[Redis]:
    """A plain client, to set the server up."""
    async with Redis.from_url(given.url.get_secret_value()) as admin:
        yield admin


@pytest.fixture
async def limited(admin: Redis) -> AsyncIterator[dict[str, str]]:
    """Username and password of one who may use the channel `allowed` and its commands, and nothing else."""
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


@pytest.mark.clause("L3", "L9")
async def test_a_wrong_password_is_told_without_showing_it(limited: dict[str, str], node: MakeNode) -> None:
    connector: Node = await node(connect=False, username=limited["username"], password="wr0ng-s3cr3t")
    with pytest.raises(contract.ConnectError, match=r"WRONGPASS|invalid username-password") as raised:
        await connector.connect()
    assert raised.value.refused
    assert "wr0ng-s3cr3t" not in f"{raised.value!r} {raised.value.__cause__!r}"


@pytest.mark.production("rotation")
@pytest.mark.clause("R9")
async def test_a_password_that_was_changed_is_told_as_a_refusal(
    limited: dict[str, str], node: MakeNode, admin: Redis
) -> None:
    connector: Node = await node(noisy=True, **limited)
    await admin.acl_setuser(limited["username"], enabled=True, reset_passwords=True, passwords=["+other"])
    await admin.client_kill_filter(user=limited["username"])
    error = await connector.error(contract.ReconnectError)
    assert error.refused
    assert "WRONGPASS" in str(error) or "invalid username-password" in str(error)
    await admin.acl_setuser(limited["username"], enabled=True, reset_passwords=True, passwords=["+s3cr3t"])
    await connector.until_ready(2)


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
