"""Each broken connector is caught by the pack, by a clause that says what is wrong with it."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from baking import FROM_SOURCE, bake, provision, run, verdicts
from broken import DEFECTS, Defect

CHAPTERS = {
    "L": "lifecycle",
    "M": "messaging",
    "S": "serialisation",
    "E": "errors",
    "R": "recovery",
    "T": "throughput",
}
NAMED = {defect.name: defect for defect in DEFECTS}
AT_A_TIME = 4
"""How many packs run at a time; each waits more than it works."""

HASTE = ("tests/contract/nodes.py", "PATIENCE = 20.0", "PATIENCE = 6.0")
"""What comes at all comes soon."""


class Ended(NamedTuple):
    """How the pack ended."""

    code: int
    output: str
    seconds: float


class Project(NamedTuple):
    """A baked project, and the Python of an environment with all that its pack needs."""

    folder: Path
    python: Path

    def run_pack(self, *edits: tuple[str, str, str], chapters: str) -> Ended:
        """Run some chapters of the pack on a copy with these edits, up to the first failure."""
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as home:
            copy = shutil.copytree(self.folder, Path(home) / self.folder.name)
            for module, old, new in (*edits, HASTE):
                file = copy / module
                text = file.read_text(encoding="utf-8")
                assert text.count(old) == 1, f"{module} holds {text.count(old)} times: {old}"
                file.write_text(text.replace(old, new), encoding="utf-8")
            tests = [f"tests/contract/test_{CHAPTERS[letter]}.py" for letter in dict.fromkeys(chapters)]
            command = ["-m", "pytest", "-x", "--timeout", "30", *tests, "tests/test_broker.py"]
            ended = run(self.python, *command, cwd=copy, environment=FROM_SOURCE, timeout=180)
        return Ended(ended.returncode, ended.stdout, time.monotonic() - started)


@pytest.fixture(scope="session")
def project() -> Iterator[Project]:
    """The Redis connector, baked, and installed where the pack runs."""
    with tempfile.TemporaryDirectory() as home:
        folder = bake(Path(home), preset="redis", package_name="broken_connector")
        yield Project(folder, provision(folder, Path(home) / "tox") / "python")


@pytest.fixture(scope="session")
def runs(request: pytest.FixtureRequest, project: Project) -> Iterator[dict[str, "Future[Ended]"]]:
    """By defect: the run of the pack, several at a time, of those that are asked for."""
    wanted = {item.name.partition("[")[2].removesuffix("]") for item in request.session.items}
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield {name: pool.submit(run_on, project, NAMED[name]) for name in NAMED if name in wanted}
        pool.shutdown(wait=True, cancel_futures=True)


def run_on(project: Project, defect: Defect) -> Ended:
    """Run the chapters of the clauses that are to catch a defect."""
    package = f"src/{project.folder.name}"
    edits = [(f"{package}/{edit.module}", edit.old, edit.new) for edit in defect.edits]
    return project.run_pack(*edits, chapters="".join(clause[0] for clause in defect.clauses.split()))


@pytest.mark.parametrize("name", NAMED)
def test_the_pack_catches(
    name: str, runs: dict[str, "Future[Ended]"], record_property: Callable[[str, object], None]
) -> None:
    ended = runs[name].result()
    failing = [clause for clause, verdict in verdicts(ended.output).items() if verdict == "FAILS"]
    record_property("defect", (name, " ".join(failing) or "nothing", f"{ended.seconds:.0f}"))
    assert ended.code == 1, ended.output
    assert set(failing) & set(NAMED[name].clauses.split()), ended.output
