"""Runs what is to catch a fault in a project's pack, up to the first failure, and reads what has caught it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from baking import FROM_SOURCE, run, verdicts

AT_A_TIME = 4
"""How many runs there are at a time; most of them wait more than they work."""

HASTE = ("tests/contract/nodes.py", "PATIENCE = 20.0", "PATIENCE = 6.0")
"""What comes at all comes soon."""

PYTEST = ("-m", "pytest", "-x", "-q", "--basetemp", "basetemp")
"""With a folder of its own for temporary files, since runs that share one stumble over each other."""

CHOOSE = """
import os

def pytest_collection_modifyitems(items):
    wanted = [word.partition("/") for word in os.environ["CAUGHT_BY"].split()]
    chosen = [
        item
        for clause, _, part in wanted
        for item in items
        if part in item.name and clause in {each for mark in item.iter_markers("clause") for each in mark.args}
    ]
    items[:] = dict.fromkeys(chosen)
"""
"""A plugin that chooses the tests of some clauses, in the order of these."""


class Ended(NamedTuple):
    """How a run ended."""

    code: int
    output: str
    seconds: float


def replace(file: Path, old: str, new: str) -> None:
    """Replace a text that occurs once in a file."""
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{file.name} holds {text.count(old)} times: {old}"
    file.write_text(text.replace(old, new), encoding="utf-8")


def run_pack(
    python: Path, copy: Path, clauses: str, plugins: tuple[str, ...] = (), environment: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run the tests of some clauses in a copy of a project, which it changes; return the exit code and the output.

    A word of `clauses` is a clause, or a clause, a slash and a part of the names of its tests.
    """
    replace(copy / HASTE[0], *HASTE[1:])
    (copy / "choose.py").write_text(CHOOSE, encoding="utf-8")
    path = os.pathsep.join(["src", ".", *filter(None, [(environment or {}).get("PYTHONPATH")])])
    variables = {**FROM_SOURCE, **(environment or {}), "PYTHONPATH": path, "CAUGHT_BY": clauses}
    loaded = [word for plugin in (*plugins, "choose") for word in ("-p", plugin)]
    command = [*PYTEST, "-n", "0", "--timeout", "30", *loaded, "tests/contract", "tests/test_broker.py"]
    ended = run(python, *command, cwd=copy, environment=variables, timeout=120)
    return ended.returncode, ended.stdout


def failed(clauses: str, output: str) -> list[str]:
    """Return which of these clauses fail, by the table at the end of a pack's run."""
    wanted = {word.partition("/")[0] for word in clauses.split()}
    return [clause for clause, verdict in verdicts(output).items() if verdict == "FAILS" and clause in wanted]
