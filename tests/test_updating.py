"""`cruft` makes a project, and brings it a newer contract later, past all that its contributor has written."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from baking import ROOT, run

LEFT_OUT = shutil.ignore_patterns(
    ".git", ".tox", ".*_cache", "__pycache__", ".hypothesis", ".venv", "venv", "dist", "demo"
)

Shell = Callable[..., str]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Runs a command that must succeed, with a home and a git of its own; returns what it says."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {"GIT_CONFIG_GLOBAL": str(home / "gitconfig"), "GIT_CONFIG_NOSYSTEM": "1"}
    environment |= {"HOME": str(home), "USERPROFILE": str(home)}
    identity = "[user]\nname = Me\nemail = me@example.com\n[init]\ndefaultBranch = main\n"
    (home / "gitconfig").write_text(identity, encoding="utf-8")

    def shell(*command: str | Path, cwd: Path) -> str:
        ended = run(*command, cwd=cwd, environment=environment)
        assert ended.returncode == 0, ended.stdout
        return ended.stdout

    return shell


@pytest.fixture
def template(tmp_path: Path, shell: Shell) -> Path:
    """A git repository with a copy of the template."""
    template = tmp_path / "template"
    shutil.copytree(ROOT, template, ignore=LEFT_OUT)
    shell("git", "init", "--quiet", cwd=template)
    commit(shell, template, "The template")
    return template


def commit(shell: Shell, repository: Path, message: str) -> None:
    """Commit all that has changed."""
    shell("git", "add", "--all", cwd=repository)
    shell("git", "commit", "--quiet", "--message", message, cwd=repository)


def cruft(shell: Shell, cwd: Path, *words: str | Path) -> str:
    """Run cruft."""
    return shell(sys.executable, "-m", "cruft", *words, cwd=cwd)


def edit(file: Path, old: str, new: str) -> None:
    """Replace a text that is in a file."""
    text = file.read_text(encoding="utf-8")
    assert old in text, f"{old!r} is not in {file}"
    file.write_text(text.replace(old, new), encoding="utf-8")


def release(shell: Shell, template: Path, version: str, preset: str) -> None:
    """Commit a version of the template in which something has changed in every kind of file, and tag it."""
    project = template / "{{cookiecutter.package_name}}"
    contract = project / "src" / "{{cookiecutter.package_name}}" / "contract"
    with (contract / "topics.py").open("a", encoding="utf-8") as topics:
        topics.write(f'VERSION = "{version}"\n')
    (contract / "newer.py").write_text(f'"""New in {version}; {{{{ this }}}} is no question."""\n', encoding="utf-8")
    (contract / "escaping.py").unlink(missing_ok=True)
    new_tests = f"def test_newer() -> None:\n    assert {version!r}\n"
    (project / "tests" / "contract" / "test_newer.py").write_text(new_tests, encoding="utf-8")
    edit(project / "pyproject.toml", '    "msgspec>=', f'    "new-in-{version}",\n    "msgspec>=')
    edit(project / "pyproject.toml", '    "trustme>=', f'    "tests-of-{version}",\n    "trustme>=')
    edit(project / "tox.ini", "description = check style", f"description = check style, in {version}")
    for changed in ("README.md", "CHANGELOG.md", ".github/workflows/test.yml"):
        with (project / changed).open("a", encoding="utf-8") as file:
            file.write(f"# {version}\n")
    transport = template / "templates" / "presets" / preset / "transport.py"
    first, rest = transport.read_text(encoding="utf-8").split("\n", 1)
    transport.write_text(f"{first}\n\n# In {version}.\n{rest}", encoding="utf-8")
    commit(shell, template, version)
    shell("git", "tag", version, cwd=template)


@pytest.mark.parametrize("preset", ["blank", "kafka"])
def test_three_versions_come_past_all_that_a_contributor_has_written(
    template: Path, shell: Shell, tmp_path: Path, preset: str
) -> None:
    shell("git", "tag", "2.0.0", cwd=template)
    answers = json.dumps({"preset": preset, "package_name": "mine", "author_name": 'Zoë "Z" O\'Neil \\'})
    cruft(shell, tmp_path, "create", template, "--checkout", "2.0.0", "--no-input", "--extra-context", answers)
    project = tmp_path / "mine"
    shell("git", "init", "--quiet", cwd=project)
    commit(shell, project, "As it was made")
    contract = project / "src" / "mine" / "contract"
    transport = project / "src" / "mine" / "transport.py"
    yours = {transport, *(project / "tests").glob("*.py"), *(project / "src" / "mine").glob("*.py")}
    yours |= {project / name for name in ("README.md", "CHANGELOG.md", ".github/workflows/test.yml")}

    for number, version in enumerate(["2.1.0", "2.2.0", "3.0.0"]):
        for file in yours:
            with file.open("a", encoding="utf-8") as appended:
                appended.write(f"# mine, {number}\n")
        edit(project / "pyproject.toml", "\ndependencies = [\n", f'\ndependencies = [\n    "client-{number}",\n')
        edit(project / "pyproject.toml", "\ntest = [\n", f'\ntest = [\n    "tests-{number}",\n')
        (project / "src" / "mine" / f"mine_{number}.py").write_text('"""Mine."""\n', encoding="utf-8")
        commit(shell, project, "Mine")
        before = {file: file.read_text(encoding="utf-8") for file in yours}
        release(shell, template, version, preset)

        cruft(shell, project, "update", "--skip-apply-ask", "--checkout", version)
        assert not [*project.rglob("*.rej"), *project.rglob("*.orig")]
        assert "<<<<<<<" not in "".join(file.read_text(encoding="utf-8") for file in project.rglob("*.py"))
        assert f'VERSION = "{version}"' in (contract / "topics.py").read_text(encoding="utf-8")
        assert version in (contract / "newer.py").read_text(encoding="utf-8")
        assert not (contract / "escaping.py").exists()
        managed = (project / "tests" / "contract" / "managed.txt").read_text(encoding="utf-8")
        assert "mine/contract/newer.py" in managed
        assert "escaping.py" not in managed
        told = (project / "pyproject.toml").read_text(encoding="utf-8")
        for line in f"new-in-{version}", f"tests-of-{version}", f"client-{number}", f"tests-{number}", "client-0":
            assert f'    "{line}",\n' in told
        assert f"style, in {version}" in (project / "tox.ini").read_text(encoding="utf-8")
        changed = {file for file in yours if file.read_text(encoding="utf-8") != before[file]}
        assert changed == (set() if preset == "blank" else {transport})
        if changed:
            assert f"# In {version}.\n" in transport.read_text(encoding="utf-8")
            assert f"# mine, {number}\n" in transport.read_text(encoding="utf-8")
        commit(shell, project, f"Updated to {version}")
        cruft(shell, project, "check", "--checkout", version)


@pytest.mark.parametrize(
    ("field", "answer", "rule"),
    [
        ("__distribution", 'evil"', "made of package_name"),
        ("_presets", {"redis": {"requires": ["something-else"]}}, "template's own"),
        ("author_name", "a\nb", "one line"),
        ("serialization", 'json"\nimport os', "choices are"),
    ],
)
def test_no_project_is_made_of_a_bad_answer(
    template: Path, tmp_path: Path, field: str, answer: object, rule: str
) -> None:
    words = "create", template, "--no-input", "--output-dir", tmp_path / "made"
    ended = run(sys.executable, "-m", "cruft", *words, "--extra-context", json.dumps({field: answer}), cwd=tmp_path)
    assert ended.returncode != 0
    assert rule in " ".join(ended.stdout.split())
    assert not list((tmp_path / "made").glob("*"))


def test_a_bad_answer_changes_nothing_in_an_update(template: Path, shell: Shell, tmp_path: Path) -> None:
    cruft(shell, tmp_path, "create", template, "--no-input", "--extra-context", '{"package_name": "mine"}')
    project = tmp_path / "mine"
    shell("git", "init", "--quiet", cwd=project)
    commit(shell, project, "As it was made")
    words = "update", "--skip-apply-ask", "--variables-to-update", '{"author_email": "nobody"}'
    ended = run(sys.executable, "-m", "cruft", *words, cwd=project)
    assert ended.returncode != 0
    assert "author_email: 'nobody' must be an e-mail address" in ended.stdout
    assert shell("git", "status", "--porcelain", cwd=project) == ""
