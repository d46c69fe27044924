"""Which tests wait for a blank, what failed in few lines, and the table at the end: clause by clause, what holds."""

import gc
import traceback
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest

from ..broker import Broker
from ..subject import BrokerTransport, Connector, contract
from .blanks import open_blanks
from .clauses import CHAPTERS, CLAUSES

WAITS = "waits for "
NOT_APPLICABLE = "not applicable: "

PLACES, LINES = 6, 12
"""How much is shown of where an error came up, and of what it says."""

_outcomes: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
"""By clause: (outcome, reason) of each of its tests."""


def clauses_of(item: pytest.Item) -> list[str]:
    """Return the ids of the clauses that a test proves."""
    return [clause for marker in item.iter_markers("clause") for clause in marker.args]


def pytest_configure(config: pytest.Config) -> None:
    if config.option.tbstyle == "auto":
        config.option.tbstyle = "native"  # is replaced by `in_brief`
        config.pluginmanager.register(Brief(config.rootpath))
    if any(blank.name == "close" for blank in open_blanks()):  # what is left open may be noticed at any later time
        for warning in ("ResourceWarning", "pytest.PytestUnraisableExceptionWarning"):
            config.addinivalue_line("filterwarnings", f"ignore::{warning}")


class Brief:
    """Says of each failure what, and where in the project's own files, unless tracebacks are asked for by `--tb`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._told: dict[str, str] = {}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        gc.disable()  # a finalizer that parses meanwhile, to show a warning, breaks the parser of CPython 3.11 (gh-106905)
        try:
            report = yield
        finally:
            gc.enable()
        if report.failed and call.excinfo and getattr(call.excinfo.value, "pytrace", True):
            brief = self.in_brief(call.excinfo.value)
            first = self._told.setdefault(brief, item.name)
            report.longrepr = brief if first == item.name else f"{brief.splitlines()[-1]}\nas in {first}"
            report.sections = [(name, "\n".join(text.splitlines()[-LINES:])) for name, text in report.sections]
        return report

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._told:
            terminalreporter.write_line("Each failure is told in brief; with --tb=long all of it is shown.")

    def in_brief(self, error: BaseException) -> str:
        """Return where an error came up, as far as that is in the project, and what it says, also of its causes."""
        places = [
            f"{Path(frame.filename).relative_to(self._root)}:{frame.lineno} in {frame.name}: {frame.line}"
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).is_relative_to(self._root) and "site-packages" not in frame.filename
        ]
        said = "".join(traceback.format_exception_only(error)).splitlines()
        lines = [*places[-PLACES:], *said[:LINES]]
        inner = list(error.exceptions[:2]) if isinstance(error, BaseExceptionGroup) else []
        for cause in [*inner, *([error.__cause__] if error.__cause__ else [])]:
            lines += [f"  {line}" for line in self.in_brief(cause).splitlines()]
        return "\n".join(lines)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    unwritten = {blank.name: blank for blank in open_blanks()}
    for item in items:
        clauses = clauses_of(item)
        needs = [need for clause in clauses for need in CLAUSES[clause].needs]
        needs += ["close"] if "wire" in getattr(item, "fixturenames", ()) else []
        callspec = getattr(item, "callspec", None)
        needs += callspec.params.values() if callspec else []
        if waits := [blank for name, blank in unwritten.items() if name in needs]:
            names = ", ".join(blank.name for blank in waits)
            item.add_marker(pytest.mark.skip(f"{WAITS}{names}"))
        elif reasons := [Broker.not_applicable[key] for key in (*clauses, item.name) if key in Broker.not_applicable]:
            item.add_marker(pytest.mark.skip(f"{NOT_APPLICABLE}{reasons[0]}"))


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
    edition = f"the contract, version {Connector.contract_version}"
    out.section(f"{edition}, kept through {Connector.name} {Broker.used}".rstrip())
    for letter, title in CHAPTERS.items():
        out.write_line(title, bold=True)
        for clause in (each for each in CLAUSES if each[0] == letter):
            verdict, remark = verdicts[clause]
            out.write(f"  {clause:<4}")
            out.write(f"{verdict:<15}", **{_COLOURS[verdict]: True})
            out.write_line(f"{CLAUSES[clause].text}{f' ({remark})' if remark else ''}")
    counted = [f"{sum(each == verdict for each, _ in verdicts.values())} {verdict}" for verdict in _COLOURS]
    out.write_line(f"{len(CLAUSES)} clauses: {', '.join(counted)}", bold=True)
    if verdicts["R1"][0] == "FAILS" and BrokerTransport.ping is contract.Transport.ping:
        out.write_line(
            "R1: the transport has no `ping`. Write one, a round trip to the broker, or see to it that the client's own "
            "keepalive notices silence within `heartbeat`."
        )
    if unwritten := open_blanks():
        out.section("the blanks that are open")
        for blank in unwritten:
            out.write_line(f"  {blank}  {blank.name}")


def pytest_unconfigure() -> None:
    if unwritten := open_blanks():
        print(f"Next: {unwritten[0].name}, at {unwritten[0]}. Then run this again.")
