"""Has each preset's clusters suffer: `clusters.py [PRESET …]`, all of them if none is named; one table at the end."""

import re
import sys
import tempfile
from pathlib import Path
from time import monotonic

from baking import FILLED, bake, tox

TABLE = re.compile(r"^\S.*?(?:  +\S+.*?){7}$", re.MULTILINE)


def main(*presets: str) -> int:
    table: list[list[str]] = []
    bad: list[str] = []
    for preset in presets or FILLED:
        started = monotonic()
        with tempfile.TemporaryDirectory() as home:
            project = bake(Path(home), preset=preset)
            ended = tox(project, Path(home) / "tox", "-e", "py", "--", "--clusters", "-q")
        found = [re.split("  +", line) for line in TABLE.findall(ended.stdout)]
        table += found[1 if table else 0 :]
        has_failed = ended.returncode and "no tests ran" not in ended.stdout
        outcome = "FAILED" if has_failed else "ok" if found else "no cluster can be started here"
        print(f"{preset}: {outcome}, {monotonic() - started:.0f} s", flush=True)
        if has_failed:
            bad.append(preset)
            print(ended.stdout)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
    print("failed:" if bad else "all hold", *bad)
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
