"""The tests of the JavaScript files alone; among them are the test vectors of the format."""

import os
import re
import subprocess
from pathlib import Path

from baking import ROOT

VECTORS = ROOT / "docs" / "wire-vectors.json"


def test_the_javascript_files_pass_their_tests(programs: Path) -> None:
    environment = {**os.environ, "WIRE_VECTORS": str(VECTORS)}
    ended = subprocess.run(["npm", "test"], cwd=programs, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
    passed = re.search(r"pass (\d+)", ended.stdout)
    assert passed
    assert int(passed[1]) > 80, ended.stdout
