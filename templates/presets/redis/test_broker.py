"""What is special about Redis: rights by channel, and a server that cuts off slow subscribers."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from .contract.nodes import Log, Node
from .contract.plugin import MakeNode
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
async def test_a_user_with_rights_to_one_channel_needs_no_others(limited: dict[str, str], node: MakeNode) -> None:
    one: Node = await node(heartbeat=0.4, publish_timeout=60, **limited)
    other: Node = await node()
    mailbox, answers = Log(), Log()
    await one.subscribe("allowed", mailbox)
    await other.subscribe("allowed", answers)
    with pytest.raises(contract.PublishError, match="NOPERM"):
        await one.publish("forbidden", 1)
    with pytest.raises(contract.SubscribeError, match="NOPERM"):
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


@pytest.mark.clause("L3", "L9")
async def test_a_wrong_password_is_told_without_showing_it(limited: dict[str, str], node: MakeNode) -> None:
    connector: Node = await node(connect=False, username=limited["username"], password="wr0ng-s3cr3t")
    with pytest.raises(contract.ConnectError, match="WRONGPASS|invalid username-password") as raised:
        await connector.connect()
    assert "wr0ng-s3cr3t" not in f"{raised.value!r} {raised.value.__cause__!r}"


@pytest.mark.clause("R4")
async def test_a_subscriber_that_the_server_cuts_off_is_told_what_it_missed(
    node: MakeNode, admin: Redis, topic: str
) -> None:
    publisher: Node = await node(publish_timeout=60)
    subscriber: Node = await node(noisy=True)
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    await publisher.publish(topic, "first")
    await mailbox.count(1)
    for number in range(2000):
        publisher.publish_nowait(topic, f"{number:04000}")
    await admin.client_kill_filter(_type="pubsub")
    published = 2001
    while len(subscriber.readies.items) < 2:
        await publisher.publish(topic, "away")
        published += 1
    await publisher.publish(topic, "last")
    await mailbox.until(lambda items: items[-1] == "last")
    assert len(mailbox.items) + subscriber.stats()["lost"] == published + 1
    assert subscriber.stats()["lost"] > 0
