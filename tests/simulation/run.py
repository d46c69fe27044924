"""Runs many seeds on a baked project: `python -m simulation.run --help`."""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from .subject import Subject
from .trial import Result, run_seed

AT_A_TIME = 2000
"""Seeds that are handed to the workers at once."""

KINDS = ("loses", "loses", "loses", "keeps")

_subject: Subject


def kind_of(seed: int) -> str:
    """Return the kind of broker that a seed meets unless one is asked for."""
    return KINDS[seed % len(KINDS)]


def begin(project: str) -> None:
    """Load the package in a worker."""
    global _subject
    _subject = Subject(Path(project))


def work(job: tuple[int, str]) -> Result:
    """Run one seed in a worker."""
    return run_seed(_subject, *job)


def results(project: str, jobs: list[tuple[int, str]], workers: int) -> Iterator[Result]:
    """Run the seeds in their order, several at a time."""
    if workers == 1:
        begin(project)
        yield from map(work, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, begin, (project,)) as pool:
        for start in range(0, len(jobs), AT_A_TIME):
            yield from pool.map(work, jobs[start : start + AT_A_TIME], chunksize=10)


def main() -> int:
    words = arguments()
    with tempfile.TemporaryDirectory() as folder:
        project = words.project or baked(Path(folder))
        if words.seed is not None:
            subject = Subject(Path(project))
            outcome = run_seed(subject, words.seed, words.kind or kind_of(words.seed), full=words.trace)
            print(outcome.story or f"seed {outcome.seed} ({outcome.kind}): nothing found, {outcome.digest}")
            return bool(outcome.faults)
        return sweep(project, words)


def sweep(project: str, words: argparse.Namespace) -> int:
    """Run a range of seeds; print progress, the first story and the sums."""
    first, _, last = words.seeds.rpartition("-")
    seeds = range(int(first or 0), int(last) + (1 if first else 0))
    jobs = [(seed, words.kind or kind_of(seed)) for seed in seeds]
    sums: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    clauses: Counter[str] = Counter()
    failed: list[Result] = []
    began = time.monotonic()
    for done, result in enumerate(results(project, jobs, words.workers), 1):
        faults.update(result.planned)
        for name in ("messages", "deliveries", "lost", "repaired", "seconds"):
            sums[name] += getattr(result, name)
        if result.faults:
            failed.append(result)
            clauses.update({fault.partition(":")[0] for fault in result.faults})
            if len(failed) <= words.stories:
                print(result.story, end="\n\n", flush=True)
        if done % 1000 == 0:
            print(f"{done} seeds, {len(failed)} failed, {time.monotonic() - began:.0f} s", flush=True)
        if len(failed) >= words.stop:
            break
    took = time.monotonic() - began
    print("faults: " + ", ".join(f"{name} {count}" for name, count in sorted(faults.items())))
    print(
        f"seeds {done}, messages {sums['messages']}, deliveries {sums['deliveries']}, repaired {sums['repaired']}, "
        f"reported as lost {sums['lost']}, virtual hours {sums['seconds'] / 3600:.1f}, "
        f"seconds {took:.0f}, seeds a second {done / took:.1f}"
    )
    if failed:
        print("failed: " + " ".join(f"{result.seed}/{result.kind}" for result in failed[:40]))
        print("by clause: " + ", ".join(f"{name} {count}" for name, count in clauses.most_common()))
    else:
        print("all seeds hold")
    return bool(failed)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("--project", help="the folder of a baked project; without it the blank preset is baked")
    parser.add_argument("--seeds", default="1000", help="how many, or a range such as 500-799 (default: 1000)")
    parser.add_argument("--seed", type=int, help="this one only, with its story")
    parser.add_argument("--trace", action="store_true", help="with --seed: everything that happened")
    parser.add_argument("--kind", choices=("loses", "keeps"), help="the broker (default: in turn)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--stories", type=int, default=1, help="stories of failing seeds that are printed (default: 1)")
    parser.add_argument("--stop", type=int, default=10**9, help="stop after so many failing seeds")
    return parser.parse_args()


def baked(folder: Path) -> str:
    """Bake the blank preset."""
    from baking import bake

    return str(bake(folder, preset="blank"))


if __name__ == "__main__":
    sys.exit(main())
