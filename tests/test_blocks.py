"""Each block of code in the documents runs as it is printed, here or in the test that `RUN_BY` names; output is marked `text`."""

import ast
import asyncio
import inspect
import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from baking import ROOT, bake, blocks, own_config, run, tox
from hosting import Package
from test_updating import LEFT_OUT

PROJECT = "{{cookiecutter.package_name}}"

GUIDE = "test_the_code_of_the_guide_runs_as_printed"
SERVER = "test_the_server_of_the_guide_runs_as_printed"
HOST = "test_its_code_prints_what_the_page_says"

RUN_BY = {
    "README.md": [
        "test_the_demo_makes_a_connector_and_proves_it",
        "test_the_line_that_people_type_makes_a_project",
        "test_the_ci_runs_the_tests_as_the_readme_says",
    ],
    "CONTRIBUTING.md": ["test_a_clone_is_set_up_as_contributing_says"],
    "docs/brokers.md": ["test_credentials_come_from_a_function_as_the_page_about_brokers_says"],
    "docs/channels.md": [GUIDE, GUIDE, GUIDE],
    "docs/contract.md": ["test_the_nodes_of_the_contract_page_hear_each_other"],
    "docs/deepstream.md": ["test_the_message_of_an_old_server_is_an_event"],
    "docs/fanout.md": [SERVER, SERVER],
    "docs/litestar.md": [SERVER, SERVER, "test_a_subscriber_fetches_anew_what_it_missed_as_the_guide_says"],
    "docs/reading-redis.md": ["test_the_preset_that_is_read_is_made_as_the_page_says"],
    "docs/socketio.md": [GUIDE, GUIDE, GUIDE],
    "docs/tutorial.md": [],
    "docs/writing-a-host.md": [HOST] * 4,
    "examples/cluster/README.md": ["test_two_tabs_on_two_nodes_miss_nothing_while_the_broker_is_killed"],
    "examples/deepstream/README.md": ["test_the_commands_of_the_page_start_a_cluster"] * 4,
    "templates/presets/direct/README.md": ["test_settings_are_taken_as_the_page_of_a_preset_prints_them"],
    "templates/presets/postgres/README.md": ["test_settings_are_taken_as_the_page_of_a_preset_prints_them"],
    f"{PROJECT}/README.md": [
        "test_it_can_be_packaged",
        "test_the_readme_of_a_project_says_how_it_is_used",
        "test_the_readme_of_a_project_says_how_it_is_checked",
    ],
    f"{PROJECT}/CONTRIBUTING.md": [
        "test_its_own_tox_is_green",
        "test_beside_a_broker_at_a_url_a_missing_server_is_red_only_where_brokers_are_required",
        "test_three_versions_come_past_all_that_a_contributor_has_written",
        "test_the_report_says_it_in_every_form",
    ],
}
"""By page: the test that runs each block that is no output, in their order. All of `docs/tutorial.md` is in `test_tutorial.py`."""


