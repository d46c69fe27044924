"""The repository, and each that is made from it, has files that GitHub can read; each preset has all that it needs."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from baking import PRESETS, QUESTIONS, ROOT, bake, run
from offering import lacks
from test_docs import LINK

PACKAGE = "{{cookiecutter.package_name}}"
SCHEMAS = {
    r"workflows/\w+\.yml": ("vendor.github-workflows", "custom.github-workflows-require-timeout"),
    r"ISSUE_TEMPLATE/(?!config)\w+\.yml": ("vendor.github-issue-forms",),
    r"ISSUE_TEMPLATE/config\.yml": ("vendor.github-issue-config",),
    r"dependabot\.yml": ("vendor.dependabot",),
}
ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"
FOLLOWED = {("pypa/gh-action-pypi-publish", "release/v1  # follows its current version, as PyPI advises")}
"""The action that is not pinned."""


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A project of each preset."""
    return {preset: bake(tmp_path_factory.mktemp(preset), preset=preset) for preset in PRESETS}


def check_schemas(folder: Path) -> None:
    """Check what GitHub reads against its schemas."""
    github = folder / ".github"
    names = [path.relative_to(github).as_posix() for path in github.rglob("*.yml")]
    known = {pattern: [name for name in names if re.fullmatch(pattern, name)] for pattern in SCHEMAS}
    assert sorted(name for files in known.values() for name in files) == sorted(names)
    for pattern, files in known.items():
        for schema in SCHEMAS[pattern] if files else ():
            ended = run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *files, cwd=github)
            assert ended.returncode == 0, ended.stdout


def test_github_can_read_our_files() -> None:
    check_schemas(ROOT)


@pytest.mark.parametrize("preset", PRESETS)
def test_github_can_read_the_files_of_a_project(projects: dict[str, Path], preset: str) -> None:
    check_schemas(projects[preset])


def test_actionlint_finds_nothing(projects: dict[str, Path]) -> None:
    command = ["actionlint"] if shutil.which("actionlint") else ["go", "run", ACTIONLINT]
    if not shutil.which(command[0]) or run(*command, "-version", cwd=ROOT).returncode:
        pytest.skip("actionlint is not here, and go cannot fetch it")
    files = [path for folder in (ROOT, *projects.values()) for path in workflows(folder)]
    ended = run(*command, "-shellcheck=", "-pyflakes=", *files, cwd=ROOT)
    assert ended.returncode == 0, ended.stdout


def workflows(folder: Path) -> list[Path]:
    """Return a repository's workflows."""
    return sorted((folder / ".github" / "workflows").iterdir())


def actions(folder: Path) -> set[tuple[str, str]]:
    """Return the actions of a repository's workflows, each with what it is pinned to, and the comment on it."""
    text = "".join(path.read_text(encoding="utf-8") for path in workflows(folder))
    return set(re.findall(r"uses: ((?!\./)[\w./-]+)@(.+)", text))


def test_actions_are_pinned_everywhere_to_the_same_version(projects: dict[str, Path]) -> None:
    pins: dict[str, set[str]] = {}
    for action, pin in set().union(*(actions(folder) for folder in (ROOT, *projects.values()))) - FOLLOWED:
        assert re.fullmatch(r"[0-9a-f]{40}  # v\d+\.\d+\.\d+", pin), action
        pins.setdefault(action, set()).add(pin)
    assert pins
    assert all(len(different) == 1 for different in pins.values()), pins


def test_workflows_have_no_more_rights_than_they_need(projects: dict[str, Path]) -> None:
    for folder in (ROOT, *projects.values()):
        for path in workflows(folder):
            workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
            assert workflow["permissions"] == {"contents": "read"}, path
            more = {job: told["permissions"] for job, told in workflow["jobs"].items() if "permissions" in told}
            wanted = {"release": {"contents": "write"}} if folder == ROOT else {"publish": {"id-token": "write"}}
            assert more == (wanted if path.name == "release.yml" else {}), path


@pytest.mark.parametrize("preset", PRESETS)
def test_the_ci_of_a_project_installs_what_its_broker_needs(projects: dict[str, Path], preset: str) -> None:
    path = projects[preset] / ".github" / "workflows" / "test.yml"
    job = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]["test"]
    assert job["env"] == {"REQUIRE_BROKERS": "1"}
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert re.search(r'\btox run -e "\$\{\{ matrix\.tox \}\}"$', commands[-1])
    install = "sudo apt-get install -y --no-install-recommends "
    installed = [word for line in commands if line.startswith(install) for word in line.removeprefix(install).split()]
    assert installed == QUESTIONS["_presets"][preset]["apt"]
    assert installed or preset in ("blank", "nats")


def test_the_place_of_the_repository_stands_once() -> None:
    place = re.compile(r"(?:github\.com[/:]|gh:)[^/\s]+/msg-connector-template|OWNER/")
    found = [
        (path.relative_to(ROOT).as_posix(), match)
        for path in texts()
        for match in place.findall(path.read_text(encoding="utf-8", errors="replace"))
    ]
    assert [page for page, _ in found] == ["README.md"], found


def texts() -> Iterator[Path]:
    """Return the files of the repository."""
    left_out = re.compile(r"\.git|\.tox|\.\w+_cache|\.hypothesis|\.?venv|__pycache__|node_modules|dist|demo")
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if not left_out.fullmatch(name)]
        yield from (path for name in names if (path := Path(folder, name)) != Path(__file__) and name != ".git")


def test_contributing_names_each_environment_of_tox() -> None:
    made = re.findall(r"^\[testenv:(\w+)\]", (ROOT / "tox.ini").read_text(encoding="utf-8"), re.MULTILINE)
    told = re.findall(r"tox run -e ([\w,]+)", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert set(",".join(told).split(",")) == {*made, "py", "report"}  # the latter is a connector's


PAGES = [*ROOT.glob("*.md"), *(ROOT / ".github").rglob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        if not re.match(r"https?://", target):
            path = page.parent / target if target else page
            assert path.is_file(), f"{link} leads nowhere"
            assert not anchor or anchor in anchors(path), f"{link} names no anchor"


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page: those that stand in it, and those that GitHub makes of its headings."""
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings} | {
        *re.findall(r'<a id="([^"]+)"', text)
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_lacks_nothing_of_the_list_in_contributing(preset: str) -> None:
    assert [*lacks(preset)] == []


def test_each_thing_that_a_preset_lacks_is_named() -> None:
    missing = [*lacks("pigeon")]
    for part in ("transport.py", "README.md", "`preset` in", "`__prompts__`", "`_presets`", "docs/brokers.md"):
        assert [line for line in missing if part in line], part
    assert missing[-1].endswith("tox run -e conformance -- pigeon")
