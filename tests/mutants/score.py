"""Prints what became of the mutants of each module, and what each survivor changes: `score.py FOLDER`."""

import ast
import difflib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

HEADS = ("killed", "timed out", "killed by the pack", "survived", "not run")
BY_EXIT_CODE = {0: "survived", 1: "killed", 3: "killed", 5: "survived", 33: "survived", None: "not run"}
"""Any other is that of a process that was ended; 5 and 33: none of the tests calls the function."""

CONTRACT = Path("mutants/src/mutated/contract")

LEFT = [code for code, head in BY_EXIT_CODE.items() if head == "survived"]


def main(folder: Path) -> None:
    by_pack = folder / "pack.json"
    codes: dict[str, int] = json.loads(by_pack.read_text(encoding="utf-8")) if by_pack.exists() else {}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    survivors: dict[str, list[str]] = defaultdict(list)
    for name, code in results(folder):
        module = name.split(".")[-2]
        head = BY_EXIT_CODE.get(code, "timed out")
        if head == "survived" and codes.get(name):
            head = "killed by the pack"
        counts[module][head] += 1
        if head == "survived":
            survivors[module].append(name)
    print(f"| module | {' | '.join(HEADS)} |\n| --- |{' --- |' * len(HEADS)}")
    for module, count in counts.items():
        print(row(f"`{module}`", count))
    print(row("all", sum(counts.values(), Counter[str]())))
    for module, names in survivors.items():
        print(*changes(folder / CONTRACT / f"{module}.py", names), sep="\n")


def results(folder: Path) -> Iterator[tuple[str, int | None]]:
    """Yield the name of each mutant, and how the process that tried it has ended; None if none has."""
    for meta in sorted((folder / CONTRACT).glob("*.meta")):
        yield from json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"].items()


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
