"""Each broken connector is caught: by the pack, in a clause that says what is wrong with it, or by the tests of the numbers."""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from baking import FROM_SOURCE, ROOT, bake, provision, run
from broken import DEFECTS, MODEL, SIMULATION, Defect
from catching import AT_A_TIME, PYTEST, Ended, failed, replace, run_pack

NAMED = {defect.name: defect for defect in DEFECTS}
TEMPLATE = ROOT / "{{cookiecutter.package_name}}"
SOURCE = TEMPLATE / "src" / TEMPLATE.name
PRESET = ROOT / "templates/presets/redis"

SEEDS = 30

QUICK_FIRST = ("test_decisions.py", "test_model.py")
"""The tests of the numbers."""

NO_SMALLER_EXAMPLE = (
    "model/tests/test_model.py",
    "    deadline=None,\n",
    '    deadline=None,\n    phases=[phase for phase in __import__("hypothesis").Phase if phase.name == "generate"],\n',
)


class Project(NamedTuple):
    """A baked project, one without a broker for the simulation, and the Python of an environment with all they need."""

    folder: Path
    simulated: Path
    python: Path

    def run(self, defect: Defect) -> Ended:
        """Run what is to catch a defect on a copy that has it, up to the first failure."""
        started = time.monotonic()
        kind, _, part = defect.caught_by.partition("/")
        with tempfile.TemporaryDirectory() as home:
            folder = self.simulated if kind == SIMULATION else self.folder
            copy = shutil.copytree(folder, Path(home) / folder.name)
            package = f"src/{copy.name}"
            for module, old, new in defect.edits:
                replace(copy / package / module, old, new)
            if kind == MODEL:
                code, output = self._run_model(copy, package, part)
            elif kind == SIMULATION:
                code, output = self._run_simulation(copy)
            else:
                code, output = run_pack(self.python, copy, defect.caught_by)
        return Ended(code, output, time.monotonic() - started)

    def _run_model(self, copy: Path, package: str, part: str) -> tuple[int, str]:
        """Run the tests of the numbers, where they find the modules of the copy in place of the template's."""
        tests = copy / "model/tests"
        shutil.copytree(copy / package / "contract", copy / "model" / SOURCE.relative_to(ROOT) / "contract")
        tests.mkdir()
        for name in ("pure.py", *QUICK_FIRST):
            shutil.copy(ROOT / "tests" / name, tests)
        (tests / "baking.py").write_text("from pathlib import Path\n\nROOT = Path(__file__).parents[1]\n")
        replace(copy / NO_SMALLER_EXAMPLE[0], *NO_SMALLER_EXAMPLE[1:])
        command = [*PYTEST, "--timeout", "60", "-c", os.devnull, "-k", part, *QUICK_FIRST]
        ended = run(self.python, *command, cwd=tests, environment=FROM_SOURCE, timeout=120)
        return ended.returncode, ended.stdout

    def _run_simulation(self, copy: Path) -> tuple[int, str]:
        """Run some seeds of the simulation on the copy."""
        command = f"-m simulation.run --seeds {SEEDS} --workers 1 --stop 1 --project".split()
        environment = {**FROM_SOURCE, "PYTHONPATH": str(ROOT / "tests")}
        ended = run(self.python, *command, copy, cwd=copy, environment=environment, timeout=120)
        return ended.returncode, ended.stdout


@pytest.fixture(scope="session")
def project() -> Iterator[Project]:
    """The Redis connector, baked, and installed where the pack runs."""
    with tempfile.TemporaryDirectory() as home:
        folder = bake(Path(home), preset="redis", package_name="broken_connector")
        simulated = bake(Path(home), preset="blank", package_name="simulated_connector")
        yield Project(folder, simulated, provision(folder, Path(home) / "tox") / "python")


@pytest.fixture(scope="session")
def runs(request: pytest.FixtureRequest, project: Project) -> Iterator[dict[str, "Future[Ended]"]]:
    """By defect: its run, several at a time, of those that are asked for."""
    wanted = {item.name.partition("[")[2].removesuffix("]") for item in request.session.items}
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield {name: pool.submit(project.run, NAMED[name]) for name in NAMED if name in wanted}
        pool.shutdown(wait=True, cancel_futures=True)


def test_each_defect_fits() -> None:
    faults = []
    for defect in DEFECTS:
        for module, old, _ in defect.edits:
            folder = PRESET if module == "transport.py" else SOURCE
            times = (folder / module).read_text(encoding="utf-8").count(old)
            if times != 1:
                faults.append(f"{defect.name}: {module} holds {times} times: {old}")
    assert not faults, "\n".join(faults)


def test_each_defect_has_a_name_and_a_test() -> None:
    files = [
        *(TEMPLATE / "tests/contract").glob("test_*.py"),
        PRESET / "test_broker.py",
        *(ROOT / "tests" / name for name in QUICK_FIRST),
    ]
    tests = "\n".join(file.read_text(encoding="utf-8") for file in files)
    parts = {word.partition("/")[2] for defect in DEFECTS for word in defect.caught_by.split()}
    assert not [part for part in parts if part not in tests]
    assert len(NAMED) == len(DEFECTS)


@pytest.mark.parametrize("catchers", ["M1 R4/meanwhile S6/only_signed", "model/overlap", SIMULATION])
def test_nothing_is_caught_where_nothing_is_wrong(project: Project, catchers: str) -> None:
    ended = project.run(Defect("nothing", catchers, ()))
    assert ended.code == 0, ended.output


@pytest.mark.parametrize("name", NAMED)
def test_it_is_caught(
    name: str, runs: dict[str, "Future[Ended]"], record_property: Callable[[str, object], None]
) -> None:
    ended = runs[name].result()
    catchers = found(NAMED[name], ended)
    record_property("defect", (name, " ".join(catchers) or "nothing", f"{ended.seconds:.0f}"))
    assert catchers, ended.output


def found(defect: Defect, ended: Ended) -> list[str]:
    """Return what has caught a defect, of all that was to catch it."""
    if ended.code != 1:
        return []
    if defect.caught_by.startswith(MODEL):
        return [defect.caught_by]
    if defect.caught_by == SIMULATION:
        return re.findall(r"^by clause: .*?([A-Z]\d+)", ended.output, re.MULTILINE)
    return failed(defect.caught_by, ended.output)
