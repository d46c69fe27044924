"""Failures in brief: what, and where in the project's own files."""

import gc
import inspect
import os
import re
import traceback
from collections.abc import Generator
from pathlib import Path

import pytest

from ..subject import BrokerTransport

PLACES, LINES = 6, 12
"""How much is shown of where an error came up, and of what it says."""

MISTAKES = (AttributeError, ImportError, LookupError, NameError, TypeError)
"""What wrong code raises, whatever the broker says."""

_YOURS = (Path(__file__).parent.parent, Path(inspect.getfile(BrokerTransport)).parent)
"""The folders of the contributor's files."""


def place_of(error: BaseException) -> str:
    """Return the last of the contributor's lines that an error has passed; an empty text if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [
        f"{os.path.relpath(frame.filename)}:{frame.lineno}" for frame in frames if Path(frame.filename).parent in _YOURS
    ]
    return places[-1] if places else ""


def said(error: BaseException) -> str:
    """Return in one line what an error says."""
    text = " ".join("".join(traceback.format_exception_only(error)).split())
    return shortened(text.removeprefix(f"{type(error).__module__}.").removeprefix("Failed: "))


def shortened(text: str) -> str:
    """Return a text in which no name is long."""
    return re.sub(r"'([^']{20})[^']{60,}'", lambda long: f"'{long[1]}…' ({len(long[0]) - 2} characters)", text)


def told(error: BaseException) -> str:
    """Return in one line what is wrong, and where in the contributor's files."""
    if mistake := mistake_in(error):
        return f"an error in {place_of(mistake)}: {said(mistake)}"
    place = place_of(error)
    return f"{said(error)} ({place})" if place else said(error)


def mistake_in(error: BaseException) -> BaseException | None:
    """Return the mistake in the contributor's files that has caused an error, if there is one."""
    cause: BaseException | None = error
    while cause and not (isinstance(cause, MISTAKES) and place_of(cause)):
        cause = cause.__cause__
    return cause


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
            brief = self.in_brief(mistake_in(call.excinfo.value) or call.excinfo.value)
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
        said = shortened("".join(traceback.format_exception_only(error))).splitlines()
        lines = [*places[-PLACES:], *said[:LINES]]
        inner = list(error.exceptions[:2]) if isinstance(error, BaseExceptionGroup) else []
        for cause in [*inner, *([error.__cause__] if error.__cause__ else [])]:
            lines += [f"  {line}" for line in self.in_brief(cause).splitlines()]
        return "\n".join(lines)
