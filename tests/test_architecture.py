"""The machinery imports by the floors of `docs/architecture.md`, and adapters and presets' tests what is public."""

import ast
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from baking import ROOT

NAME = "{{cookiecutter.package_name}}"
CONTRACT = ROOT / NAME / "src" / NAME / "contract"
ADAPTERS = sorted(CONTRACT.with_name("hosts").glob("*.py"))
PAGE = ROOT / "docs" / "architecture.md"

ROW = re.compile(r"^\| `(\w+)` \| (\d+) \| (pure|) ?\| (\S.*) \|$", re.MULTILINE)

LIBRARIES = {"msgspec", "pyee", "pydantic", "pydantic_core", "pydantic_settings", "yaml"}

PURE = {
    "addresses",
    "errors",
    "escaping",
    "history",
    "receiving",
    "secrets",
    "sending",
    "serialization",
    "shards",
    "topics",
    "wire",
}
"""Modules that decide, and do nothing: they must be marked as pure."""

WORLD = {"asyncio", "contextvars", "logging", "os", "pathlib", "selectors", "socket", "threading", "time"}
"""What a pure module does not import: the event loop, the clock, other threads, files and the network."""


class Floor(NamedTuple):
    """What the table says of a module."""

    number: int
    is_pure: bool


class Imports(NamedTuple):
    """What a module imports: modules of the machinery, and packages from elsewhere."""

    ours: set[str]
    others: set[str]


def table() -> dict[str, Floor]:
    """Return the rows of the table of floors."""
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    assert len({name for name, *_ in rows}) == len(rows), "a module stands in the table twice"
    return {name: Floor(int(number), bool(pure)) for name, number, pure, _ in rows}


def imports_of(path: Path) -> Imports:
    """Return what a module imports, wherever in it that stands."""
    imports = Imports(set(), set())
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imports.others.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imports.others.add(str(node.module).partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1, f"{path.name}, line {node.lineno}: imports from outside the machinery"
            names = [node.module] if node.module else [alias.name for alias in node.names]
            imports.ours.update(name.partition(".")[0] for name in names)
    return imports


GRAPH = {path.stem: imports_of(path) for path in sorted(CONTRACT.glob("*.py"))}
FLOORS = table()


def test_the_table_has_each_module_once() -> None:
    assert sorted(FLOORS) == sorted(GRAPH)


def test_the_machinery_has_no_folders_that_the_table_does_not_see() -> None:
    assert not [path for path in CONTRACT.rglob("*.py") if path.parent != CONTRACT]


@pytest.mark.parametrize("module", GRAPH)
def test_a_module_imports_from_lower_floors_only(module: str) -> None:
    floor = FLOORS[module].number
    wrong = sorted(other for other in GRAPH[module].ours if FLOORS[other].number >= floor)
    assert not wrong, f"{module}, on floor {floor}, imports {wrong}"


def test_nothing_is_imported_from_outside_the_machinery() -> None:
    allowed = LIBRARIES | sys.stdlib_module_names
    foreign = {module: sorted(imports.others - allowed) for module, imports in GRAPH.items()}
    assert not {module: names for module, names in foreign.items() if names}


def test_pure_modules_import_nothing_that_acts() -> None:
    pure = {module for module, floor in FLOORS.items() if floor.is_pure}
    assert pure >= PURE, f"not marked as pure: {sorted(PURE - pure)}"
    for module in sorted(pure):
        acting = sorted(GRAPH[module].others & WORLD | GRAPH[module].ours - pure)
        assert not acting, f"{module} is pure, and imports {acting}"


@pytest.mark.parametrize("module", ["broker", "test_broker"])
def test_tests_of_presets_take_from_the_pack_only_what_is_public(module: str) -> None:
    files = sorted((ROOT / "templates" / "presets").glob(f"*/{module}.py"))
    assert files
    for file in files:
        nodes = [
            node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)
        ]
        used = {str(node.module) for node in nodes if node.level and str(node.module).startswith("contract")}
        assert used <= {"contract.public"}, f"{file.parent.name}/{file.name} imports from {sorted(used)}"


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: path.stem)
def test_an_adapter_imports_its_own_server_and_what_every_package_has(path: Path) -> None:
    allowed = sys.stdlib_module_names | {path.stem}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [str(node.module)]
        elif isinstance(node, ast.ImportFrom) and node.level == 2:
            assert node.module is None or node.module.partition(".")[0] == "contract", ast.unparse(node)
        assert {name.partition(".")[0] for name in names} <= allowed, ast.unparse(node)
