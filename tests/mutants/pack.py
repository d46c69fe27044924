"""Lets the pack, over Redis, try what the simulation has let live: `pack.py FOLDER`. Results that are there remain.

It tries the mutants that change what is done, not those that change only words.
"""

import json
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from baking import FROM_SOURCE, bake, run
from lay_out import NAME
from reach import CHOSEN, NOTES
from score import LEFT, changes, results

SIDE_BY_SIDE = 5
"""The tests wait more than they work."""

SLOW = ("managed", "figures", "quiet", "storms", "throughput", "connections", "losses", "outages", "identity")
"""What takes too long for thousands of runs, or judges what mutmut has added."""


def main(folder: Path) -> None:
    known = folder / "pack.json"
    codes: dict[str, int] = json.loads(known.read_text(encoding="utf-8")) if known.exists() else {}
    survivors = [name for name, code in results(folder) if code in LEFT and name not in codes]
    left = [mutant.name for mutant in changes(folder, survivors) if mutant.group == "work"]
    pack = Pack(lay_out(folder))
    with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        for count, (name, code) in enumerate(zip(left, threads.map(pack.trial, left), strict=True), 1):
            codes[name] = code
            known.write_text(json.dumps(codes), encoding="utf-8")
            print(f"\r{count} of {len(left)}: {sum(map(bool, codes.values()))} killed", end="", flush=True)
    print()


def lay_out(folder: Path) -> Path:
    """Return a project whose machinery has all mutants in it."""
    shutil.rmtree(folder / "pack", ignore_errors=True)
    project = bake(folder / "pack", preset="redis", package_name=NAME)
    for module in (folder / "mutants/src" / NAME / "contract").glob("*.py"):
        shutil.copy(module, project / "src" / NAME / "contract")
    installed = project / "src" / f"{NAME}-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1\n", encoding="utf-8")
    (installed / "entry_points.txt").write_text(f"[deepstream.msg]\nredis = {NAME}:Connector\n", encoding="utf-8")
    return project


class Pack:
    """The quick tests of a project, and which of them calls what."""

    def __init__(self, project: Path) -> None:
        self._project = project
        self._modules = sorted(
            f"tests/contract/{module.name}"
            for module in (project / "tests/contract").glob("test_*.py")
            if module.stem.removeprefix("test_") not in SLOW
        )
        notes = project / "reach.json"
        ended = self._run(MUTANT_UNDER_TEST="stats", **{NOTES: str(notes)})
        assert ended == 0, "the tests must pass on what is not changed"
        tests: dict[str, list[tuple[float, str]]] = json.loads(notes.read_text(encoding="utf-8"))
        self._by_function = {function: [name for _, name in each] for function, each in tests.items()}

    def trial(self, mutant: str) -> int:
        """Return how the tests that call what this mutant changes end; 0 if they notice nothing.

        All tests are run if none calls it: a child process of a test may do so.
        """
        tests = self._by_function.get(mutant.partition("__mutmut_")[0])
        with tempfile.NamedTemporaryFile("w", suffix=".json") as chosen:
            json.dump(tests, chosen)
            chosen.flush()
            return self._run(MUTANT_UNDER_TEST=mutant, **({CHOSEN: chosen.name} if tests else {}))

    def _run(self, **environment: str) -> int:
        words = ("-m", "pytest", "-n", "0", "-x", "-q", "-p", "no:cacheprovider", "-p", "reach", "--timeout", "30")
        path = f"{FROM_SOURCE['PYTHONPATH']}:{Path(__file__).parent}"
        environment = {**FROM_SOURCE, "PYTHONPATH": path, **environment}
        return run(
            sys.executable, *words, *self._modules, cwd=self._project, environment=environment, timeout=180
        ).returncode


if __name__ == "__main__":
    main(Path(sys.argv[1]))
