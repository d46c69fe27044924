"""A plugin of pytest for `pack.py`: notes what each test calls, or tries mutants, each in a process of its own."""

import importlib
import json
import os
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import pytest

trampoline = cast(Any, importlib.import_module("mutmut.mutation.trampoline"))

NOTES, MUTANTS, RESULTS = "REACH_NOTES", "REACH_MUTANTS", "REACH_RESULTS"
"""The variables of the environment that name the files."""

SIDE_BY_SIDE = 8
"""The tests wait more than they work."""

ENOUGH = 10.0
"""Seconds of tests that a mutant meets, at most: most functions are called by nearly all tests."""

WITHIN = 180.0
"""Seconds that a mutant has, however slow the machine is."""


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


class Trials:
    """Tries each mutant in a forked process, by the quickest tests that call what it changes; writes whether one failed.

    If none calls it, the quickest of all are run: a child process of a test may do so.
    """

    def __init__(self, notes: Path, mutants: Path, results: Path) -> None:
        self._tests: dict[str, list[tuple[float, str]]] = json.loads(notes.read_text(encoding="utf-8"))
        self._all = sorted({tuple(test) for tests in self._tests.values() for test in tests})
        self._mutants: list[str] = json.loads(mutants.read_text(encoding="utf-8"))
        self._file = results
        self._results: dict[str, int] = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
        self._running: dict[int, tuple[str, float]] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        began = time.monotonic()
        for count, mutant in enumerate(self._mutants):
            while len(self._running) >= SIDE_BY_SIDE:
                self._collect()
            tried = f"{count} of {len(self._mutants)} tried in {time.monotonic() - began:.0f} s"
            killed = sum(map(bool, self._results.values()))
            print(f"\r{tried}; {killed} killed in all", end="", file=sys.stderr, flush=True)
            if pid := os.fork():
                self._running[pid] = mutant, time.monotonic()
            else:
                os._exit(self._trial(session, mutant))
        while self._running:
            self._collect()
        print(file=sys.stderr)
        return True

    def _trial(self, session: pytest.Session, mutant: str) -> int:
        os.setsid()
        trampoline.set_mutant_under_test(mutant)
        by_name = {item.nodeid: item for item in session.items}
        called = self._tests.get(mutant.partition("__mutmut_")[0]) or self._all
        total = accumulate(seconds for seconds, _ in called)
        items = [by_name[name] for (_, name), so_far in zip(called, total, strict=True) if so_far <= ENOUGH]
        with tempfile.TemporaryDirectory() as folder:
            os.environ["PYTEST_DEBUG_TEMPROOT"] = folder
            for item, following in zip(items, [*items[1:], None], strict=True):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if session.testsfailed:
                    break
        return min(session.testsfailed, 1)

    def _collect(self) -> None:
        """Wait until one has ended, and write its result."""
        while not (ended := os.waitpid(-1, os.WNOHANG))[0]:
            for pid, (_, began) in self._running.items():
                if time.monotonic() - began > WITHIN:
                    os.killpg(pid, signal.SIGKILL)
            time.sleep(0.02)
        pid, status = ended
        mutant, _ = self._running.pop(pid)
        self._results[mutant] = os.waitstatus_to_exitcode(status)
        self._file.write_text(json.dumps(self._results), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    notes = Path(os.environ[NOTES])
    if mutants := os.environ.get(MUTANTS):
        config.pluginmanager.register(Trials(notes, Path(mutants), Path(os.environ[RESULTS])))
    else:
        config.pluginmanager.register(Notes(notes))
