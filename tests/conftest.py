"""The tables at the end of the run: how each preset keeps the contract, which clauses caught which defect, what hosts lose."""

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hosting import Package

sys.dont_write_bytecode = True  # the tests import the machinery where it stands: what lies there is baked into projects

collect_ignore = ["shapes/project"]  # runs in a project that is baked

TABLES = {
    "preset": ("presets", ("preset", "server", "held", "not applicable", "seconds")),
    "defect": ("broken connectors", ("defect", "caught by", "seconds")),
    "fault": ("faulty transports", ("shape", "fault", "caught by", "seconds")),
    "outage": (
        "hosts, while the broker is killed for 3 s",
        ("host", "broker", "back end", "the sender's server", "the other server", "told of losses"),
    ),
    "cost": (
        "what a message costs that is delivered",
        ("host", "back end", "ms of CPU", "times the connector's", "connections of a process"),
    ),
}


MATRIX = """# What the pack catches

Each line is a connector with one thing wrong: a patch of the machinery (`tests/defects`), or a fault of a transport in one
of four shapes (`tests/shapes`). The pack must be red on each of them, in a clause that says what is wrong. This page is
made by `tox run -e matrix`.

"""


HOSTS = """# Hosts on the connector, and on their own back ends

Two servers of each host run on one broker, each a process with a client, and all clients should receive what the first one
sends. The Redis back ends that hosts bring run beside the connector, on the same server. This page is made by
`tox run -e hosts`.

"""
OUTAGE = """## Through an outage

The client sends 300 messages, 50 a second. After one second the broker is killed; it is back after three more. The table
shows how many messages each server received.

"""
COST = """
## What a message costs

The client sends 400 messages, 400 a second, 25 times through each back end, with the back ends taking turns.
The table shows the median CPU time of both servers per message delivered to one client, and how many connections to the
broker a process holds.

"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--matrix", type=Path, help="write which clause has caught which defect into this file")
    parser.addoption("--hosts", type=Path, help="write what hosts have lost, and what a message costs, into this file")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the tests have recorded by `record_property`, a row each."""
    reports = [report for outcome in ("passed", "failed", "skipped") for report in terminalreporter.getreports(outcome)]
    found = {
        name: [
            [str(cell) for cell in value] for report in reports for key, value in report.user_properties if key == name
        ]
        for name in TABLES
    }
    for name, (title, heads) in TABLES.items():
        if found[name]:
            table = [list(heads), *found[name]]
            widths = [max(len(row[column]) for row in table) for column in range(len(heads))]
            terminalreporter.section(title)
            for row in table:
                line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
                terminalreporter.write_line(line.rstrip())
    if path := terminalreporter.config.option.matrix:
        path.write_text(MATRIX + matrix(found["defect"], found["fault"]), encoding="utf-8")
    if path := terminalreporter.config.option.hosts:
        outage, cost = (markdown([TABLES[name][1], *found[name]]) for name in ("outage", "cost"))
        path.write_text(HOSTS + OUTAGE + outage + COST + cost, encoding="utf-8")


def matrix(defects: list[list[str]], faults: list[list[str]]) -> str:
    """Return the page's tables: how many each clause has caught, the defects, and the faults by shape."""
    counts: Counter[str] = Counter()
    shapes = list(dict.fromkeys(shape for shape, *_ in faults))
    by_fault: dict[str, dict[str, str]] = {}
    for shape, fault, caught_by, _ in faults:
        by_fault.setdefault(fault, {})[shape] = caught_by
        counts.update(caught_by.split())
    for _, caught_by, _ in defects:
        counts.update(caught_by.split())
    of_clauses: list[tuple[str, ...]] = [
        ("clause", "caught"),
        *sorted(
            ((clause, str(count)) for clause, count in counts.items()), key=lambda row: (row[0][0], int(row[0][1:]))
        ),
    ]
    of_shapes: list[tuple[str, ...]] = [
        ("fault of a transport", *shapes),
        *((fault, *(caught.get(shape, "") for shape in shapes)) for fault, caught in by_fault.items()),
    ]
    of_machinery: list[tuple[str, ...]] = [
        ("defect of the machinery", "caught by"),
        *((name, caught_by) for name, caught_by, _ in defects),
    ]
    return "\n".join(markdown(table) for table in (of_clauses, of_machinery, of_shapes))


def markdown(table: Sequence[Sequence[str]]) -> str:
    """Return a table of which the first row is the head."""
    head, *rows = table
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, tuple("---" for _ in head), *rows))


@pytest.fixture(scope="session", autouse=True)
def temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Removes what cookiecutter and others leave where temporary files are."""
    tmp_path_factory.getbasetemp()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(scope="session")
def packages(temporary_folder: None) -> "Iterator[Mapping[str, Package]]":
    """Connectors that are baked, by preset, for hosts to stand on."""
    from hosting import BROKERS, Package

    with tempfile.TemporaryDirectory() as folder:
        yield {preset: Package(Path(folder), preset) for preset in BROKERS}


@pytest.fixture(scope="session")
def package(packages: "Mapping[str, Package]") -> "Package":
    """The connector for Redis."""
    return packages["redis"]


@pytest.fixture
def own_broker(package: "Package", tmp_path: Path) -> Iterator[Any]:
    """A broker that no other test uses, so that it may be killed."""
    with package.broker(tmp_path / "broker") as broker:
        yield broker
