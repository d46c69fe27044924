"""Runs the packs of presets whose client has an upper bound, on the newest release: `newest.py [PRESET …]`."""

import re
import sys
import tempfile
from pathlib import Path

from baking import FILLED, QUESTIONS, bake, run, tox

BOUND = re.compile(r",<[\d.]+")


def main(*presets: str) -> int:
    bad = [preset for preset in presets or bounded() if not holds(preset)]
    print("does not hold on the newest client:" if bad else "all hold on the newest clients", *bad)
    return int(bool(bad))


def bounded() -> list[str]:
    """Return the presets whose client has an upper bound."""
    return [preset for preset in FILLED if BOUND.search("".join(QUESTIONS["_presets"][preset]["requires"]))]


def holds(preset: str) -> bool:
    """Run the pack of a preset without the bound; print which releases it ran on, and how it ended."""
    with tempfile.TemporaryDirectory() as home:
        project = bake(Path(home), preset=preset)
        file = project / "pyproject.toml"
        file.write_text(BOUND.sub("", file.read_text(encoding="utf-8")), encoding="utf-8")
        ended = tox(project, Path(home) / "tox", "-e", "py")
        frozen = run(Path(home) / "tox" / "py" / "bin" / "python", "-m", "pip", "freeze", cwd=project).stdout
    clients = {re.split(r"[\[<>=]", each)[0] for each in QUESTIONS["_presets"][preset]["requires"]}
    releases = [line for line in frozen.splitlines() if line.partition("==")[0] in clients]
    print(preset, *releases, "holds" if ended.returncode == 0 else f"does not hold\n{ended.stdout}", flush=True)
    return ended.returncode == 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
