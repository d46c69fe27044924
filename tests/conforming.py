"""Writes the reports of the presets anew: `conforming.py FOLDER [PRESET …]`, all of them if none is named."""

import shutil
import sys
import tempfile
from pathlib import Path

from baking import FILLED, bake, tox

FILES = ("CONFORMANCE.md", "conformance.json", "conformance.svg")


def main(folder: Path, *presets: str) -> int:
    codes = [report(folder / preset, preset) for preset in presets or FILLED]
    return int(any(codes))


def report(folder: Path, preset: str) -> int:
    """Write the report of a preset into a folder, and print what its run says last, or all of it if it fails."""
    with tempfile.TemporaryDirectory() as home:
        project = bake(Path(home), preset=preset)
        ended = tox(project, Path(home) / "tox", "-e", "report")
        last = -5 if ended.returncode == 0 else 0
        print(preset, *ended.stdout.splitlines()[last:], sep="\n  ", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copy(project / name, folder)
    return ended.returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
