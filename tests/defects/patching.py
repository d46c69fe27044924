"""What a defect of the machinery is: it changes classes and functions of a package, and names the clauses that catch it."""

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any, NamedTuple

PACKAGE = "broken_connector"


class Machinery:
    """The modules of a package's `contract`, by their names, and the package itself."""

    def __init__(self) -> None:
        self.package: Any = import_module(PACKAGE)

    def __getattr__(self, name: str) -> Any:
        return import_module(f"{PACKAGE}.contract.{name}")


class Defect(NamedTuple):
    """What is wrong, the clauses that catch it, each perhaps with a part of its test's name, and the change."""

    name: str
    caught_by: str
    apply: Callable[[Machinery], None]


DEFECTS: list[Defect] = []


def defect(name: str, caught_by: str) -> Callable[[Callable[[Machinery], None]], None]:
    """Put a defect into the catalogue."""

    def add(apply: Callable[[Machinery], None]) -> None:
        DEFECTS.append(Defect(name, caught_by, apply))

    return add


def instead(owner: Any, name: str) -> Callable[[Callable[..., Any]], None]:
    """Call a function in the place of `owner.name`; its first argument is what it replaces."""

    def put(function: Callable[..., Any]) -> None:
        found = vars(owner)[name]
        original: Any = found.fget if isinstance(found, property) else getattr(found, "__func__", found)

        @wraps(original)
        def replacement(*args: Any, **named: Any) -> Any:
            return function(original, *args, **named)

        kind = type(found) if isinstance(found, property | classmethod | staticmethod) else None
        setattr(owner, name, kind(replacement) if kind else replacement)

    return put


def nothing(owner: Any, name: str, value: Any = None) -> None:
    """Have `owner.name` do nothing, and return a value."""
    instead(owner, name)(lambda *_, **__: value)


def nothing_later(owner: Any, name: str) -> None:
    """Have the coroutine function `owner.name` do nothing."""

    async def do_nothing(*_: Any, **__: Any) -> None:
        pass

    instead(owner, name)(do_nothing)
