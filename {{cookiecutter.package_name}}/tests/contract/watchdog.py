"""Ends a run that hangs where no exception gets through, and says where it hangs.

pytest-timeout ends a test that hangs in Python with a signal, and the run goes on. Code in C that does not return to
the interpreter, perhaps without releasing its lock, ends only with the process: `faulthandler` sees to that from a
thread that needs no lock, and shows the stacks of all threads.
"""

import faulthandler
import os
from collections.abc import Generator

import pytest

GRACE = 5.0
"""Seconds that pytest-timeout has to end a test by itself."""

STDERR = pytest.StashKey[int]()
"""The standard error of the run, which is not captured."""


def pytest_configure(config: pytest.Config) -> None:
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is None:
        config.stash[STDERR] = os.dup(2)
        return
    with capture.global_and_fixture_disabled():
        config.stash[STDERR] = os.dup(2)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    marker = item.get_closest_marker("timeout")
    given = (
        marker.args[0] if marker and marker.args else item.config.getoption("timeout") or item.config.getini("timeout")
    )
    if seconds := float(given or 0):
        faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=item.config.stash[STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(tryfirst=True)
def pytest_enter_pdb() -> None:
    """Set no time limit for somebody who debugs a test."""
    faulthandler.cancel_dump_traceback_later()
