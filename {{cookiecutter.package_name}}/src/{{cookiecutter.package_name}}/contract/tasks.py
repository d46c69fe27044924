"""Small things that every module of the shell needs from asyncio."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def start(coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop | None = None) -> "asyncio.Task[T]":
    """Run `coroutine` in a task that never begins before this call returns, whatever task factory the host has set.

    `loop` is the running event loop, if the caller knows it: before Python 3.12, finding it takes a system call.
    """
    return asyncio.Task(coroutine, loop=loop or asyncio.get_running_loop())


def settle(future: "asyncio.Future[T]", result: T) -> None:
    """Set the result of `future`, unless it is done."""
    if not future.done():
        future.set_result(result)
