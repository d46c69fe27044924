"""What is special about the small broker: rights by name, a login, a limit of size."""

import asyncio
import time

import pytest

from .contract.public import Log, MakeNode, Node
from .subject import contract


@pytest.mark.clause("E3")
async def test_a_user_without_rights_is_refused(node: MakeNode) -> None:
    connector: Node = await node(username="limited", publish_timeout=8)
    started = time.monotonic()
    with pytest.raises(contract.PublishRefusedError, match="no rights"):
        await connector.publish("forbidden", 1)
    with pytest.raises(contract.SubscribeRefusedError, match="no rights"):
        await connector.subscribe("forbidden", Log())
    assert time.monotonic() - started < 3


@pytest.mark.clause("E3")
async def test_of_many_at_once_each_gets_its_own_answer(node: MakeNode, topic: str) -> None:
    connector: Node = await node(username="limited", publish_timeout=8)
    names = [f"{('forbidden', topic)[number % 2]}-{number}" for number in range(20)]
    published = await asyncio.gather(*(connector.publish(name, 1) for name in names), return_exceptions=True)
    subscribed = await asyncio.gather(*(connector.subscribe(name, Log()) for name in names), return_exceptions=True)
    assert [type(each) for each in published] == [contract.PublishRefusedError, type(None)] * 10
    assert [type(each) for each in subscribed] == [contract.SubscribeRefusedError, type(None)] * 10


@pytest.mark.clause("L3", "R9", "E3", "L9")
async def test_a_wrong_password_is_told_as_refused(node: MakeNode) -> None:
    connector: Node = await node(connect=False, password="wr0ng-s3cr3t")
    with pytest.raises(contract.ConnectError, match="wrong user or password") as raised:
        await connector.connect()
    assert raised.value.refused
    assert "wr0ng" not in str(raised.value)


@pytest.mark.clause("S5")
async def test_what_is_over_the_limit_of_the_broker_is_too_large(node: MakeNode, topic: str) -> None:
    connector: Node = await node()
    with pytest.raises(contract.MessageTooLargeError):
        await connector.publish(topic, "x" * 1_010_000)
