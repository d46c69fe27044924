"""The tutorial leads to a connector: its files are those of `examples/nchan`, its screens are true, and the pack is green."""

import ast
import json
import re
import shutil
import sys
from pathlib import Path

import listing
import pytest
from baking import FROM_SOURCE, ROOT, bake, blocks, run, tox, verdicts

PAGE = "docs/tutorial.md"
TUTORIAL = (ROOT / PAGE).read_text(encoding="utf-8")
FINISHED = ROOT / "examples" / "nchan"

FIRST_METHOD = "    async def connect("
RETURN = "    return Settings(url=broker.url)\n"


def begin(folder: Path) -> Path:
    """Make the project, and do what comes before the blanks of the transport; returns where it is."""
    project = bake(folder, broker_name="Nchan", author_name="Ada Lovelace", author_email="ada@example.org")
    settings = project / "tests" / "settings.py"
    settings.write_text(settings.read_text(encoding="utf-8").replace("    raise NotImplementedError\n", RETURN))
    pyproject = project / "pyproject.toml"
    [libraries] = blocks(PAGE, "toml")
    text = pyproject.read_text(encoding="utf-8")
    pyproject.write_text(text.replace("\ndependencies = [\n", f"\ndependencies = [\n{libraries}"), encoding="utf-8")
    shutil.copy(FINISHED / "settings.py", package(project))
    shutil.copy(FINISHED / "broker.py", project / "tests")
    return project


def package(project: Path) -> Path:
    """Return the folder of the project's package."""
    return project / "src" / project.name


def fill_in(project: Path, *names: str) -> None:
    """Do in the transport what the tutorial says, as far as these blanks; what they need comes to the end of the file."""
    finished = (FINISHED / "transport.py").read_text(encoding="utf-8")
    text = (ROOT / "templates" / "presets" / "blank" / "transport.py").read_text(encoding="utf-8")
    text = finished[: finished.index(FIRST_METHOD)] + text[text.index(FIRST_METHOD) :]
    new, old = methods(finished), methods(text)
    for name in names:
        text = text.replace(old[name], new[name])
    text += "".join(f"\n{method}\n" for name, method in new.items() if name not in old)
    (package(project) / "transport.py").write_text(text, encoding="utf-8")


def methods(text: str) -> dict[str, str]:
    """Return the methods of the transport, by name."""
    lines = text.splitlines()
    [transport] = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    found = [node for node in transport.body if isinstance(node, ast.AsyncFunctionDef)]
    return {node.name: "\n".join(lines[node.lineno - 1 : node.end_lineno]) for node in found}


def what_is_next(project: Path) -> str:
    """Return the last line of a run that looks for blanks."""
    words = sys.executable, "-m", "pytest", "-n", "0", "tests/contract/test_blanks.py"
    return run(*words, cwd=project, environment=FROM_SOURCE).stdout.rstrip().splitlines()[-1]


def test_what_is_to_be_typed_is_what_the_finished_files_have() -> None:
    files = {path.name: path.read_text(encoding="utf-8") for path in FINISHED.glob("*.py")}
    excerpts = [block for block in blocks(PAGE, "python") if block != RETURN]
    assert RETURN in blocks(PAGE, "python")
    for excerpt in excerpts:
        assert any(excerpt in text for text in files.values()), excerpt
    typed = {line for excerpt in excerpts for line in excerpt.splitlines()}
    for name, text in files.items():
        left_out = [line for line in text.splitlines() if line not in typed]
        assert not left_out, f"{name}: the tutorial does not have {left_out}"


def test_the_transport_has_less_than_80_lines() -> None:
    assert len((FINISHED / "transport.py").read_text(encoding="utf-8").splitlines()) < 80


def test_each_screen_says_what_the_next_step_is(tmp_path: Path) -> None:
    told = re.findall(r"^Next: .*", TUTORIAL, re.MULTILINE)
    project = bake(tmp_path / "untouched", broker_name="Nchan")
    assert what_is_next(project) == told[0]
    project = begin(tmp_path)
    for step, names in enumerate([("connect", "close"), ("connect", "close", "publish")], 1):
        fill_in(project, *names)
        assert what_is_next(project) == told[step]


def test_the_entry_for_the_list_has_what_the_list_takes() -> None:
    [entry] = blocks(PAGE, "json")
    assert tuple(json.loads(entry)) == listing.KEYS


@pytest.mark.pack
def test_the_finished_connector_is_green(tmp_path: Path) -> None:
    project = begin(tmp_path)
    shutil.copy(FINISHED / "transport.py", package(project))
    green = tox(project, tmp_path / "tox", "-e", "py")
    assert green.returncode == 0, green.stdout
    told = re.findall(r"^Next: .*", TUTORIAL, re.MULTILINE)
    assert told[3] in green.stdout
    shutil.copy(FINISHED / "test_broker.py", project / "tests")
    all_of_it = tox(project, tmp_path / "tox", "-e", "py,lint,types")
    assert all_of_it.returncode == 0, all_of_it.stdout
    assert set(verdicts(all_of_it.stdout).values()) <= {"holds", "in part", "not applicable"}, all_of_it.stdout
    assert told[4] in all_of_it.stdout
