"""Chapter R: a server whose answers make no sense is noticed, and harms nothing."""

import asyncio
import gc
import logging
import random
import tracemalloc
from collections.abc import Awaitable, Iterator
from typing import Any

import pytest

from ..broker import Broker
from ..subject import contract
from .balance import losses
from .nodes import Log, Node, longest_work, patience
from .proxy import Proxy
from .public import MakeNode

CHUNK = 256 * 1024

GARBAGE = {
    "zeros": bytes(CHUNK),
    "ones": b"\xff" * CHUNK,
    "text": b"HTTP/1.1 400 Bad Request\r\n\r\n" * (CHUNK // 28),
    "noise": random.Random(0).randbytes(CHUNK),
    **Broker.absurd,
}
"""Endless input: lengths that are zero or absurd, another protocol, anything."""

garbage = pytest.mark.parametrize("garbage", GARBAGE)

MOST_MEMORY = 10 * 2**20
"""Bytes; more comes before a silence is noticed, even on a busy machine. One chunk may become 9 MB of empty frames."""


@pytest.fixture
def memory() -> Iterator[None]:
    """Ends tracing when all is closed: CPython 3.11 crashes if a client's own thread allocates while tracing ends."""
    yield
    tracemalloc.stop()


async def must_not_block(call: Awaitable[object]) -> None:
    """Fail if a call blocks the event loop."""
    async with patience():
        assert await longest_work(call) < 0.05


async def must_not_fill_memory(call: Awaitable[object]) -> None:
    """Fail if memory fills up during a call."""
    tracemalloc.start()  # not while work is measured, which it doubles
    async with patience():
        await call
    _, peak = tracemalloc.get_traced_memory()
    assert peak < MOST_MEMORY, (
        "memory fills up: how long an answer does the client read? does its error quote all of it?"
    )


def must_be_handled(caplog: pytest.LogCaptureFixture) -> None:
    """Fail if the log has a failure that nobody handled."""
    gc.collect()  # errors that nobody waits for are reported then
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR] == []


@garbage
@pytest.mark.usefixtures("memory")
@pytest.mark.clause("L3", "T2", "T3")
async def test_garbage_in_place_of_a_greeting_is_told_in_time(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], caplog: pytest.LogCaptureFixture, garbage: str
) -> None:
    connector: Node = await node(connect=False, **through, connect_timeout=1)

    async def connect() -> None:
        with pytest.raises(contract.ConnectError):
            await connector.connect()

    proxy.babble = GARBAGE[garbage]
    for check in (must_not_block, must_not_fill_memory):
        started = asyncio.get_running_loop().time()
        await check(connect())
        assert asyncio.get_running_loop().time() - started < 5  # with the closing, on a busy machine
    must_be_handled(caplog)
    proxy.babble = b""
    await connector.connect()


@garbage
@pytest.mark.usefixtures("memory")
@pytest.mark.clause("R1", "R2", "T2", "T3")
async def test_garbage_on_a_connection_is_a_loss(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str, caplog: pytest.LogCaptureFixture, garbage: str
) -> None:
    other: Node = await node()
    for check in (must_not_block, must_not_fill_memory):
        connector: Node = await node(noisy=True, **through)
        mailbox = Log()
        await connector.subscribe(topic, mailbox)
        proxy.babble = GARBAGE[garbage]
        await check(connector.until_down())
        proxy.babble = b""
        await connector.until_ready(2)
        await other.publish(topic, "after")
        assert (await mailbox.count(1), losses(connector)) == (["after"], 1)
        await connector.close()
    must_be_handled(caplog)
