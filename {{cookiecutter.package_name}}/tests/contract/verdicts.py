"""What the tests of a run say about each clause and level: plain data, without pytest."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from .clauses import CLAUSES, LEVELS, MATTERS, Level

WAITS = "waits for "
NOT_APPLICABLE = "not applicable: "
MISSING = "missing: "
"""The beginning of the reason why a test was skipped."""

FOR_BROKER = f"{WAITS}the broker"

HOLDS, SIMULATED, IN_PART = "holds", "holds (simulated)", "in part"
EXCUSED, NOT_RUN, WAITING, FAILS = "not applicable", "not run", "waits", "FAILS"
VERDICTS = (HOLDS, SIMULATED, IN_PART, EXCUSED, NOT_RUN, WAITING, FAILS)

BLANKS = "test_every_blank_is_filled_in"
"""Its failure says no more than which blank is next."""

_RANK = ("passed", "skipped", "failed")


@dataclass
class Proof:
    """The result of one test."""

    test: str
    clauses: tuple[str, ...] = ()
    simulated: tuple[str, ...] = ()
    """The clauses for which a transport that misbehaves on purpose simulates the broker."""
    real: bool = False
    """Whether it is a test of this broker, which proves what others can only simulate."""
    matters: tuple[str, ...] = ()
    """Which of `MATTERS` it proves."""
    rank: int = 0
    """Its place among the groups of tests: what others rest on has a lower one."""
    declared: str = ""
    """The key in `Broker.not_applicable` that excuses it, if it was run anyway."""
    excuse: str = ""
    """The reason that is given there."""
    outcome: str = "passed"
    reason: str = ""
    seconds: float = 0.0

    def add(self, outcome: str, reason: str, seconds: float) -> None:
        """Take in the result of one phase of the test: the worst counts."""
        self.seconds += seconds
        if _RANK.index(outcome) > _RANK.index(self.outcome):
            self.outcome, self.reason = outcome, reason


@dataclass
class Results:
    """The results of a run."""

    proofs: dict[str, Proof] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    broker: str = ""
    """Which broker the tests talked to."""
    part: str = ""
    """The option that selected a part of the tests, if any."""
    trouble: str = ""
    """Why no test reaches the broker, if that is so."""
    asked: frozenset[str] = frozenset()
    """The clauses whose tests were all selected, if only a part was."""

    def proof(self, test: str) -> Proof:
        """Return the proof of a test, which is created when it is first needed."""
        return self.proofs.setdefault(test, Proof(test))

    def missing(self) -> list[str]:
        """Return what is not on this machine, each thing once."""
        reasons = [proof.reason for proof in self.proofs.values() if proof.reason.startswith(MISSING)]
        return list(dict.fromkeys(reason.removeprefix(MISSING) for reason in reasons))

    def failed(self) -> list[Proof]:
        """Return the failed tests: those that others rest on first, and those that waited in vain last."""
        failed = [proof for proof in self.proofs.values() if proof.outcome == "failed"]
        return sorted(failed, key=lambda proof: (proof.rank, proof.reason.startswith("waited ")))

    def needless(self) -> list[str]:
        """Return the keys of `Broker.not_applicable` whose tests all pass; a simulation proves nothing here."""
        by_key: dict[str, list[Proof]] = {}
        for proof in self.proofs.values():
            if proof.declared:
                by_key.setdefault(proof.declared, []).append(proof)
        return [
            key
            for key, proofs in by_key.items()
            if all(proof.outcome == "passed" for proof in proofs)
            and (any(proof.real for proof in proofs) or not any(proof.simulated for proof in proofs))
        ]


class Verdict(NamedTuple):
    """The verdict on a clause."""

    word: str
    """One of `VERDICTS`."""
    remark: str = ""
    tests: int = 0
    seconds: float = 0.0
    counts: bool = False
    """Whether a level may rest on it: all of it is proved, except what cannot apply."""


def verdict_of(clause: str, results: Results) -> Verdict:
    """Return what the tests say about a clause."""
    proofs = [proof for proof in results.proofs.values() if clause in proof.clauses]
    needless = [
        f"{key} is declared not applicable, but it worked: remove it from Broker.not_applicable, unless it passed by chance"
        for key in results.needless()
        if any(proof.declared == key for proof in proofs)
    ]
    word, remark, counts = _judge(clause, proofs, set(results.needless()))
    if word in (HOLDS, SIMULATED) and results.part and clause not in results.asked:
        simulated = "simulated; " if word == SIMULATED else ""
        word, remark, counts = IN_PART, f"{simulated}not all of its tests were selected", False
    remark = "; ".join(filter(None, [remark, *needless]))
    return Verdict(word, remark, len(proofs), sum(proof.seconds for proof in proofs), counts)


def _judge(clause: str, proofs: list[Proof], needless: set[str]) -> tuple[str, str, bool]:
    """Return the word, the remark, and whether a level may rest on it."""
    excused = [proof for proof in proofs if proof.declared and proof.declared not in needless]
    left = [proof for proof in proofs if proof not in excused and proof.outcome == "skipped"]
    passed = [proof for proof in proofs if proof not in excused and proof.outcome == "passed"]
    if any(proof.outcome == "failed" for proof in proofs if proof not in excused):
        return FAILS, "", False
    if waiting := [proof.reason for proof in left if proof.reason.startswith(WAITS)]:
        return WAITING, f"for {waiting[0].removeprefix(WAITS)}", False
    reasons = [proof.reason or proof.excuse for proof in (*excused, *left)]
    unproved = [reason for reason in reasons if not reason.startswith(NOT_APPLICABLE)]
    if not passed and not reasons:
        return NOT_RUN, "", False
    if not passed:
        first = (unproved or reasons)[0]
        return (NOT_RUN if unproved else EXCUSED), _plain(first), not unproved
    simulated = any(clause in proof.simulated for proof in passed) and not any(proof.real for proof in passed)
    if reasons:
        counted = f"{len(passed)} of {len(proofs)} tests{', simulated' if simulated else ''}"
        return IN_PART, f"{counted}; {'; '.join(dict.fromkeys(map(_plain, reasons)))}", not unproved
    return (SIMULATED if simulated else HOLDS), "", True


def _plain(reason: str) -> str:
    """Return a reason as the table has it; the last line says how to get what is missing."""
    if reason.startswith(MISSING):
        return reason.removeprefix(MISSING).partition(": ")[0]
    return reason.removeprefix(NOT_APPLICABLE)


class Reached(NamedTuple):
    """Whether a connector is on a level, and what keeps it from there."""

    level: Level
    is_reached: bool
    lacking: tuple[str, ...]


def levels_of(results: Results) -> list[Reached]:
    """Return how far the connector has come: a level is reached when the ones below are, and all of its own holds."""
    reached: list[Reached] = []
    for level in LEVELS:
        lacking = [each.level.name for each in reached[-1:] if not each.is_reached]
        lacking += [clause for clause in level.clauses if not verdict_of(clause, results).counts]
        lacking += [
            f"{clause} on a real broker" for clause in level.real if verdict_of(clause, results).word == SIMULATED
        ]
        lacking += [name for name in level.figures if name not in results.figures]
        lacking += [matter for matter in level.matters if not _is_proved(matter, results.proofs.values())]
        reached.append(Reached(level, not lacking, tuple(lacking)))
    return reached


def _is_proved(matter: str, proofs: Iterable[Proof]) -> bool:
    outcomes = {proof.outcome for proof in proofs if matter in proof.matters}
    return "passed" in outcomes and "failed" not in outcomes


def next_step(results: Results, blank: str, how_else: str) -> str:
    """Return what to do next; `blank` is the first one that is open, `how_else` how to name a broker instead."""
    failed = [proof for proof in results.failed() if not proof.test.endswith(f"::{BLANKS}")]
    if (missing := results.missing()) and not results.broker:
        return f"Next: there is no broker to test with: {missing[0]}; or set {how_else}."
    if results.trouble:
        return f"Next: {results.trouble.splitlines()[0]}"
    if blank:
        so_far = f" So far {failed[0].test} fails, see above." if failed else ""
        return f"Next: {blank}. Then run this again.{so_far}"
    if failed:
        return f"Next: {failed[0].reason.removesuffix('.')}, in {failed[0].test}."
    if needless := results.needless():
        return (
            f"Next: {needless[0]} is declared not applicable in tests/broker.py, but it worked: remove it from "
            "Broker.not_applicable, unless it passed by chance."
        )
    words = {clause: verdict_of(clause, results).word for clause in CLAUSES}
    if missing:
        return f"Next: a server is missing for some tests: {missing[0]}."
    if results.part:
        ran = sum(word != NOT_RUN for word in words.values())
        return f"Next: only a part of the pack ran ({results.part}; {ran} of {len(CLAUSES)} clauses). Run all: tox run."
    if words["E3"] == SIMULATED:
        return "Next: prove a refusal of your broker: tests/test_broker.py, 10 lines, as the docstring there shows."
    if simulated := [clause for clause, word in words.items() if word == SIMULATED]:
        return f"Next: prove {', '.join(simulated)} on your broker, in tests/test_broker.py."
    if lost := [clause for clause, word in words.items() if word == NOT_RUN]:
        return f"Next: see why nothing proves {', '.join(lost)}."
    if not results.figures:
        return "Next: tox run -e report writes CONFORMANCE.md: attach it to your contribution."
    top = levels_of(results)[-1]
    if top.is_reached:
        return "Next: attach CONFORMANCE.md to your contribution."
    shown = "; ".join(MATTERS.get(each, each) for each in top.lacking)
    return f"Next: attach CONFORMANCE.md to your contribution. What it lacks for {top.level.name}: {shown}."
