"""The page about writing a host: its code runs as printed, and prints what the page says."""

import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

from baking import run
from hosting import Package, blocks


def test_its_code_prints_what_the_page_says(packages: Mapping[str, Package], tmp_path: Path) -> None:
    package = packages["redis"]
    code, printed = ("\n".join(blocks("writing-a-host.md", language)) for language in ("python", "text"))
    (tmp_path / "host.py").write_text(code)
    install(package, tmp_path)
    with package.broker(tmp_path / "broker") as broker:
        path = f"{package.source}:{tmp_path}"
        environment = {"PYTHONPATH": path, f"{package.name.upper()}_URL": broker.url}
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
