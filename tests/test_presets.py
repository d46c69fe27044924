"""Every preset's project is green by its own tox, can be packaged and published, and the blank one leads to green."""

import ast
import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from baking import FILLED, FROM_SOURCE, PRESETS, QUESTIONS, ROOT, bake, provision, run, tox, verdicts
from cookiecutter.exceptions import FailedHookException

PACKAGE = "{{cookiecutter.package_name}}"
CONTRACT_VERSION = (ROOT / PACKAGE / "src" / PACKAGE / "contract" / "VERSION").read_text(encoding="utf-8").strip()

HEADING = re.compile(r"the contract, version \S+, kept through (.*?) =+$", re.MULTILINE)
REMARK = re.compile(r"^  \w+ +not applicable +.*\((.+)\)$", re.MULTILINE)

HOSTILE = [
    """both 'kinds' of "quotes", mostly "double\"""",
    "it's 'single' ''' mostly",
    'three """ in a row',
    "\\",
    r"back\slashes \n \x41 \N{BULLET}",
    "{x} {} {0!r:>10} }}",
    "%s %(name)s %% 100%",
    "Zoë Ångström, 北京, Привет, עברית \N{RABBIT FACE}",
    "'; import os; os.mkdir('sentinel'); '",
    "# no comment <b>&amp;</b> [link](x) ~~ ** __",
    "long " * 100 + "name",
]
LONG_NAME = "deepstream_msg_" + "x" * 45


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for what is too large to be kept after the test."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def tools() -> Iterator[Path]:
    """The folder of tox's environments of a project of the Redis preset, which is in `project` beside them."""
    with tempfile.TemporaryDirectory() as home:
        project = bake(Path(home), preset="redis")
        project.rename(Path(home) / "project")
        yield Path(home)


def tool(tools: Path, environment: str, program: str) -> Path:
    """Return a program of one of the environments, which is made when it is first needed."""
    found = tools / environment / "bin" / program
    return found if found.exists() else provision(tools / "project", tools, environment) / program


@pytest.mark.pack
@pytest.mark.parametrize("preset", FILLED)
def test_its_own_tox_is_green(preset: str, folder: Path, record_property: Callable[[str, object], None]) -> None:
    started, temporary = time.monotonic(), folder / "temporary"
    temporary.mkdir()
    environment = {"TMPDIR": str(temporary)}
    project = bake(folder, preset=preset)
    ended = tox(project, folder / "tox", "-e", "py,lint,types", environment=environment)
    output = ended.stdout
    result = verdicts(output)
    held = sum(verdict.startswith("holds") for verdict in result.values())
    in_part = sum(verdict == "in part" for verdict in result.values())
    excused = sum(verdict == "not applicable" for verdict in result.values())
    heading = HEADING.search(output)
    server = heading[1] if heading else "no table"
    if os.environ.get("REQUIRE_BROKERS") != "1" and (
        missing := re.search(r"^Next: (there is no broker to test with.*|a server is missing.*)", output, re.M)
    ):
        record_property("preset", (preset, server, "not run", missing[1], ""))
        pytest.skip(missing[1])
    record_property("preset", (preset, server, held, excused, f"{time.monotonic() - started:.0f}"))
    assert ended.returncode == 0, output
    assert heading, output
    assert result, output
    assert held + in_part + excused == len(result), output
    assert len(REMARK.findall(output)) == excused, output
    for module in modules_beside(project, folder / "tox" / "py" / "bin" / "python"):
        with pytest.raises(FailedHookException):
            bake(folder / "refused", preset=preset, package_name=module)
    assert processes_with(environment) == []
    assert [path for path in temporary.rglob("*") if not path.name.startswith("pytest-of-")] == []


def modules_beside(project: Path, python: Path) -> list[str]:
    """The modules in a project's environment besides its own, as far as a package could be called like them."""
    question = "from importlib.metadata import packages_distributions as all; print(*all())"
    names = run(python, "-c", question, cwd=project).stdout.split()
    return [name for name in names if re.fullmatch(r"[a-z][a-z0-9_]*", name) and name != project.name]


def processes_with(environment: dict[str, str]) -> list[str]:
    """The commands of the processes that were started with this environment, as far as the system shows them."""
    wanted = {f"{name}={value}".encode() for name, value in environment.items()}
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted <= set((process / "environ").read_bytes().split(b"\0")):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


