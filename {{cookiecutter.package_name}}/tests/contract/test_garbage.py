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
    """Traces memory until all is closed: CPython 3.11 crashes if a client's own thread allocates while tracing ends."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


async def must_do_no_harm(call: Awaitable[object], caplog: pytest.LogCaptureFixture) -> None:
    """Fail if the event loop is blocked by a call, or memory fills up, or the log has a failure that nobody handled."""
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    async with patience():
        assert await longest_work(call) < 0.05
    _, peak = tracemalloc.get_traced_memory()
    hint = "how long an answer does the client read? does its error quote all of it?"
    assert peak - before < MOST_MEMORY, f"memory fills up: {hint}"
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
    started = asyncio.get_running_loop().time()
    await must_do_no_harm(connect(), caplog)
    assert asyncio.get_running_loop().time() - started < 5  # with the closing, on a busy machine
    proxy.babble = b""
    await connector.connect()


@garbage
@pytest.mark.usefixtures("memory")
@pytest.mark.clause("R1", "R2", "T2", "T3")
async def test_garbage_on_a_connection_is_a_loss(
    node: MakeNode, proxy: Proxy, through: dict[str, Any], topic: str, caplog: pytest.LogCaptureFixture, garbage: str
) -> None:
    connector: Node = await node(noisy=True, **through)
    other: Node = await node()
    mailbox = Log()
    await connector.subscribe(topic, mailbox)
    proxy.babble = GARBAGE[garbage]
    await must_do_no_harm(connector.until_down(), caplog)
    proxy.babble = b""
    await connector.until_ready(2)
    await other.publish(topic, "after")
    assert (await mailbox.count(1), losses(connector)) == (["after"], 1)
