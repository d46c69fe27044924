"""Says what to do next."""

import contextlib
import json
import sys
from typing import Any

# Jinja writes the answers here as one ASCII string literal, so that nothing in them is read as code.
ANSWERS: dict[str, Any] = json.loads({{cookiecutter | jsonify | jsonify}})  # type: ignore  # noqa: F821

BLANK = """
{package} is made, with five blanks to fill in. Next:

    cd {package}
    tox run

tox says which blank comes next, and checks each one that you fill in. All of them are in

    src/{package}/transport.py - five methods that talk to your broker
    src/{package}/settings.py - what a user can set
    tests/broker.py - how to start a broker for the tests
    tests/settings.py - where that broker is

If there is no tox yet: python -m pip install tox"""

READY = """
{package} is made and ready to run. Next:

    cd {package}
    tox run

and against a broker of your own:

    python -m pip install .
    python -m {package} check

If there is no tox yet: python -m pip install tox"""


def main() -> None:
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
