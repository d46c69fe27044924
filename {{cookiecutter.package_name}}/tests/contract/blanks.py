"""Which blanks are still open, and where: those whose code raises `NotImplementedError`."""

import ast
import os
from collections.abc import Iterator
from functools import cache
from inspect import getsourcefile
from pathlib import Path
from typing import NamedTuple

from ..subject import BrokerTransport, Settings

TEST_URL = f"{Settings.model_config.get('env_prefix', '')}TEST_URL"
"""The environment variable that says where the broker is, whatever the `settings` fixture says."""

_TESTS = Path(__file__).parent.parent


class Blank(NamedTuple):
    """One of the functions that a contributor writes."""

    name: str
    file: Path
    line: int
    is_written: bool

    def __str__(self) -> str:
        return f"{os.path.relpath(self.file)}:{self.line}"


@cache
def blanks() -> dict[str, Blank]:
    """Return all blanks by name, in the order in which they are best filled in."""
    transport = getsourcefile(BrokerTransport)
    assert transport
    settings = _functions(_TESTS / "settings.py", None, "settings")
    found = [blank for blank, _ in settings]
    if any(isinstance(node, ast.Attribute) and ast.unparse(node.value) == "broker" for node in _inside(settings)):
        found += [blank for blank, _ in _functions(_TESTS / "broker.py", "Broker", "command", "url")]
    methods = ("connect", "close", "publish", "subscribe", "unsubscribe", "ping")
    found += [blank for blank, _ in _functions(Path(transport), "BrokerTransport", *methods)]
    return {blank.name: blank for blank in found}


def open_blanks() -> list[Blank]:
    """Return the blanks that are not filled in, the next one first."""
    needless = {"settings", "command", "url"} if os.environ.get(TEST_URL) else set()
    return [blank for blank in blanks().values() if not blank.is_written and blank.name not in needless]


def is_written(name: str) -> bool:
    """Tell whether a blank is filled in."""
    return name not in blanks() or blanks()[name].is_written


def _functions(file: Path, class_name: str | None, *names: str) -> list[tuple[Blank, ast.AST]]:
    """Return the functions of these names in a class of the file, or outside of all classes."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    if class_name:
        body = [
            node for each in body if isinstance(each, ast.ClassDef) and each.name == class_name for node in each.body
        ]
    found = {
        node.name: (Blank(node.name, file, node.lineno, not _raises(node)), node)
        for node in body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    return [found[name] for name in names if name in found]


def _inside(functions: list[tuple[Blank, ast.AST]]) -> Iterator[ast.AST]:
    return (inner for _, function in functions for inner in ast.walk(function))


def _raises(function: ast.AST) -> bool:
    return any(
        isinstance(node, ast.Raise) and node.exc is not None and "NotImplementedError" in ast.unparse(node.exc)
        for node in ast.walk(function)
    )
