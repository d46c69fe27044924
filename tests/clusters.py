"""Has each preset's clusters suffer: `clusters.py [PRESET …]`, all of them if none is named; one table at the end."""

import re
import sys
import tempfile
from pathlib import Path
from time import monotonic

from baking import FILLED, bake, tox

TABLE = re.compile(r"^=+ faults of clusters.*=+\n(.*)\n((?:.*  .*\n)+)", re.MULTILINE)


def main(*presets: str) -> int:
    heads, rows, bad = "", [], []
    for preset in presets or FILLED:
        started = monotonic()
        with tempfile.TemporaryDirectory() as home:
            project = bake(Path(home), preset=preset)
            ended = tox(project, Path(home) / "tox", "-e", "py", "--", "--clusters", "-q")
        found = TABLE.search(ended.stdout)
        outcome = "ok" if ended.returncode == 0 else "FAILED"
        if found:
            heads = found[1]
            rows.append(found[2].rstrip())
        elif ended.returncode == 0:
            outcome = "no cluster can be started here"
        print(f"{preset}: {outcome}, {monotonic() - started:.0f} s", flush=True)
        if ended.returncode:
            bad.append(preset)
            print(ended.stdout)
    print(heads, *rows, sep="\n")
    print(f"{len(bad)} failed" if bad else "all hold", *bad)
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
