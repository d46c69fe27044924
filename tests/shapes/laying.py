"""Makes a project of one shape: the `blank` preset, filled in for the small broker."""

import shutil
from pathlib import Path

from baking import bake
from names import PACKAGE

HERE = Path(__file__).parent


def lay(folder: Path, shape: str) -> Path:
    """Bake a connector of this shape into the folder; return where the project is."""
    project = bake(folder / shape, preset="blank", package_name=PACKAGE)
    package, tests, ours = project / "src" / project.name, project / "tests", HERE / "project"
    for file, place in (
        (ours / f"{shape}.py", package / "transport.py"),
        (ours / "client.py", package),
        (ours / "settings.py", package),
        (ours / "tests_settings.py", tests / "settings.py"),
        (ours / "broker.py", tests),
        (ours / "test_broker.py", tests),
        (HERE / "framing.py", package),
        (HERE / "framing.py", tests),
        (HERE / "server.py", tests),
    ):
        shutil.copy(file, place)
    return project
