"""Lets the pack, over Redis, try the mutants that the simulation has let live: `pack.py FOLDER`. Results that are there remain."""

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from baking import FROM_SOURCE, bake, run
from lay_out import NAME
from score import LEFT, results

SIDE_BY_SIDE = 5
"""The tests wait more than they work."""

SLOW = ("managed", "figures", "quiet", "storms", "throughput", "connections", "losses", "outages", "identity")
"""What takes too long for thousands of runs, or judges what mutmut has added."""


def main(folder: Path) -> None:
    project = lay_out(folder)
    known = folder / "pack.json"
    codes: dict[str, int] = json.loads(known.read_text(encoding="utf-8")) if known.exists() else {}
    left = [name for name, code in results(folder) if code in LEFT and name not in codes]
    assert trial(project, "") == 0, "the tests must pass on what is not changed"
    with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        for count, (name, code) in enumerate(
            zip(left, threads.map(lambda name: trial(project, name), left), strict=True), 1
        ):
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


def trial(project: Path, mutant: str) -> int:
    """Return how the tests end with this mutant; 0 if they notice nothing."""
    tests = sorted(
        f"tests/contract/{module.name}"
        for module in (project / "tests/contract").glob("test_*.py")
        if module.stem.removeprefix("test_") not in SLOW
    )
    words = ("-m", "pytest", "-n", "0", "-x", "-q", "-p", "no:cacheprovider", "--timeout", "30", *tests)
    environment = {**FROM_SOURCE, "MUTANT_UNDER_TEST": mutant}
    return run(sys.executable, *words, cwd=project, environment=environment, timeout=180).returncode


if __name__ == "__main__":
    main(Path(sys.argv[1]))
