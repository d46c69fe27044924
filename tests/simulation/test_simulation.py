"""The machinery holds in 300 simulated runs, and a seed is a run: the same one, whenever and wherever it is run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from baking import bake

from .run import kind_of
from .subject import Subject
from .trial import run_seed

SEEDS = 300
BATCH = 50
SAMPLE = (0, 3, 7, 8, 13)

DIGEST = """
import sys
from pathlib import Path
from simulation.run import kind_of
from simulation.subject import Subject
from simulation.trial import run_seed
subject = Subject(Path(sys.argv[1]))
print(*(run_seed(subject, int(seed), kind_of(int(seed))).digest for seed in sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bake(tmp_path_factory.mktemp("simulated"), preset="blank")


@pytest.fixture(scope="module")
def subject(project: Path) -> Subject:
    return Subject(project)


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_runs_hold(subject: Subject, first: int) -> None:
    stories = [run_seed(subject, seed, kind_of(seed)).story for seed in range(first, first + BATCH)]
    assert not any(stories), "\n\n".join(story for story in stories if story)


def test_a_seed_gives_the_same_run_again(subject: Subject) -> None:
    digests = [[run_seed(subject, seed, kind_of(seed)).digest for seed in SAMPLE] for _ in range(2)]
    assert digests[0] == digests[1]


def test_a_seed_gives_the_same_run_in_another_process(subject: Subject, project: Path) -> None:
    here = [run_seed(subject, seed, kind_of(seed)).digest for seed in SAMPLE]
    for hash_seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", DIGEST, str(project), *map(str, SAMPLE)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
            check=True,
        )
        assert there.stdout.split() == here
