"""Failures in brief: what, and where in the project's own files."""

import gc
import traceback
from collections.abc import Generator
from pathlib import Path

import pytest

PLACES, LINES = 6, 12
"""How much is shown of where an error came up, and of what it says."""


class Brief:
    """Says what failed, and where in the project's own files, unless `--tb` asks for tracebacks."""

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
        if terminalreporter.stats.get("failed"):
            terminalreporter.write_line("Failures are shown in brief; --tb=long shows all.")

    def in_brief(self, error: BaseException) -> str:
        """Return where an error came up, as far as that is in the project, and what it and its causes say."""
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
