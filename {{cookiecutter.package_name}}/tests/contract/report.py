"""The results of the run: the table at the end, the files of `--report`, and the last line, which says what is next."""

import os
from collections.abc import Generator
from typing import Any

import pytest

from ..subject import BrokerTransport, Connector, contract
from . import conformance
from .blanks import TEST_URL, open_blanks
from .brief import Brief, mistake_in, said, told
from .clauses import CHAPTERS, CLAUSES, FIGURES
from .selection import DECLARED, asked_for, selected_by
from .server import Missing
from .verdicts import (
    EXCUSED,
    FAILS,
    FOR_BROKER,
    HOLDS,
    IN_PART,
    MISSING,
    NOT_APPLICABLE,
    NOT_RUN,
    SIMULATED,
    VERDICTS,
    WAITING,
    Results,
    next_step,
    verdict_of,
)

RESULTS = pytest.StashKey[Results]()
"""The results of the run so far, from its reports; with xdist, in the process that reads them."""

TROUBLE = pytest.StashKey[str]()
"""Why no test reaches the broker, in the process whose test has failed for that."""

BROKER = pytest.StashKey[str]()
"""Which broker the tests talk to; with xdist, in the process of the tests."""

_COLOURS = {
    HOLDS: "green",
    SIMULATED: "yellow",
    IN_PART: "yellow",
    EXCUSED: "cyan",
    NOT_RUN: "yellow",
    WAITING: "yellow",
    FAILS: "red",
}

_FOLDED = {NOT_RUN: "Not run", WAITING: "Waiting"}
"""Verdicts that come many at a time, each for the same reason as others; with the title of those."""


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESULTS] = Results(part=selected_by(config), asked=asked_for(config))
    config.pluginmanager.register(Recorder(config))
    if config.option.tbstyle == "auto":
        config.option.tbstyle = "native"  # is replaced by `in_brief`
        config.pluginmanager.register(Brief(config.rootpath))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Count as skipped tests without a server here, and tests that fail as declared."""
    report = yield
    error = call.excinfo.value if call.excinfo else None
    if isinstance(error, Missing):
        _skip(report, item, f"{MISSING}{error}")
    elif report.failed and DECLARED in item.stash:
        _skip(report, item, f"{NOT_APPLICABLE}{item.stash[DECLARED]}")
    elif error and str(error) == item.config.stash.get(TROUBLE, None):
        report.user_properties.append(("trouble", str(error)))
    elif report.failed and error:
        report.user_properties.append(("failure", (told(error) if mistake_in(error) else said(error))[:300]))
    return report


def _skip(report: pytest.TestReport, item: pytest.Item, reason: str) -> None:
    report.outcome = "skipped"
    report.longrepr = (str(item.path), item.location[1] or 0, f"Skipped: {reason}")
    report.sections = []


class Recorder:
    """Reads the reports of all tests, wherever they ran, and sums them up at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._results = config.stash[RESULTS]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        proof = self._results.proof(report.nodeid)
        for name, value in report.user_properties:
            text = str(value)
            if name == "clauses":
                proof.clauses = tuple(text.split())
            elif name == "simulated":
                proof.simulated = tuple(text.split())
            elif name == "real":
                proof.real = True
            elif name == "rank":
                proof.rank = int(text)
            elif name == "matters":
                proof.matters = tuple(text.split())
            elif name == "declared":
                proof.declared = text
            elif name == "excuse":
                proof.excuse = f"{NOT_APPLICABLE}{text}"
            elif name == "trouble":
                self._results.trouble = text
                proof.add("skipped", FOR_BROKER, report.duration)
                return
            elif name in FIGURES:
                self._results.figures[name] = float(text)
        proof.add(report.outcome, _reason(report), report.duration)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over, from a process of xdist, which broker it talked to."""
        self._results.broker = getattr(node, "workeroutput", {}).get("broker", "") or self._results.broker

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        used = self._config.stash.get(BROKER, "")
        if hasattr(self._config, "workerinput"):
            self._config.workeroutput["broker"] = used  # type: ignore[attr-defined]
            return
        self._results.broker = self._results.broker or used
        is_enough = os.environ.get(TEST_URL) and os.environ.get("REQUIRE_BROKERS") != "1"
        if self._results.missing() and not is_enough and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self._config.option.report:
            conformance.write(self._config.rootpath, self._results)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._config.option.clusters:
            return
        write_table(terminalreporter, self._results)
        if self._config.option.report:
            terminalreporter.write_line(f"Written: {', '.join(conformance.FILES)}")

    def pytest_unconfigure(self) -> None:
        is_silent = hasattr(self._config, "workerinput") or self._config.option.clusters
        if self._results.proofs and not is_silent:
            blank = next((f"{blank.name}, at {blank}" for blank in open_blanks()), "")
            print(next_step(self._results, blank, TEST_URL))


def _reason(report: pytest.TestReport) -> str:
    """Return in one line why a test was skipped, or what its failure says."""
    if report.outcome == "passed":
        return ""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(dict(report.user_properties).get("failure", "see above"))


def write_table(out: pytest.TerminalReporter, results: Results) -> None:
    """Write what holds, clause by clause, and which blanks are open."""
    verdicts = {clause: verdict_of(clause, results) for clause in CLAUSES}
    edition = f"the contract, version {Connector.contract_version}"
    out.section(f"{edition}, kept through {Connector.name} {results.broker}".rstrip())
    for letter, title in CHAPTERS.items():
        if known := [each for each in CLAUSES if each[0] == letter and verdicts[each].word not in _FOLDED]:
            out.write_line(title, bold=True)
            for clause in known:
                verdict = verdicts[clause]
                out.write(f"  {clause:<4}")
                out.write(f"{verdict.word:<18}", **{_COLOURS[verdict.word]: True})
                out.write_line(f"{CLAUSES[clause].text}{f' ({verdict.remark})' if verdict.remark else ''}")
    for word, title in _FOLDED.items():
        alike: dict[str, list[str]] = {}
        for clause, verdict in verdicts.items():
            if verdict.word == word:
                alike.setdefault(verdict.remark or "not selected", []).append(clause)
        if alike:
            out.write_line(title, **{_COLOURS[word]: True})
        for remark, clauses in sorted(alike.items(), key=lambda each: len(each[0])):
            out.write_line(f"  {remark}: {' '.join(clauses)}")
    counts = {word: sum(verdict.word == word for verdict in verdicts.values()) for word in VERDICTS}
    counted = [f"{count} {word}" for word, count in counts.items() if count or word == HOLDS]
    out.write_line(f"{len(CLAUSES)} clauses: {', '.join(counted)}", bold=True)
    if verdicts["R1"].word == FAILS and BrokerTransport.ping is contract.Transport.ping:
        out.write_line(
            "R1: the transport has no `ping`. Write one, a round trip to the broker, or see to it that the client's own "
            "keepalive notices silence within `heartbeat`."
        )
    if unwritten := open_blanks():
        out.section("the blanks that are open")
        for blank in unwritten:
            out.write_line(f"  {blank}  {blank.name}")
