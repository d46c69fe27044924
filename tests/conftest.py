"""The tables at the end of the run: how each preset keeps the contract, and which clauses caught which defect."""

import sys
import tempfile
from collections.abc import Iterator

import pytest

sys.dont_write_bytecode = True  # the tests import the machinery where it stands: what lies there is baked into projects

TABLES = {
    "preset": ("presets", ("preset", "server", "held", "not applicable", "seconds")),
    "defect": ("broken connectors", ("defect", "caught by", "seconds")),
    "fault": ("faulty transports", ("shape", "fault", "caught by", "seconds")),
}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the tests have recorded by `record_property`, a row each."""
    reports = [report for outcome in ("passed", "failed", "skipped") for report in terminalreporter.getreports(outcome)]
    for name, (title, heads) in TABLES.items():
        rows = [value for report in reports for key, value in report.user_properties if key == name]
        if rows:
            table = [heads, *([str(cell) for cell in row] for row in rows)]
            widths = [max(len(row[column]) for row in table) for column in range(len(heads))]
            terminalreporter.section(title)
            for row in table:
                line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
                terminalreporter.write_line(line.rstrip())


@pytest.fixture(scope="session", autouse=True)
def temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Removes what cookiecutter and others leave where temporary files are."""
    tmp_path_factory.getbasetemp()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield
