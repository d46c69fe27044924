"""A plugin of pytest for `pack.py`: notes what each test calls, or runs only the tests that `CHOSEN` names, in its order."""

import importlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

trampoline = cast(Any, importlib.import_module("mutmut.mutation.trampoline"))

NOTES, CHOSEN = "REACH_NOTES", "REACH_CHOSEN"
"""The variables of the environment that name the files."""


class Notes:
    """Writes, for each function, the tests that call it, and how many seconds each took: the quickest first."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._called: set[str] = set()
        self._tests: dict[str, list[tuple[float, str]]] = defaultdict(list)
        self._seconds: dict[str, float] = defaultdict(float)
        trampoline.record_trampoline_hit = lambda name, caller: self._called.add(name)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] += report.duration

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        yield
        for name in self._called:
            self._tests[name].append((self._seconds[item.nodeid], item.nodeid))
        self._called.clear()

    def pytest_sessionfinish(self) -> None:
        self._file.write_text(
            json.dumps({name: sorted(tests) for name, tests in self._tests.items()}), encoding="utf-8"
        )


def pytest_configure(config: pytest.Config) -> None:
    if notes := os.environ.get(NOTES):
        config.pluginmanager.register(Notes(Path(notes)))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if chosen := os.environ.get(CHOSEN):
        by_name = {item.nodeid: item for item in items}
        items[:] = [by_name[name] for name in json.loads(Path(chosen).read_text(encoding="utf-8"))]