@pytest.mark.parametrize("preset", PRESETS)
def test_it_can_be_packaged(preset: str, folder: Path) -> None:
    project = bake(folder, preset=preset)
    package = project.name
    hatchling, packages, fresh = folder / "hatchling", folder / "packages", folder / "fresh"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    commands: list[tuple[str | Path, ...]] = [
        (*pip, "install", "--target", hatchling, "hatchling>=1.27"),
        (sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", packages),
    ]
    for command in commands:
        ended = run(*command, cwd=project, environment={"PYTHONPATH": str(hatchling)})
        assert ended.returncode == 0, ended.stdout
    (source,) = packages.glob("*.tar.gz")
    ended = run(sys.executable, "-m", "tarfile", "-e", source, folder / "unpacked", cwd=folder)
    assert ended.returncode == 0, ended.stdout
    (unpacked,) = (folder / "unpacked").iterdir()
    for path in (
        f"src/{package}/transport.py",
        "tests/contract/plugin.py",
        "tests/settings.py",
        "README.md",
        "LICENSE",
    ):
        assert (unpacked / path).is_file(), path
    question = f"""
from importlib.metadata import entry_points, version
from {package} import Connector, Settings
(point,) = entry_points(group="deepstream.msg")
assert point.load() is Connector
assert version(point.dist.name) == Connector.version
assert Connector.Settings is Settings
assert Connector.default_serialization == "json"
assert Connector.contract_version == "{CONTRACT_VERSION}"
print(point.name, Connector.name)
"""
    commands = [
        (*pip, "wheel", "--no-deps", "--wheel-dir", packages, source),
        (sys.executable, "-m", "venv", fresh),
    ]
    for command in commands:
        ended = run(*command, cwd=folder)
        assert ended.returncode == 0, ended.stdout
    (wheel,) = packages.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("py.typed", "contract/link.py", "contract/VERSION"):
        assert f"{package}/{name}" in names
    assert not [name for name in names if name.startswith("tests")]
    for command in ((fresh / "bin" / "pip", *pip[3:], "install", wheel), (fresh / "bin" / "python", "-c", question)):
        ended = run(*command, cwd=folder)
        assert ended.returncode == 0, ended.stdout
    assert ended.stdout.strip().endswith(QUESTIONS["_presets"][preset]["broker"])


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", HOSTILE)
def test_style_is_clean_whatever_the_answers(tools: Path, tmp_path: Path, preset: str, name: str) -> None:
    answers = {"broker_name": as_it_is(name), "author_name": as_it_is(name), "serialization": "msgpack"}
    project = bake(tmp_path, preset=preset, package_name=LONG_NAME, **answers)
    ruff = tool(tools, "lint", "ruff")
    for command in ((ruff, "check", "--no-cache"), (ruff, "format", "--check", "--no-cache")):
        ended = run(*command, cwd=project)
        assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize("preset", ["blank", "redis"])
def test_types_are_clean_whatever_the_answers(tools: Path, tmp_path: Path, preset: str) -> None:
    answers = {"broker_name": as_it_is(HOSTILE[0]), "author_name": as_it_is(HOSTILE[1]), "serialization": "msgpack"}
    project = bake(tmp_path, preset=preset, package_name=LONG_NAME, **answers)
    ended = run(tool(tools, "types", "mypy"), "--cache-dir", os.devnull, cwd=project)
    assert ended.returncode == 0, ended.stdout


def as_it_is(text: str) -> str:
    """Return Jinja that renders to this text, letter by letter."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}"


def test_managed_files_that_were_edited_are_named(tools: Path, tmp_path: Path) -> None:
    project = bake(tmp_path, preset="blank")
    words = (tool(tools, "py", "python"), "-m", "pytest", "tests/contract/test_managed.py")
    ended = run(*words, cwd=project, environment=FROM_SOURCE)
    assert ended.returncode == 0, ended.stdout
    ours = ("contract/VERSION", "contract/link.py", "hosts/fanout.py")
    edited = [*(f"src/{project.name}/{path}" for path in ours), "tests/contract/nodes.py"]
    for path in edited:
        with (project / path).open("a", encoding="utf-8") as file:
            file.write("\n# mine\n")
    ended = run(*words, cwd=project, environment=FROM_SOURCE)
    assert ended.returncode == 1, ended.stdout
    assert f"edited or gone: {', '.join(edited)}." in ended.stdout


def test_the_blank_project_is_an_honest_list_of_what_to_do(tools: Path, tmp_path: Path) -> None:
    project = bake(tmp_path, preset="blank", package_name="deepstream_msg_redis")
    python = tool(tools, "py", "python")
    started = time.monotonic()
    ended = run_pack(python, project)
    assert time.monotonic() - started < 15
    assert ended.returncode == 1, ended.stdout
    assert "Traceback" not in ended.stdout
    assert "Error:" not in ended.stdout
    for name, file in places(project):
        line = line_of(file, name)
        assert f"  {file.relative_to(project)}:{line}  {name}\n" in ended.stdout
    assert (
        f"Next: settings, at tests/settings.py:{line_of(project / 'tests' / 'settings.py', 'settings')}."
        in ended.stdout
    )
    assert len(ended.stdout.splitlines()) < 120  # a line for each module, clause and blank
    assert "FAILS" not in verdicts(ended.stdout).values()


def test_a_report_wants_no_cluster_of_a_broker_that_has_none(tools: Path, tmp_path: Path) -> None:
    project = bake(tmp_path, preset="blank")
    words = tool(tools, "py", "python"), "-m", "pytest", "--report", "--collect-only", "-q"
    ended = run(*words, cwd=project, environment=FROM_SOURCE)
    assert "test_figures.py" in ended.stdout
    assert "test_cluster.py" not in ended.stdout


def test_each_blank_that_is_filled_in_turns_its_clauses_on(tools: Path, tmp_path: Path) -> None:
    project = bake(tmp_path, preset="blank", broker_name="Redis")
    package, python = f"src/{project.name}", tool(tools, "py", "python")
    filled = tools / "project"
    form = (project / package / "transport.py").read_text(encoding="utf-8")
    model = (filled / package / "transport.py").read_text(encoding="utf-8")
    for path in (f"{package}/settings.py", "tests/broker.py"):
        shutil.copy(filled / path, project / path)
    todo = [name for name, _ in places(project)]
    waiting = [count_waiting(run_pack(python, project).stdout)]
    for done, name in enumerate(todo):
        if name == "settings":
            shutil.copy(filled / "tests" / "settings.py", project / "tests" / "settings.py")
        else:
            (project / package / "transport.py").write_text(with_blanks(model, todo[done + 1 :]), encoding="utf-8")
        ended = run_pack(python, project)
        waiting.append(count_waiting(ended.stdout))
        left = todo[done + 1 :]
        assert ended.returncode == (1 if left else 0), ended.stdout
        assert not left or f"Next: {left[0]}, at " in ended.stdout, ended.stdout
        assert "FAILS" not in verdicts(ended.stdout).values(), ended.stdout
    assert "NotImplementedError" in form
    assert waiting == sorted(waiting, reverse=True), waiting
    assert len(waiting) - len(set(waiting)) <= 3, waiting  # the settings, `connect` and `publish` alone prove nothing
    assert waiting[-1] == 0
    assert set(verdicts(ended.stdout).values()) <= {"holds", "holds (simulated)", "in part"}, ended.stdout
    assert "prove a refusal of your broker" in ended.stdout.splitlines()[-1], ended.stdout


def run_pack(python: Path, project: Path) -> Any:
    """Run a project's tests by another's environment, on the project's own source."""
    return run(python, "-m", "pytest", cwd=project, environment=FROM_SOURCE)


def places(project: Path) -> list[tuple[str, Path]]:
    """The blanks, in the order in which they are to be filled in, and the file of each."""
    transport = project / "src" / project.name / "transport.py"
    methods = ("connect", "close", "publish", "subscribe", "unsubscribe")
    return [("settings", project / "tests" / "settings.py"), *((name, transport) for name in methods)]


def line_of(file: Path, function: str) -> int:
    """Return the line of a function's definition."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if re.match(rf"\s*(async )?def {function}\(", line))


def with_blanks(module: str, names: list[str]) -> str:
    """Return a module in which the bodies of these functions raise `NotImplementedError`."""
    tree = ast.parse(module)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in names:
            node.body = ast.parse("raise NotImplementedError").body
    return ast.unparse(tree)


def count_waiting(output: str) -> int:
    """How many clauses wait for a blank."""
    return sum(verdict == "waits" for verdict in verdicts(output).values())
