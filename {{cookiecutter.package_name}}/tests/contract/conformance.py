"""The report of a connector: what a contributor attaches, and a reviewer reads in a minute."""

import json
import platform
import re
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path

from ..broker import Broker
from ..subject import Connector
from .badge import badge
from .clauses import CHAPTERS, CLAUSES, FIGURES, MATTERS
from .verdicts import SIMULATED, Results, levels_of, verdict_of

FILES = ("CONFORMANCE.md", "conformance.json", "conformance.svg")


@dataclass(frozen=True)
class ClauseLine:
    """The verdict on one clause."""

    id: str
    text: str
    verdict: str
    remark: str
    tests: int
    seconds: float


@dataclass(frozen=True)
class LevelLine:
    """Whether one level is reached, and what is lacking."""

    name: str
    text: str
    reached: bool
    lacking: tuple[str, ...]


@dataclass(frozen=True)
class FigureLine:
    """One thing that was measured; without a value, it could not be."""

    name: str
    text: str
    unit: str
    value: float | None


@dataclass(frozen=True)
class Conformance:
    """All that the report says. `conformance.schema.json`, beside this module, describes it as JSON."""

    connector: str
    package: str
    version: str
    contract_version: str
    broker: str
    clients: dict[str, str]
    platform: str
    python: str
    date: str
    levels: tuple[LevelLine, ...]
    clauses: tuple[ClauseLine, ...]
    exceptions: dict[str, str]
    needless_exceptions: tuple[str, ...]
    simulated: tuple[str, ...]
    production: tuple[str, ...]
    figures: tuple[FigureLine, ...]
    part: str
    """The option that selected a part of the tests; empty when all of them ran."""

    def reached(self) -> str:
        """Return the name of the highest level that is reached; an empty text if there is none."""
        return next((level.name for level in reversed(self.levels) if level.reached), "")


def write(folder: Path, results: Results) -> None:
    """Write the report in all its forms into a folder."""
    report = gather(results)
    for name, text in zip(FILES, (markdown(report), as_json(report), badge_of(report)), strict=True):
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def gather(results: Results) -> Conformance:
    """Return the results of a run, and where it ran."""
    verdicts = {clause: verdict_of(clause, results) for clause in CLAUSES}
    package = Connector.__module__.partition(".")[0]
    return Conformance(
        connector=Connector.name,
        package=package,
        version=Connector.version,
        contract_version=Connector.contract_version,
        broker=results.broker.removeprefix("on ").strip() or "none",
        clients=_clients(package),
        platform=platform.platform(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        levels=tuple(
            LevelLine(each.level.name, each.level.text, each.is_reached, each.lacking) for each in levels_of(results)
        ),
        clauses=tuple(
            ClauseLine(clause, CLAUSES[clause].text, each.word, each.remark, each.tests, round(each.seconds, 2))
            for clause, each in verdicts.items()
        ),
        exceptions=dict(Broker.not_applicable),
        needless_exceptions=tuple(results.needless()),
        simulated=tuple(
            clause for clause, each in verdicts.items() if each.word == SIMULATED or "simulated" in each.remark
        ),
        production=tuple(
            matter
            for matter in MATTERS
            if any(matter in proof.matters and proof.outcome == "passed" for proof in results.proofs.values())
        ),
        figures=tuple(FigureLine(name, *words, results.figures.get(name)) for name, words in FIGURES.items()),
        part=results.part,
    )


def _clients(package: str) -> dict[str, str]:
    """Return the versions of the package's own dependencies: the client of the broker, and the rest."""
    found: dict[str, str] = {}
    points = [point for point in entry_points(group="deepstream.msg") if point.module == package]
    for point in points[:1]:
        for requirement in (point.dist and point.dist.requires) or ():
            name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                continue
    return found


def as_json(report: Conformance) -> str:
    """Return the report as `conformance.schema.json` describes it."""
    return json.dumps(asdict(report), indent=2, ensure_ascii=False) + "\n"


def badge_of(report: Conformance) -> str:
    """Return the highest level as a badge."""
    return badge(f"connector contract {report.contract_version}", report.reached() or "not there yet")


def markdown(report: Conformance) -> str:
    """Return the report as a page: levels first, then figures, exceptions, and each clause."""
    clients = ", ".join(f"{name} {number}" for name, number in report.clients.items())
    facts = {
        "connector": f"{report.connector}, {report.package} {report.version}",
        "broker": report.broker,
        "clients": clients or "unknown: the package is not installed",
        "platform": f"{report.platform}, {report.python}",
        "date": report.date,
    }
    lines = [f"# {plain(report.connector)}: conformance to the connector contract {plain(report.contract_version)}", ""]
    if report.part:
        lines += [f"**A part of the tests only: {plain(report.part)}.**", ""]
    lines += _table(["level", "reached", "lacking"], [_level(level) for level in report.levels])
    lines += _table(["what", "which"], [[name, plain(text)] for name, text in facts.items()])
    lines += ["## Figures", ""]
    lines += _table(["figure", "median"], [[plain(each.text), _amount(each)] for each in report.figures])
    lines += ["## Exceptions", ""]
    exceptions = [
        f"- `{key}`: {plain(reason)}{' **In this run it worked all the same.**' if key in report.needless_exceptions else ''}"
        for key, reason in report.exceptions.items()
    ]
    lines += [*(exceptions or ["None is declared."]), "", "## Simulated", ""]
    told = f"Only a transport that was made to misbehave proves this: {', '.join(report.simulated)}."
    lines += [told if report.simulated else "Nothing: all was proved on the broker.", ""]
    words = Counter(each.verdict for each in report.clauses)
    lines += ["## Clauses", "", "; ".join(f"{count} {word}" for word, count in words.items()) + ".", ""]
    for letter, title in CHAPTERS.items():
        rows = [
            [
                each.id,
                _bold(each.verdict),
                plain(each.text + (f" ({each.remark})" if each.remark else "")),
                str(each.tests),
                f"{each.seconds:.1f}",
            ]
            for each in report.clauses
            if each.id[0] == letter
        ]
        lines += [f"### {title}", "", *_table(["clause", "verdict", "what it says", "tests", "seconds"], rows)]
    return "\n".join(lines).rstrip() + "\n"


def _level(level: LevelLine) -> list[str]:
    lacking = "; ".join(MATTERS.get(each, each) for each in level.lacking)
    return [f"**{level.name}**: {level.text}", "yes" if level.reached else "no", plain(lacking) or "nothing"]


def _bold(verdict: str) -> str:
    return plain(verdict) if verdict == "holds" else f"**{plain(verdict)}**"


def _amount(figure: FigureLine) -> str:
    if figure.value is None:
        return "not measured"
    digits = 0 if figure.value >= 100 else 2
    return f"{figure.value:,.{digits}f} {figure.unit}"


def _table(heads: list[str], rows: list[list[str]]) -> list[str]:
    return [*(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)), ""]


def plain(text: str) -> str:
    """Return text that Markdown shows as it is, in one line."""
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", " ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;")
