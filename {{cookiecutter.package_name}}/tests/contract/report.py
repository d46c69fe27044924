"""Which tests wait for a blank, and the table at the end of every run: clause by clause, what holds."""

from collections import defaultdict
from collections.abc import Generator

import pytest

from ..broker import Broker
from ..subject import Connector
from .blanks import open_blanks
from .clauses import CHAPTERS, CLAUSES

WAITS = "waits for "
NOT_APPLICABLE = "not applicable: "

_outcomes: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
"""By clause: (outcome, reason) of each of its tests."""


def clauses_of(item: pytest.Item) -> list[str]:
    """Return the ids of the clauses that a test proves."""
    return [clause for marker in item.iter_markers("clause") for clause in marker.args]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    unwritten = {blank.name: blank for blank in open_blanks()}
    for item in items:
        clauses = clauses_of(item)
        needs = [need for clause in clauses for need in CLAUSES[clause].needs]
        needs += ["close"] if "wire" in getattr(item, "fixturenames", ()) else []
        if waits := [blank for name, blank in unwritten.items() if name in needs]:
            names = ", ".join(blank.name for blank in waits)
            item.add_marker(pytest.mark.skip(f"{WAITS}{names}"))
        elif reasons := [Broker.not_applicable[clause] for clause in clauses if clause in Broker.not_applicable]:
            item.add_marker(pytest.mark.skip(f"{NOT_APPLICABLE}{reasons[0]}"))
        if "close" in unwritten:  # what was left open may be noticed in any later test
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" or report.outcome != "passed":
        reason = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
        for clause in clauses_of(item):
            _outcomes[clause].append((report.outcome, reason))
    return report


def _verdict(clause: str) -> tuple[str, str]:
    """Return what the tests say of a clause, and what is to be said about it."""
    outcomes = _outcomes[clause]
    reasons = [reason for outcome, reason in outcomes if outcome == "skipped"]
    if not outcomes:
        return "not run", ""
    if any(outcome == "failed" for outcome, _ in outcomes):
        return "FAILS", ""
    for reason in reasons:
        if reason.startswith(WAITS):
            return "waits", f"for {reason.removeprefix(WAITS)}"
    if len(reasons) == len(outcomes):
        if reasons[0].startswith(NOT_APPLICABLE):
            return "not applicable", reasons[0].removeprefix(NOT_APPLICABLE)
        return "not run", reasons[0]
    return "holds", "; ".join(sorted({f"in part: {reason}" for reason in reasons}))


_COLOURS = {"holds": "green", "FAILS": "red", "waits": "yellow", "not applicable": "cyan", "not run": "yellow"}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    out = terminalreporter
    verdicts = {clause: _verdict(clause) for clause in CLAUSES}
    out.section(f"the contract, kept through {Connector.name} {Broker.used}".rstrip())
    for letter, title in CHAPTERS.items():
        out.write_line(title, bold=True)
        for clause in (each for each in CLAUSES if each[0] == letter):
            verdict, remark = verdicts[clause]
            out.write(f"  {clause:<4}")
            out.write(f"{verdict:<15}", **{_COLOURS[verdict]: True})
            out.write_line(f"{CLAUSES[clause].text}{f' ({remark})' if remark else ''}")
    counted = [f"{sum(each == verdict for each, _ in verdicts.values())} {verdict}" for verdict in _COLOURS]
    out.write_line(f"{len(CLAUSES)} clauses: {', '.join(counted)}", bold=True)
    if unwritten := open_blanks():
        out.section("the blanks that are open")
        for blank in unwritten:
            out.write_line(f"  {blank}  {blank.name}")
        out.write_line(f"Next: {unwritten[0].name}, at {unwritten[0]}. Then run this again.", bold=True)
