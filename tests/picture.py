"""Draws the end of a run of the pack: `python tests/picture.py docs/run.svg`.

It makes the connector for Redis, and runs its pack by its own tox; what the terminal shows from the clauses of recovery on
is drawn.
"""

import io
import re
import sys
import tempfile
from pathlib import Path

from baking import bake, run
from rich.console import Console
from rich.text import Text

WIDTH = 84
"""Columns."""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        project = bake(Path(folder), preset="redis")
        words = "-m", "tox", "run", "-e", "py", "--", "--color=yes"
        ended = run(sys.executable, *words, cwd=project, environment={"COLUMNS": str(WIDTH), "FORCE_COLOR": "1"})
    if ended.returncode:
        sys.exit(ended.stdout)
    lines = ended.stdout.splitlines()
    plain = [Text.from_ansi(line).plain for line in lines]
    first = plain.index("Recovery")
    last = next(number for number, line in enumerate(plain) if line.startswith("Next: "))
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    for line in lines[first : last + 1]:
        console.print(Text.from_ansi(line))
    drawn = re.sub(r"\s*@font-face \{.*?\}", "", console.export_svg(title="tox run"), flags=re.DOTALL)
    Path(sys.argv[1]).write_text(drawn, encoding="utf-8")  # and asks nobody for fonts


if __name__ == "__main__":
    main()
