"""Lets the pack, over Redis, try what the simulation has let live: `pack.py FOLDER`. Results that are there remain.

It tries the mutants that change what is done, not those that change only words.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from baking import FROM_SOURCE, bake
from lay_out import NAME
from reach import MUTANTS, NOTES, RESULTS
from score import LEFT, changes, results

OTHERS = ("managed", "figures", "quiet", "storms")
"""What takes too long for thousands of runs, or judges what mutmut has added."""


def main(folder: Path) -> None:
    results_file, notes, mutants = folder / "pack.json", folder / "reach.json", folder / "survivors.json"
    known: dict[str, int] = json.loads(results_file.read_text(encoding="utf-8")) if results_file.exists() else {}
    survivors = [name for name, code in results(folder) if code in LEFT and name not in known]
    left = [mutant.name for mutant in changes(folder, survivors) if mutant.group == "work"]
    mutants.write_text(json.dumps(left), encoding="utf-8")
    project = lay_out(folder)
    environment = {NOTES: str(notes.resolve())}
    run_pack(project, {**environment, "MUTANT_UNDER_TEST": "stats"})
    files = {MUTANTS: str(mutants.resolve()), RESULTS: str(results_file.resolve())}
    run_pack(project, {**environment, **files, "MUTANT_UNDER_TEST": ""})


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


def run_pack(project: Path, environment: dict[str, str]) -> None:
    """Run the quick tests of a project, with the plugin; raise `subprocess.CalledProcessError` if they fail."""
    modules = sorted(
        f"tests/contract/{module.name}"
        for module in (project / "tests/contract").glob("test_*.py")
        if module.stem.removeprefix("test_") not in OTHERS
    )
    words = ("-m", "pytest", "-n", "0", "-x", "-q", "-p", "no:cacheprovider", "-p", "reach", "--timeout", "30")
    path = f"{FROM_SOURCE['PYTHONPATH']}:{Path(__file__).parent}"
    environment = {**os.environ, **FROM_SOURCE, "PYTHONPATH": path, **environment}
    subprocess.run(
        [sys.executable, *words, *modules], cwd=project, env=environment, stdout=subprocess.DEVNULL, check=True
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
