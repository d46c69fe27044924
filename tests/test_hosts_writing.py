"""The page about writing a host: its code runs as printed, and prints what the page says."""

import sys
import tomllib
from pathlib import Path
from typing import Any

from baking import blocks, run
from hosting import Package


def test_its_code_prints_what_the_page_says(package: Package, own_broker: Any, tmp_path: Path) -> None:
    code, printed = ("\n".join(blocks("docs/writing-a-host.md", language)) for language in ("python", "text"))
    (tmp_path / "host.py").write_text(code)
    install(package, tmp_path)
    environment = {"PYTHONPATH": f"{package.source}:{tmp_path}", f"{package.name.upper()}_URL": own_broker.url}
    ended = run(sys.executable, "host.py", cwd=tmp_path, environment=environment, timeout=60)
    assert ended.stdout == printed.replace("\n\n", "\n")


def install(package: Package, folder: Path) -> None:
    """Have the package's entry points found, as where it is installed."""
    project = tomllib.loads((package.source.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = folder / f"{package.name}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 1\n")
    lines = [f"{name} = {value}" for name, value in project["entry-points"]["deepstream.msg"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[deepstream.msg]", *lines]))
