"""Each fault that a transport can have is caught by the pack, in each shape of transport that can have it."""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from baking import FROM_SOURCE, provision, run, verdicts
from catching import AT_A_TIME, PYTEST, Ended, failed, run_pack

HERE = Path(__file__).parent / "shapes"
sys.path.append(str(HERE))

from catalogue import FAULTS, Fault, of  # noqa: E402
from laying import lay  # noqa: E402
from names import SHAPES  # noqa: E402

CASES = {f"{shape}: {fault.name}": (shape, fault) for shape in SHAPES for fault in of(shape)}


class Projects:
    """A sound project of each shape, and the Python of an environment with all they need."""

    def __init__(self, home: Path) -> None:
        self._folders = {shape: lay(home, shape) for shape in SHAPES}
        self._python = provision(self._folders["one"], home / "tox") / "python"

    def run_sound(self, shape: str) -> str:
        """Run the whole pack of a shape; return what it prints."""
        with tempfile.TemporaryDirectory() as home:
            copy = shutil.copytree(self._folders[shape], Path(home) / "copy")
            return run(self._python, *PYTEST, cwd=copy, environment=FROM_SOURCE).stdout

    def run(self, shape: str, fault: Fault) -> Ended:
        """Run what is to catch a fault, up to the first failure."""
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as home:
            copy = shutil.copytree(self._folders[shape], Path(home) / "copy")
            environment = {"PYTHONPATH": str(HERE), "SHAPE": shape, "FAULT": fault.name}
            code, output = run_pack(self._python, copy, fault.caught_by, ("faulty",), environment)
        return Ended(code, output, time.monotonic() - started)


@pytest.fixture(scope="session")
def projects() -> Iterator[Projects]:
    with tempfile.TemporaryDirectory() as home:
        yield Projects(Path(home))


@pytest.fixture(scope="session")
def runs(request: pytest.FixtureRequest, projects: Projects) -> Iterator[dict[str, "Future[Ended]"]]:
    """By case: its run, several at a time, of those that are asked for."""
    wanted = {item.name.partition("[")[2].removesuffix("]") for item in request.session.items}
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield {name: pool.submit(projects.run, *case) for name, case in CASES.items() if name in wanted}
        pool.shutdown(wait=True, cancel_futures=True)


def test_each_shape_has_enough_faults_and_each_has_one_name() -> None:
    assert all(len(of(shape)) >= 15 for shape in SHAPES)
    assert len(CASES) == sum(len(fault.shapes) for fault in FAULTS)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_sound_one_is_green(shape: str, projects: Projects) -> None:
    output = projects.run_sound(shape)
    assert set(verdicts(output).values()) == {"holds"}, output


@pytest.mark.parametrize("name", CASES)
def test_a_fault_is_caught(
    name: str, runs: dict[str, "Future[Ended]"], record_property: Callable[[str, object], None]
) -> None:
    shape, fault = CASES[name]
    ended = runs[name].result()
    catchers = failed(fault.caught_by, ended.output) if ended.code == 1 else []
    record_property("fault", (shape, fault.name, " ".join(catchers) or "nothing", f"{ended.seconds:.0f}"))
    assert catchers, ended.output
