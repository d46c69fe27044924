"""Prints what became of the mutants of each module, and what each survivor changes: `score.py FOLDER`."""

import ast
import difflib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

HEADS = ("killed", "timed out", "survived", "not reached", "not run")
BY_EXIT_CODE = {0: "survived", 1: "killed", 3: "killed", 5: "not reached", 33: "not reached", None: "not run"}
"""Any other is that of a process that was ended."""


def main(folder: Path) -> None:
    sums: Counter[str] = Counter()
    survivors: list[str] = []
    print(f"| module | {' | '.join(HEADS)} |\n| --- |{' --- |' * len(HEADS)}")
    for meta in sorted((folder / "mutants/src/mutated/contract").glob("*.meta")):
        exits: dict[str, int | None] = json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"]
        counts = Counter(BY_EXIT_CODE.get(code, "timed out") for code in exits.values())
        if exits:
            print(row(f"`{meta.name.partition('.')[0]}`", counts))
        sums += counts
        survivors += changes(meta.with_suffix(""), [name for name, code in exits.items() if code == 0])
    print(row("all", sums), *survivors, sep="\n")


def row(name: str, counts: Counter[str]) -> str:
    return f"| {name} | {' | '.join(str(counts[head]) for head in HEADS)} |"


def changes(module: Path, mutants: list[str]) -> Iterator[str]:
    """Tell what each mutant of a module changes."""
    functions = {
        node.name: ast.unparse(node).splitlines()[1:]
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    for mutant in mutants:
        name, _, number = mutant.rpartition(".")[2].partition("__mutmut_")
        lines = list(difflib.ndiff(functions[f"{name}__mutmut_orig"], functions[f"{name}__mutmut_{number}"]))
        was, now = (" ".join(line[2:].strip() for line in lines if line.startswith(sign)) for sign in "-+")
        shown = name.removeprefix("x").strip("ǁ").removeprefix("_").replace("ǁ", ".")
        yield f"{module.stem}.{shown} {number}: `{was}` => `{now}`"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
