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


@pytest.mark.parametrize("preset", ["blank", "kafka"])
def test_a_newer_contract_comes_past_an_edited_transport(
    template: Path, shell: Shell, tmp_path: Path, preset: str
) -> None:
    answers = json.dumps({"preset": preset, "package_name": "my_connector", "author_name": 'Zoë "Z" O\'Neil \\'})
    cruft(shell, tmp_path, "create", template, "--no-input", "--extra-context", answers)
    project = tmp_path / "my_connector"
    shell("git", "init", "--quiet", cwd=project)
    commit(shell, project, "As it was made")
    cruft(shell, project, "check")

    transport = project / "src" / "my_connector" / "transport.py"
    text = transport.read_text(encoding="utf-8")
    edited = text.replace("        raise NotImplementedError\n", "        self.mine = True\n") + "\n# mine to the end\n"
    transport.write_text(edited, encoding="utf-8")
    (project / "src" / "my_connector" / "mine.py").write_text('"""Mine."""\n', encoding="utf-8")
    commit(shell, project, "Mine")

    packed = template / "{{cookiecutter.package_name}}"
    machinery = Path("src", "{{cookiecutter.package_name}}", "contract")
    newer = {
        machinery / "topics.py": (packed / machinery / "topics.py").read_text(encoding="utf-8") + "\nNEWER = True\n",
        machinery / "newer.py": '"""What a newer contract needs; {{ this }} is no question."""\n',
        Path("tests", "contract", "test_newer.py"): "def test_newer() -> None:\n    pass\n",
    }
    for path, content in newer.items():
        (packed / path).write_text(content, encoding="utf-8")
    (packed / machinery / "escaping.py").unlink()
    commit(shell, template, "A newer contract")

    cruft(shell, project, "update", "--skip-apply-ask")
    for path, content in newer.items():
        arrived = project / str(path).replace("{{cookiecutter.package_name}}", "my_connector")
        assert arrived.read_text(encoding="utf-8") == content
    assert not (project / "src" / "my_connector" / "contract" / "escaping.py").exists()
    managed = (project / "tests" / "contract" / "managed.txt").read_text(encoding="utf-8")
    assert "my_connector/contract/newer.py" in managed
    assert "escaping.py" not in managed
    assert transport.read_text(encoding="utf-8") == edited
    assert not [*project.rglob("*.rej"), *project.rglob("*.orig")]
    assert "<<<<<<<" not in "".join(file.read_text(encoding="utf-8") for file in project.rglob("*.py"))
    commit(shell, project, "Updated")
    cruft(shell, project, "check")
    changed = shell("git", "diff", "--name-only", "HEAD~1", cwd=project).split()
    assert [name for name in changed if "contract/" not in name] == [".cruft.json"]


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
