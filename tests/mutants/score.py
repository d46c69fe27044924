"""Prints what became of the mutants of each module, and what each survivor changes, by groups: `score.py FOLDER`."""

import ast
import difflib
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HEADS = ("killed", "timed out", "killed by the pack", "survived", "not run")
BY_EXIT_CODE = {0: "survived", 1: "killed", 3: "killed", 5: "survived", 33: "survived", None: "not run"}
"""Any other is that of a process that was ended; 5 and 33: none of the tests calls the function."""

LEFT = [code for code, head in BY_EXIT_CODE.items() if head == "survived"]

CONTRACT = Path("mutants/src/mutated/contract")

WORDS = re.compile(
    r"(raise |return |[\w.]+ = )*\w*(Error|Failed)\(|(logger\.\w+|_log|print)\(|(text|why|what|place) = "
)
"""How a line begins that makes an error, or says something."""

LOGIC = re.compile(r" (and False|or True)\b")

FALSE = re.compile(r"\b(None|False|0)\b|''")


class Mutant(NamedTuple):
    """A survivor: its name, and what it changes."""

    name: str
    module: str
    function: str
    number: str
    was: str
    now: str

    @property
    def group(self) -> str:
        """What kind of change it is, by a rule of its text."""
        if WORDS.match(self.was) and not LOGIC.search(self.now):
            return "words"
        if FALSE.sub("?", self.was) == FALSE.sub("?", self.now):
            return "the same in another word"
        return "work"


def main(folder: Path) -> None:
    by_pack = folder / "pack.json"
    codes: dict[str, int] = json.loads(by_pack.read_text(encoding="utf-8")) if by_pack.exists() else {}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    survivors: list[str] = []
    for name, code in results(folder):
        head = BY_EXIT_CODE.get(code, "timed out")
        if head == "survived" and codes.get(name):
            head = "killed by the pack"
        counts[name.split(".")[-2]][head] += 1
        if head == "survived":
            survivors.append(name)
    print(f"| module | {' | '.join(HEADS)} |\n| --- |{' --- |' * len(HEADS)}")
    for module, count in counts.items():
        print(row(f"`{module}`", count))
    print(row("all", sum(counts.values(), Counter[str]())))
    groups: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in changes(folder, survivors):
        groups[mutant.group].append(mutant)
    for group, mutants in groups.items():
        print(f"\n{group}: {len(mutants)}")
        for each in mutants:
            tried = "" if each.name in codes else " (not tried by the pack)"
            print(f"{each.module}.{each.function} {each.number}: `{each.was}` => `{each.now}`{tried}")


def results(folder: Path) -> Iterator[tuple[str, int | None]]:
    """Yield the name of each mutant, and how the process that tried it has ended; None if none has."""
    for meta in sorted((folder / CONTRACT).glob("*.meta")):
        yield from json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"].items()


def row(name: str, counts: Counter[str]) -> str:
    return f"| {name} | {' | '.join(str(counts[head]) for head in HEADS)} |"


def changes(folder: Path, names: list[str]) -> Iterator[Mutant]:
    """Tell what each of these mutants changes."""
    functions: dict[str, dict[str, list[str]]] = {}
    for name in names:
        module, _, mangled = name.rpartition(".")
        module = module.rpartition(".")[2]
        if module not in functions:
            tree = ast.parse((folder / CONTRACT / f"{module}.py").read_text(encoding="utf-8"))
            functions[module] = {
                node.name: ast.unparse(node).replace(node.name, "", 1).splitlines()
                for node in ast.walk(tree)
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            }
        mangled, _, number = mangled.partition("__mutmut_")
        lines = list(
            difflib.ndiff(
                functions[module][f"{mangled}__mutmut_orig"], functions[module][f"{mangled}__mutmut_{number}"]
            )
        )
        was, now = (" ".join(line[2:].strip() for line in lines if line.startswith(sign)) for sign in "-+")
        function = mangled.removeprefix("x").strip("ǁ").removeprefix("_").replace("ǁ", ".")
        yield Mutant(name, module, function, number, was, now)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
