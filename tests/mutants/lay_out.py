"""Lays out the project that mutmut runs in: the baked machinery, the template's tests, and its configuration."""

import shutil
import sys
from pathlib import Path

from baking import ROOT, bake

NAME = "mutated"


def main(folder: Path) -> None:
    """Make the project in this folder, or renew it; results that are there remain."""
    project = bake(folder / "baked", preset="blank", package_name=NAME)
    for name in ("src", "tests"):
        shutil.rmtree(folder / name, ignore_errors=True)
    shutil.copytree(project / "src", folder / "src")
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "cookiecutter.json"):
        shutil.copy(ROOT / name, folder)
    shutil.rmtree(folder / "baked")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
