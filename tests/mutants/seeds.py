"""What is run against each mutant, besides the decisions and the model: some seeds of the simulation.

mutmut finds the mutant that is to be used by the name of its module. So the copies of the pure modules that `pure` loads
bear the names of those that they are copies of.
"""

import sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType

import pure
import pytest
from hypothesis import settings
from simulation import trial
from simulation.run import kind_of
from simulation.subject import Subject

SEEDS = (44, 264, 254, 80, 114, 362, 25, 45, 398, 274, 174, 295, 4, 209, 206, 16)
"""Of the first 400, these are quick, and reach the most lines and branches together: the most new ones first."""

NAME = "mutated.contract"
CONTRACT = Path("src/mutated/contract").absolute()


class Namesake(SourceFileLoader):
    """Loads a copy of a module of the contract under any name, and gives it the name of the module."""

    def exec_module(self, module: ModuleType) -> None:
        code = self.get_code(module.__name__)
        assert code is not None
        module.__name__ = f"{NAME}.{module.__name__.rpartition('.')[2]}"
        exec(code, module.__dict__)


pure.CONTRACT = CONTRACT
sys.path_importer_cache[str(CONTRACT)] = FileFinder(str(CONTRACT), (Namesake, SOURCE_SUFFIXES))
trial.WATCHDOG = 10.0

import test_model  # noqa: E402  it loads the copies

test_model.COMMITTED = settings(test_model.COMMITTED, max_examples=50)


@pytest.fixture(scope="session")
def subject() -> Subject:
    return Subject(Path.cwd())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_holds(subject: Subject, seed: int) -> None:
    result = trial.run_seed(subject, seed, kind_of(seed))
    assert not result.faults
