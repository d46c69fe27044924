"""Basic tests run before the rest, even where tests run side by side; where much fails, a run ends soon."""

import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from .nodes import ENOUGH, WAITED
from .selection import DECLARED, is_basic
from .server import READY_WITHIN

ENOUGH_SECONDS, ENOUGH_FAILURES = 20.0, 3
"""A run ends when this many tests have failed, or a basic one, and took this long: the rest would show nothing new."""

FAILURES = 10
"""The `--maxfail` of pyproject.toml; another one overrides this rule."""

_NOTES = pytest.StashKey[Path]()
"""The folder where all processes of a run note how basic tests have ended, and what has failed: an empty file each."""

_TROUBLE = "trouble"
"""The file there that says that no test reaches the broker."""

_BEGUN = pytest.StashKey[bool]()


class Note(NamedTuple):
    """How a test has ended."""

    place: int
    failed: bool
    seconds: float

    def write(self, folder: Path) -> None:
        (folder / f"{self.place} {self.failed:d} {self.seconds:.3f}").touch()

    @classmethod
    def read(cls, folder: Path) -> "list[Note]":
        words = (path.name.split() for path in folder.iterdir() if path.name != _TROUBLE)
        return [cls(int(place), failed == "1", float(seconds)) for place, failed, seconds in words]


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        config.stash[_NOTES] = Path(config.workerinput["notes"])
        return
    folder = tempfile.TemporaryDirectory()
    config.add_cleanup(folder.cleanup)
    config.stash[_NOTES] = Path(folder.name)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Show a process of xdist where the notes are."""
    node.workerinput["notes"] = str(node.config.stash[_NOTES])


def note_trouble(config: pytest.Config) -> None:
    """Have no test of the run try to reach the broker any more."""
    (config.stash[_NOTES] / _TROUBLE).touch()


def has_trouble(config: pytest.Config) -> bool:
    """Return whether some test has found that the broker cannot be reached."""
    return (config.stash[_NOTES] / _TROUBLE).exists()


def _wait_for_basics(session: pytest.Session, folder: Path) -> None:
    """Return when all basic tests are done, wherever they run, or no longer advance; hasten the rest if one failed."""
    basics = {place for place, item in enumerate(session.items) if is_basic(item)}
    notes: list[Note] = []
    latest = time.monotonic()
    while True:
        has_failed = any(note.failed for note in notes if note.place in basics)
        is_over = has_trouble(session.config) or basics <= {note.place for note in notes}
        if has_failed or is_over or time.monotonic() - latest > READY_WITHIN + 5:
            break
        time.sleep(0.02)
        before, notes = notes, Note.read(folder)
        latest = latest if len(notes) == len(before) else time.monotonic()
    if has_failed:
        _hasten(session.config, "a basic test")


def _hasten(config: pytest.Config, reason: str) -> None:
    config.stash[WAITED].extend([reason] * ENOUGH)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End the run when failing has taken long enough, unless it was asked for another number of failures."""
    session, config, folder = item.session, item.config, item.config.stash[_NOTES]
    if hasattr(config, "workerinput") and not is_basic(item) and not session.stash.get(_BEGUN, False):
        _wait_for_basics(session, folder)
        session.stash[_BEGUN] = True
    started, failed, waited = time.monotonic(), session.testsfailed, config.stash[WAITED]
    before = len(waited)
    if DECLARED in item.stash:  # it may well wait in vain: not for long, and the others have nothing to do with it
        _hasten(config, item.name)
    result = yield
    if DECLARED in item.stash:
        del waited[before:]
    has_failed = session.testsfailed > failed
    if has_failed or is_basic(item):
        Note(session.items.index(item), has_failed, time.monotonic() - started).write(folder)
    if has_failed and is_basic(item):  # the rest needs it, and would wait in vain
        _hasten(config, item.name)
    if config.option.maxfail == FAILURES:
        failures = [note for note in Note.read(folder) if note.failed]
        seconds = sum(note.seconds for note in failures)
        are_telling = len(failures) >= ENOUGH_FAILURES or any(is_basic(session.items[each.place]) for each in failures)
        if len(failures) >= FAILURES or (are_telling and seconds >= ENOUGH_SECONDS):
            count = "1 test" if len(failures) == 1 else f"{len(failures)} tests"
            session.shouldfail = f"{count} took {seconds:.0f} s to fail; --maxfail=0 runs them all anyway"
    return result
