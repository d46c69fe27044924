"""What a fault of a transport is: it replaces some methods of a sound one, and names the clauses that catch it."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from names import SHAPES

Methods = dict[str, Any]

ALL = SHAPES
ASYNC = ("one", "each", "two")
SEVERAL = ("each", "two")


class Fault(NamedTuple):
    """What is wrong, in which shapes, and what catches it: clauses, each perhaps with a part of its test's name."""

    name: str
    caught_by: str
    shapes: tuple[str, ...]
    make: Callable[[Any], Methods]
    """Takes the class of a sound transport; returns what takes the place of its attributes."""


FAULTS: list[Fault] = []

kept: list[Any] = []
"""What is never let go of."""

_tasks: set["asyncio.Future[Any]"] = set()


def fault(
    name: str, caught_by: str, shapes: tuple[str, ...] = ALL
) -> Callable[[Callable[[Any], Methods]], Callable[[Any], Methods]]:
    """Put a fault into the catalogue."""

    def add(make: Callable[[Any], Methods]) -> Callable[[Any], Methods]:
        FAULTS.append(Fault(name, caught_by, shapes, make))
        return make

    return add


def contract(base: Any) -> Any:
    """Return the `contract` of the package that a transport belongs to."""
    return sys.modules[f"{base.__module__.rpartition('.')[0]}.contract"]


def client(base: Any) -> Any:
    """Return the module of the client library of that package."""
    return sys.modules[f"{base.__module__.rpartition('.')[0]}.client"]


def framing(base: Any) -> Any:
    """Return the module of what that package says on the wire."""
    return sys.modules[f"{base.__module__.rpartition('.')[0]}.framing"]


def aside(work: Any) -> None:
    """Do something in the background, and tell nobody how it ends."""
    task = asyncio.ensure_future(work)
    _tasks.add(task)
    task.add_done_callback(forget)


def forget(task: "asyncio.Future[Any]") -> None:
    """Let go of what was done in the background."""
    _tasks.discard(task)
    if not task.cancelled():
        task.exception()
