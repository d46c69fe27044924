"""Bakes a project from the template, as a user would, without touching the user's own configuration; and runs it."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cookiecutter.main import cookiecutter

ROOT = Path(__file__).resolve().parents[1]

QUESTIONS: dict[str, Any] = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
PRESETS: list[str] = QUESTIONS["preset"]
FILLED = [preset for preset in PRESETS if preset != "blank"]

FROM_SOURCE = {"PYTHONPATH": "src", "PYTHONDONTWRITEBYTECODE": "1"}
"""The environment in which a project's tests run on its source, whatever is installed."""

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

_OURS = re.compile("TOX_|PYTEST_|COV_|VIRTUAL_ENV|PYTHONPATH|PYTHONHOME")


def bake(folder: Path, **answers: str) -> Path:
    """Bake into the folder with these answers, the defaults for all others; returns where the project is."""
    with tempfile.TemporaryDirectory() as home:
        config = str(own_config(Path(home)))
        project = cookiecutter(
            str(ROOT), no_input=True, extra_context=answers, output_dir=str(folder), config_file=config
        )
    return Path(project)


def own_config(home: Path) -> Path:
    """A configuration for cookiecutter that keeps whatever it writes in this folder."""
    config = home / "cookiecutter.yaml"
    config.write_text(json.dumps({"cookiecutters_dir": str(home / "templates"), "replay_dir": str(home / "replay")}))
    return config


def run(
    *command: str | Path, cwd: Path, environment: Mapping[str, str] | None = None, timeout: float = 600
) -> "subprocess.CompletedProcess[str]":
    """Run a command as from a shell of its own, both outputs in one; after `timeout` seconds kill all that it started."""
    words = [str(word) for word in command]
    process = subprocess.Popen(
        words,
        cwd=cwd,
        env={**{name: value for name, value in os.environ.items() if not _OURS.match(name)}, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    with process:
        try:
            output, _ = process.communicate(timeout=timeout)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            output += f"\n{words[0]} was killed after {timeout:g} s"
    return subprocess.CompletedProcess(words, process.returncode, output, None)


def tox(
    project: Path, workdir: Path, *words: str, environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a project's own tox, with its environments in `workdir`."""
    command = ["-m", "tox", "run", "--workdir", str(workdir), "--colored", "no", *words]
    return run(sys.executable, *command, cwd=project, environment=environment, timeout=1200)


def provision(project: Path, workdir: Path, environment: str = "py") -> Path:
    """Make one of tox's environments for a project; returns the folder of its programs."""
    made = tox(project, workdir, "-e", environment, "--notest")
    assert made.returncode == 0, made.stdout
    return workdir / environment / ("Scripts" if os.name == "nt" else "bin")


def blocks(page: str | Path, language: str = "") -> list[str]:
    """Return the blocks of code on a page that are in this language, or all that are not marked as output, by `text`."""
    found = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    return [text for written, text in found if written == language or (not language and written != "text")]


def verdicts(output: str) -> dict[str, str]:
    """What the table at the end of a pack's run says of each clause: holds, FAILS, waits …"""
    word = "holds \\(simulated\\)|holds|in part|FAILS|not applicable"
    said = dict(re.findall(rf"^  ([A-Z]\d+) +({word})(?= )", output, re.MULTILINE))
    for title, word in ("Not run", "not run"), ("Waiting", "waits"):
        if folded := re.search(rf"^{title}\n((?:  .+\n)+)", output, re.MULTILINE):
            for line in folded[1].splitlines():
                said |= dict.fromkeys(line.rpartition(": ")[2].split(), word)
    return said
