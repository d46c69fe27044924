"""Which blanks are still open, and where: those whose code raises `NotImplementedError`."""

import ast
import os
from functools import cache
from inspect import getsourcefile
from pathlib import Path
from typing import NamedTuple

from ..subject import BrokerTransport, Settings

TEST_URL = f"{Settings.model_config.get('env_prefix', '')}TEST_URL"
"""The environment variable that says where the broker is, whatever the `settings` fixture says."""

_TRANSPORT = getsourcefile(BrokerTransport)
_FIXTURE = Path(__file__).parent.parent / "settings.py"


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
    assert _TRANSPORT
    found = _functions(_FIXTURE, ["settings"])
    found += _functions(Path(_TRANSPORT), ["connect", "publish", "subscribe", "unsubscribe", "close"])
    return {blank.name: blank for blank in found}


def open_blanks() -> list[Blank]:
    """Return the blanks that are not filled in, the next one first."""
    return [
        blank
        for blank in blanks().values()
        if not blank.is_written and not (blank.name == "settings" and os.environ.get(TEST_URL))
    ]


def is_written(name: str) -> bool:
    """Tell whether a blank is filled in."""
    return name not in blanks() or blanks()[name].is_written


def _functions(file: Path, names: list[str]) -> list[Blank]:
    found = {
        node.name: Blank(node.name, file, node.lineno, not _raises(node))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    return [found[name] for name in names if name in found]


def _raises(function: ast.AST) -> bool:
    return any(
        isinstance(node, ast.Raise) and node.exc is not None and "NotImplementedError" in ast.unparse(node.exc)
        for node in ast.walk(function)
    )
