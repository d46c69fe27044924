"""Notes how the managed files came, and says what to do next."""

import contextlib
import json
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

# Jinja writes the answers here as one ASCII string literal, so that nothing in them is read as code.
ANSWERS: dict[str, Any] = json.loads({{cookiecutter | jsonify | jsonify}})  # type: ignore  # noqa: F821, PGH003

BLANK = """
{package} is made, with five blanks to fill in. Next:

    cd {package}
    tox run -e py

tox says which blank comes next, and checks each one that you fill in.
You write these files:

    src/{package}/transport.py
        five methods that talk to your broker
    src/{package}/settings.py
        what a user can set
    tests/broker.py
        how to start a broker for the tests
    tests/settings.py
        where that broker is

The client library goes into `dependencies` in pyproject.toml.
Do not edit contract/ and hosts/, which are the template's.
CONTRIBUTING.md says which files are yours.

If there is no tox yet: python -m pip install tox"""

READY = """
{package} is made and ready to run. Next:

    cd {package}
    tox run

tox tests it on a server that it starts. To try a broker of your own, at a URL
that README.md describes:

    python -m pip install .
    python -m {package} check --url URL

CONTRIBUTING.md says which files are yours, and which are the template's.

If there is no tox yet: python -m pip install tox"""


def note_managed_files() -> None:
    """List the digests of the files that nobody is to edit, for the test that names the edited ones."""
    package = Path("src", ANSWERS["package_name"])
    folders = package / "contract", package / "hosts", Path("tests", "contract")
    paths = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    with Path("tests", "contract", "managed.txt").open("w", encoding="utf-8", newline="\n") as notes:
        for path in paths:
            if "__pycache__" not in path.parts:
                content = path.read_bytes().replace(b"\r\n", b"\n")
                print(sha256(content).hexdigest(), path.as_posix(), file=notes)


def main() -> None:
    note_managed_files()
    text = BLANK if ANSWERS["preset"] == "blank" else READY
    # The project is made: nobody there to read this is no reason to fail.
    try:
        print(text.format(package=ANSWERS["package_name"]), flush=True)
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.close()
        sys.stdout = None


if __name__ == "__main__":
    main()