def commands(text: str) -> list[str]:
    """Return the lines of a block of commands, without the prompt."""
    return [line.removeprefix("$ ") for line in text.splitlines()]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the template."""
    return Path(shutil.copytree(ROOT, tmp_path / "clone", ignore=LEFT_OUT))


def test_each_block_is_run_or_is_output() -> None:
    pages = {path.relative_to(ROOT).as_posix() for path in pages_of_the_repository()}
    assert {page for page in pages if blocks(page)} == set(RUN_BY)
    tests = {name for path in test_files() for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))}
    for page, runners in RUN_BY.items():
        assert page == "docs/tutorial.md" or len(blocks(page)) == len(runners), page
        assert set(runners) <= tests, page


def pages_of_the_repository() -> list[Path]:
    """Return all pages but those that a run has written."""
    folders = [ROOT / "docs", ROOT / "examples", ROOT / "templates", ROOT / PROJECT]
    inner = [page for folder in folders for page in folder.rglob("*.md") if "conformance" not in page.parts]
    return [*ROOT.glob("*.md"), *(page for page in inner if "node_modules" not in page.parts)]


def test_files() -> list[Path]:
    """Return all files with tests of the template."""
    return [*(ROOT / "tests").rglob("test_*.py"), *(ROOT / "examples").glob("*/tests/test_*.py")]


test_files.__test__ = False  # type: ignore[attr-defined]


# The pages of the template.


@pytest.mark.pack
def test_the_demo_makes_a_connector_and_proves_it(clone: Path) -> None:
    install, demo = commands(blocks("README.md")[0])[0].split(" && ")
    assert install == "pip install tox"
    assert demo.split()[:2] == ["tox", "run"]
    ended = tox(clone, clone / ".tox", *demo.split()[2:])
    assert ended.returncode == 0, ended.stdout
    assert "46 clauses: 46 holds" in ended.stdout


def test_the_line_that_people_type_makes_a_project(tmp_path: Path) -> None:
    install, make = commands(blocks("README.md")[1])
    assert install == "pip install cookiecutter tox"
    program, place = make.split()
    assert (program, place[:3]) == ("cookiecutter", "gh:")
    own = own_config(tmp_path)
    ended = run(sys.executable, "-m", program, ROOT, "--no-input", "--config-file", own, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout
    assert (tmp_path / "deepstream_msg_my_broker" / "tox.ini").is_file()


def test_the_ci_runs_the_tests_as_the_readme_says() -> None:
    [command] = commands(blocks("README.md")[2])
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_a_clone_is_set_up_as_contributing_says(clone: Path, tmp_path: Path) -> None:
    install, hook, check = commands(blocks("CONTRIBUTING.md")[0])
    assert (install, hook) == ("python -m pip install pre-commit tox", "pre-commit install")
    assert check == "tox run -e lint,types"
    ended = tox(clone, tmp_path / "tox", *check.split()[2:])
    assert ended.returncode == 0, ended.stdout


def test_the_preset_that_is_read_is_made_as_the_page_says(clone: Path, tmp_path: Path) -> None:
    [command] = commands(blocks("docs/reading-redis.md")[0])
    environment = {"COOKIECUTTER_CONFIG": str(own_config(tmp_path))}
    ended = run(sys.executable, "-m", *command.split(), cwd=clone, environment=environment)
    assert ended.returncode == 0, ended.stdout
    project = clone / "deepstream_msg_redis"
    for name in re.findall(r"^\| `(\S+)` \|", (ROOT / "docs" / "reading-redis.md").read_text("utf-8"), re.MULTILINE):
        assert (project / name).is_file(), name


def test_credentials_come_from_a_function_as_the_page_about_brokers_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [code] = blocks("docs/brokers.md")
    settings = settings_of("postgres", tmp_path, monkeypatch)
    (tmp_path / "global-bundle.pem").write_text("")
    monkeypatch.chdir(tmp_path)
    client = MagicMock()
    client.generate_db_auth_token.return_value = "t0ken"
    there: dict[str, Any] = {
        "asyncio": asyncio,
        "boto3": SimpleNamespace(client=lambda service: client),
        "Connector": lambda given: given,
        "Settings": settings,
    }
    exec(code, there)
    given = asyncio.run(there["connector"]())
    assert given.login == ("node", "t0ken")
    client.generate_db_auth_token.assert_called_once_with("db.example.eu-west-1.rds.amazonaws.com", 5432, "node")


@pytest.mark.parametrize("preset", ["direct", "postgres"])
def test_settings_are_taken_as_the_page_of_a_preset_prints_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: str
) -> None:
    [code] = blocks(f"templates/presets/{preset}/README.md")
    settings = settings_of(preset, tmp_path, monkeypatch)
    (tmp_path / "password").write_text("s3cr3t")
    (tmp_path / "ca.pem").write_text("")
    monkeypatch.chdir(tmp_path)
    for line in code.splitlines():
        assert eval(line, {"Settings": settings}).targets()


def settings_of(preset: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the settings of a preset's connector. Its transport takes no part in them: what it imports is not here."""
    project = bake(folder, preset=preset, package_name=f"printed_{preset}")
    monkeypatch.setitem(sys.modules, f"{project.name}.transport", MagicMock())
    monkeypatch.syspath_prepend(project / "src")
    return __import__(f"{project.name}.settings").settings.Settings


def test_the_nodes_of_the_contract_page_hear_each_other(package: Package, own_broker: Any) -> None:
    [code] = blocks("docs/contract.md")
    assert printed(package, own_broker, code.replace("redis://127.0.0.1:6379", own_broker.url)) == "{'action': 'P'}\n"


def test_the_message_of_an_old_server_is_an_event() -> None:
    [code] = blocks("docs/deepstream.md")
    assert list(json.loads(code)) == ["topic", "action", "data", "_s"]


def test_a_subscriber_fetches_anew_what_it_missed_as_the_guide_says() -> None:
    code = blocks("docs/litestar.md", "python")[1]

    async def events() -> Any:
        for event in (b"1", b"missed", b"2"):
            yield event

    async def fetch() -> list[bytes]:
        return [b"anew"]

    there = {
        "subscriber": SimpleNamespace(iter_events=events),
        "fetch": fetch,
        "state": [],
        "changed": lambda state, event: [*state, event],
    }
    asyncio.run(evaluate(code, there))
    assert there["state"] == [b"anew", b"2"]


async def evaluate(code: str, there: dict[str, Any]) -> None:
    """Run code that awaits something outside a function."""
    compiled = compile(code, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(compiled, there)
    if inspect.isawaitable(result):
        await result


# The pages of a project.


def test_the_readme_of_a_project_says_how_it_is_used(package: Package, own_broker: Any) -> None:
    [code] = blocks(package.source.parent / "README.md", "python")
    assert printed(package, own_broker, code) == "{'text': 'hello'}\n"


def printed(package: Package, broker: Any, code: str) -> str:
    """Return what code prints, in a process that finds the package and the broker."""
    place = {"PYTHONPATH": str(package.source), f"{package.name.upper()}_URL": broker.url}
    ended = run(sys.executable, "-c", code, cwd=ROOT, environment=place, timeout=60)
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def test_the_readme_of_a_project_says_how_it_is_checked(package: Package, own_broker: Any, tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(package.source), f"{package.name.upper()}_URL": own_broker.url}
    lines = commands(blocks(package.source.parent / "README.md", "console")[1])
    for line in lines:
        words, _, file = line.partition(" > ")
        ended = run(sys.executable, *words.split()[1:], cwd=tmp_path, environment=environment)
        assert ended.returncode == 0, ended.stdout
        if file:
            (tmp_path / file).write_text(ended.stdout.replace("redis://127.0.0.1:6379", own_broker.url))
