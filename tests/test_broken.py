"""Each defect of the machinery is caught by the pack, in a clause that says what is wrong."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from baking import ROOT, bake, provision
from catching import AT_A_TIME, Ended, failed, run_pack
from defects import DEFECTS, PACKAGE

NAMED = {defect.name: defect for defect in DEFECTS}
PACK = ROOT / "{{cookiecutter.package_name}}/tests/contract"


class Project(NamedTuple):
    """The Redis connector, baked, and the Python of an environment with all that it needs."""

    folder: Path
    python: Path

    def run(self, clauses: str, defect: str = "") -> Ended:
        """Run what is to catch a defect on a copy that has it, up to the first failure."""
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as home:
            copy = shutil.copytree(self.folder, Path(home) / self.folder.name)
            here = Path(__file__).parent
            path = os.pathsep.join(map(str, (here / "defects" / "everywhere", here)))
            environment = {"PYTHONPATH": path, "DEFECT": defect} if defect else {}
            code, output = run_pack(self.python, copy, clauses, environment=environment)
        return Ended(code, output, time.monotonic() - started)


@pytest.fixture(scope="session")
def project() -> Iterator[Project]:
    with tempfile.TemporaryDirectory() as home:
        folder = bake(Path(home), preset="redis", package_name=PACKAGE)
        yield Project(folder, provision(folder, Path(home) / "tox") / "python")


@pytest.fixture(scope="session")
def runs(request: pytest.FixtureRequest, project: Project) -> Iterator[dict[str, "Future[Ended]"]]:
    """By defect: its run, several at a time, of those that are asked for."""
    wanted = {item.name.partition("[")[2].removesuffix("]") for item in request.session.items}
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield {name: pool.submit(project.run, NAMED[name].caught_by, name) for name in NAMED if name in wanted}
        pool.shutdown(wait=True, cancel_futures=True)


def test_each_defect_has_a_name_and_a_test() -> None:
    tests = "\n".join(file.read_text(encoding="utf-8") for file in PACK.glob("test_*.py"))
    parts = {word.partition("/")[2] for defect in DEFECTS for word in defect.caught_by.split()}
    assert not [part for part in parts if part not in tests]
    assert len(NAMED) == len(DEFECTS)


def test_each_clause_catches_a_defect() -> None:
    clauses = {
        name.partition('"')[0] for name in (PACK / "clauses.py").read_text(encoding="utf-8").split('\n    "')[1:]
    }
    caught = {word.partition("/")[0] for defect in DEFECTS for word in defect.caught_by.split()}
    assert {clause for clause in clauses if clause[1:].isdigit()} <= caught


def test_nothing_is_caught_where_nothing_is_wrong(project: Project) -> None:
    ended = project.run("M1 R4/meanwhile S6/only_signed")
    assert ended.code == 0, ended.output


@pytest.mark.parametrize("name", NAMED)
def test_it_is_caught(
    name: str, runs: dict[str, "Future[Ended]"], record_property: Callable[[str, object], None]
) -> None:
    ended = runs[name].result()
    catchers = failed(NAMED[name].caught_by, ended.output) if ended.code == 1 else []
    record_property("defect", (name, " ".join(catchers) or "nothing", f"{ended.seconds:.0f}"))
    assert catchers, ended.output
