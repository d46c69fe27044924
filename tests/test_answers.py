"""Good answers end in correct files, bad ones are all named at once, and no answer is ever executed."""

import ast
import json
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from baking import PRESETS, QUESTIONS, ROOT, bake, own_config
from cookiecutter.exceptions import FailedHookException
from cookiecutter.main import cookiecutter
from jinja2 import Environment, StrictUndefined
from markdown_it import MarkdownIt

LICENSES: list[str] = QUESTIONS["license"]
TEXTS = ("broker_name", "author_name")
CHOICES = ("preset", "serialization", "license")
CHECKED = (*TEXTS, "package_name", "author_email", "repository_url")
DERIVED = ("__one_folder", "__distribution", "__entry_point")

HOSTILE = [
    """both 'kinds' of "quotes", mostly "double\"""",
    "it's 'single' ''' mostly",
    'three """ in a row',
    '"',
    "\\",
    r"back\slashes \n \x41 \u0041 \N{BULLET} and one at the end \\"[:-1],
    r"C:\temp\"quoted\"",
    "{x} {} {0!r:>10} {x {y}} }}",
    "%s %(name)s %% 100%",
    "Zoë Ångström, 北京, Привет, עברית",
    "\N{RABBIT FACE}\N{GRINNING FACE} \N{MAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER}",
    "$(touch sentinel) `touch sentinel` ; touch sentinel & | > sentinel",
    "'; import os; os.mkdir('sentinel'); '",
    '"; import os; os.mkdir("sentinel"); "',
    '" ] [project]',
    "# no comment <b>&amp;</b> [link](x) ~~ ** __",
    " \N{NO-BREAK SPACE} spaced \N{EM SPACE}",
]
LIKE_JINJA = [
    "{{ 7 * 7 }}",
    "{{ cycler.__init__.__globals__.os.mkdir('sentinel') }}",
    "{% for x in y %}{# no comment",
    "{% raw %}{{ cookiecutter.author_name }}{% endraw %}",
    "{{ cookiecutter",
]

# fmt: off
NOT_ONE_LINE = [
    "", " ", "\t", "a\nb", "a\n", "\na", "a\rb", "a\tb", "a\x00b", "a\x1b[31mb", "a\x7fb", "a\x85b", "a\u2028b",
    "a\u2029b", "a\vb", "a\fb", "\N{ZERO WIDTH SPACE}", "\udc80", "a\ud83db",
    "a\N{RIGHT-TO-LEFT OVERRIDE}b", "a\N{LEFT-TO-RIGHT EMBEDDING}b", "a\N{FIRST STRONG ISOLATE}b",
]
BAD_PACKAGE_NAMES = {
    "lower-case identifier": [
        "", " ", ".", "..", "a.b", "My_broker", "ÿ", "straße", "a-b", "a b", "1a", "_a", "__", "a\n", "\na", "a\x00",
        "\N{FULLWIDTH LATIN SMALL LETTER A}", "a\N{ARABIC-INDIC DIGIT THREE}", "../outside", "/outside", "a/b", "a\\b",
        "~", "-", "-rf", "$(touch sentinel)", "a" * 300 + "/", "a;b", "a'b", 'a"b', "\udc80", "\ud83d",
        "not-one-folder",
    ],
    "end with an underscore": ["a_", "deepstream_msg_"],
    "at most 60 characters": ["a" * 61, "a" * 300, "A" * 61],
    "keyword": ["class", "async", "await", "None", "True", "match", "case", "type", "_"],
    "standard library": [
        "json", "asyncio", "this", "types", "queue", "cgi", "distutils", "compression", "_thread", "test", "site",
        "winreg", "posix",
    ],
    "clients use": [
        "msgspec", "pyee", "pydantic", "pydantic_settings", "pydantic_core", "pytest", "hypothesis", "pytest_xdist",
        "channels", "litestar", "socketio", "python_socketio", "paho_mqtt", "nats_py", "google_cloud_pubsub",
        "python_qpid_proton", "eclipse_zenoh", "azure_servicebus", "pkg_resources",
        *(module for preset in QUESTIONS["_presets"].values() for module in preset["modules"] if "." not in module),
    ],
    "folders of each project": ["src", "tests"],
    "device name on Windows": ["con", "prn", "aux", "nul", "com0", "com1", "com9", "lpt1", "lpt9"],
    "imports by itself": ["conftest", "sitecustomize", "usercustomize"],
    "tools leave out": ["build", "dist", "node_modules", "venv"],
}
BAD_EMAILS = [
    "", "you", "you@", "@example.com", "you@example", "you@@example.com", "a@b@example.com", "a b@example.com",
    "you@exa mple.com", "you@example.com\n", "you@.com", "you@example.", "you@example..com", ".you@example.com",
    "you.@example.com", "y..u@example.com", "<you@example.com>", '"you"@example.com', "you@127.0.0.1", "you@-a.com",
    "jörg@example.com", "you@example.com,me@example.com", "you@example.com\x00", "you\\@example.com", "you@a.\udc80",
]
BAD_URLS = [
    "", "example.com", "//example.com", "ftp://example.com", "javascript:alert(1)", "file:///etc/passwd",
    "http:example", "https://", "https:///path", "https://:80", "http://?x", "http://#x", "https://user@",
    "http://[::1", "https://.", "https://example.com:port", "https://example.com:99999", "https://exam ple.com",
    "https://example.com/a b", " https://example.com", "https://example.com\n", "https://example.com/\u2028",
    "https://example.com/\x00", "https://example.com/\N{NO-BREAK SPACE}", "https://example.com/\udc80",
    "git@example.com:me/it.git",
]
URLS_WITH_SECRETS = ["https://me:s3same@example.com/me", "https://s3same@example.com", "http://@example.com"]
# fmt: on

BAD = [(field, text, "one line") for field in TEXTS for text in NOT_ONE_LINE]
BAD += [("package_name", name, rule) for rule, names in BAD_PACKAGE_NAMES.items() for name in names]
BAD += [("author_email", email, "e-mail address") for email in BAD_EMAILS]
BAD += [("repository_url", url, "URL") for url in BAD_URLS]
BAD += [("repository_url", url, "no password") for url in URLS_WITH_SECRETS]

TO_RUN = """json"\nimport os; os.mkdir("sentinel")\n#"""
OTHER_PRESETS = {preset: {"requires": ["something-else"]} for preset in sorted(QUESTIONS["_presets"])}
REPLAYED: list[tuple[str, Any, str]] = [
    *((field, answer, "must be one of") for field in CHOICES for answer in (TO_RUN, "", "../blank", None, 1, ["json"])),
    *((field, answer, "must be text") for field in CHECKED for answer in (None, 1, True, ["a"], {"a": "b"})),
    *((field, answer, "made of package_name") for field in DERIVED for answer in (TO_RUN, "", "../up", None, ["a"])),
    ("package_name", "../up", "lower-case identifier"),
    ("package_name", "json", "standard library"),
    ("author_name", "{{ 7 * 7 }}", "when the project is updated"),
    ("_presets", OTHER_PRESETS, "template's own"),
    ("_presets", {}, "template's own"),
    ("_copy_without_render", ["*"], "template's own"),
    ("_jinja2_env_vars", {"trim_blocks": False}, "template's own"),
    ("_extensions", ["jinja2.ext.do"], "template's own"),
    ("_new_lines", "\r\n", "template's own"),
]


def type_in(folder: Path, **answers: str) -> "subprocess.CompletedProcess[str]":
    """Answer cookiecutter's questions on its standard input; no answer is the default."""
    lines = [
        str(default.index(answers[field]) + 1)
        if isinstance(default, list) and field in answers
        else answers.get(field, "")
        for field, default in QUESTIONS.items()
        if not field.startswith("_")
    ]
    folder.mkdir()
    home = folder.parent / "home"
    home.mkdir()
    return subprocess.run(
        [sys.executable, "-m", "cookiecutter", str(ROOT), "-o", str(folder), "--config-file", str(own_config(home))],
        input="".join(f"{line}\n" for line in lines),
        env={**os.environ, "PYTHONUTF8": "1"},
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
    )


def constants(module: Path) -> dict[str, Any]:
    """What a module assigns to its names, without running it."""
    values = {}
    for statement in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            values[statement.targets[0].id] = ast.literal_eval(statement.value)
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
            values[statement.target.id] = ast.literal_eval(statement.value)
    return values


def assert_holds(project: Path, answers: dict[str, str]) -> None:
    """Every answer is found in the project, letter by letter, and each file of it can be read."""
    package = answers["package_name"]
    about = constants(project / "src" / package / "about.py")
    assert about["BROKER_NAME"] == answers["broker_name"]
    assert about["SERIALIZATION"] == answers.get("serialization", "json")
    table = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert table["authors"] == [{"name": answers["author_name"], "email": answers["author_email"]}]
    assert answers["broker_name"] in table["description"]
    assert table["urls"]["Repository"] == answers["repository_url"]
    assert table["entry-points"]["deepstream.msg"].popitem()[1] == f"{package}:Connector"
    readme = MarkdownIt("commonmark").parse((project / "README.md").read_text(encoding="utf-8"))
    first_paragraph = [token.children or [] for token in readme if token.type == "inline"][1]
    assert {child.type for child in first_paragraph} == {"text", "softbreak"}
    assert f"through {answers['broker_name']}, so" in "".join(child.content for child in first_paragraph)
    license = (project / "LICENSE").read_text(encoding="utf-8")
    assert f"Copyright (c) {answers['author_name']}" in license
    for module in project.rglob("*.py"):
        ast.parse(module.read_text(encoding="utf-8"), module.name)
    for document in project.rglob("*.toml"):
        tomllib.loads(document.read_text(encoding="utf-8"))


def good_answers(**changes: str) -> dict[str, str]:
    answers = {
        "broker_name": "Broker",
        "package_name": "my_broker",
        "author_name": "Me",
        "author_email": "me@example.com",
    }
    return {**answers, "repository_url": "https://example.com/me", **changes}


def as_they_are(answers: dict[str, str]) -> dict[str, str]:
    """These answers for cookiecutter's own Jinja, which renders (and trims) whatever is not typed in."""
    return {field: f"{{{{ {json.dumps(answer, ensure_ascii=False)} }}}}" for field, answer in answers.items()}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"package_name": "a"},
        {"package_name": "a" * 60},
        {"package_name": "deepstream_msg_2"},
        {"package_name": "contract"},
        {"package_name": "redis_2"},
        {"serialization": "msgpack"},
        {"author_email": "first.last+tag@mail.example.co.uk"},
        {"author_email": "o'brien@example.ie"},
        {"author_email": "you@xn--bcher-kva.example"},
        {"repository_url": "http://localhost:8080/a?b=c#d"},
        {"repository_url": "https://[::1]/me"},
        {"repository_url": "HTTPS://example.com/'\"\\{x}%20"},
        {"broker_name": "x" * 500, "author_name": "y" * 500},
    ],
)
def test_good_answers_end_in_correct_files(tmp_path: Path, changes: dict[str, str]) -> None:
    answers = good_answers(**changes)
    assert_holds(bake(tmp_path, **answers), answers)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_default_answers_of_each_preset_are_good(tmp_path: Path, preset: str) -> None:
    project = bake(tmp_path, preset=preset)
    assert (
        constants(project / "src" / project.name / "about.py")["BROKER_NAME"] == QUESTIONS["_presets"][preset]["broker"]
    )


@pytest.mark.parametrize("license", LICENSES)
def test_each_license_is_there(tmp_path: Path, license: str) -> None:
    answers = good_answers(license=license, author_name='Zoë "Z" \N{RABBIT FACE}')
    project = bake(tmp_path, **answers)
    assert_holds(project, answers)
    first_line = (project / "LICENSE").read_text(encoding="utf-8").lstrip().splitlines()[0]
    assert first_line.split()[0] in {"Apache", "MIT", "BSD", "Copyright"}


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_ends_in_correct_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    answers = good_answers(broker_name=text, author_name=text)
    assert_holds(bake(tmp_path / "made", **as_they_are(answers)), answers)
    assert not list(tmp_path.rglob("sentinel"))


@pytest.mark.parametrize("text", HOSTILE[:-1])
def test_hostile_text_that_is_typed_in_ends_in_correct_files(tmp_path: Path, text: str) -> None:
    answers = good_answers(broker_name=text, author_name=text)
    ended = type_in(tmp_path / "made", **answers)
    assert ended.returncode == 0, ended.stderr
    assert_holds(tmp_path / "made" / "my_broker", answers)
    assert not list(tmp_path.rglob("sentinel"))


@pytest.mark.parametrize("text", LIKE_JINJA)
def test_what_an_update_would_run_is_refused(tmp_path: Path, text: str) -> None:
    ended = type_in(tmp_path / "made", broker_name=text, author_name=text, package_name="my_broker")
    assert ended.returncode != 0
    for field in TEXTS:
        assert f"{field}: {text!r}"[:40] in ended.stderr
    assert "when the project is updated" in ended.stderr
    assert not list((tmp_path / "made").iterdir())
    assert not list(tmp_path.rglob("sentinel"))


@pytest.mark.parametrize(("field", "answer", "rule"), BAD)
def test_a_bad_answer_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], field: str, answer: str, rule: str
) -> None:
    with pytest.raises(FailedHookException):
        bake(tmp_path / "made", **as_they_are(good_answers(**{field: answer})))
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("  ")]
    assert any(rule in line for line in lines), lines
    assert all(line.startswith(f"  {field}: ") for line in lines)
    assert "s3same" not in "".join(lines)
    assert [path.name for path in tmp_path.rglob("*")] == ["made"]


@pytest.mark.parametrize("package_name", ["json", "../outside", "A" * 300])
def test_all_faults_are_named_at_once(tmp_path: Path, capfd: pytest.CaptureFixture[str], package_name: str) -> None:
    answers = {"broker_name": "a\nb", "package_name": package_name, "author_name": "", "author_email": "you"}
    answers["repository_url"] = "ftp://example.com"
    with pytest.raises(FailedHookException):
        bake(tmp_path / "made", **as_they_are(answers))
    said = capfd.readouterr().err.splitlines()
    again = "Nothing was made. A default can be given: cookiecutter TEMPLATE author_name=Ann"
    assert said[said.index("These answers cannot be used:") :].count(again) == 1
    lines = [line.split() for line in said if line.startswith("  ")]
    assert list(dict.fromkeys(line[0].rstrip(":") for line in lines)) == list(answers)
    for field, answer in answers.items():
        shown = next(line[1] for line in lines if line[0] == f"{field}:")
        assert shown.startswith(repr(answer)[:40])
    assert max(map(len, map(" ".join, lines))) < 200
    assert [path.name for path in tmp_path.rglob("*")] == ["made"]


@pytest.mark.parametrize(
    "package_name", ["{{ 7 * 7 }}", "{{ cycler.__init__.__globals__.os.mkdir('sentinel') }}", "../up"]
)
def test_a_bad_package_name_that_is_typed_in_is_refused(tmp_path: Path, package_name: str) -> None:
    ended = type_in(tmp_path / "made", package_name=package_name, author_email="{{ 7 * 7 }}")
    assert ended.returncode != 0
    assert f"package_name: {package_name!r} must be a lower-case identifier" in ended.stderr
    assert "author_email: '{{ 7 * 7 }}' must be an e-mail address" in ended.stderr
    assert not list((tmp_path / "made").iterdir())
    assert not list(tmp_path.rglob("sentinel"))


@pytest.fixture(scope="module")
def replayable(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What cookiecutter keeps of good answers, to replay them."""
    folder = tmp_path_factory.mktemp("replayable")
    cookiecutter(
        str(ROOT),
        no_input=True,
        extra_context=good_answers(),
        output_dir=str(folder / "made"),
        config_file=str(own_config(folder)),
    )
    (kept,) = (folder / "replay").iterdir()
    context: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return context


def replay(tmp_path: Path, context: dict[str, Any], **changes: Any) -> None:
    """Make a project in tmp_path/made of the answers in a file, some of them changed."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "answers.json").write_text(json.dumps({"cookiecutter": {**context["cookiecutter"], **changes}}))
    made = str(tmp_path / "made")
    cookiecutter(str(ROOT), replay=str(home / "answers.json"), output_dir=made, config_file=str(own_config(home)))


def test_good_answers_can_be_replayed(tmp_path: Path, replayable: dict[str, Any]) -> None:
    replay(tmp_path, replayable)
    assert_holds(tmp_path / "made" / "my_broker", good_answers())


@pytest.mark.parametrize(("field", "answer", "rule"), REPLAYED)
def test_a_bad_answer_of_a_replay_file_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], replayable: dict[str, Any], field: str, answer: Any, rule: str
) -> None:
    with pytest.raises(FailedHookException):
        replay(tmp_path, replayable, **{field: answer})
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("  ")]
    assert any(line.startswith(f"  {field}: {answer!r}"[:40]) and rule in line for line in lines), lines
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["made"]
    assert not list((tmp_path / "made").iterdir())


def test_a_name_that_is_kept_aside_hides_no_other(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], replayable: dict[str, Any]
) -> None:
    with pytest.raises(FailedHookException):
        replay(tmp_path, replayable, package_name="not-one-folder", __one_folder="good", __distribution=TO_RUN)
    assert "package_name: 'not-one-folder' must be a lower-case identifier" in capfd.readouterr().err
    assert not list((tmp_path / "made").iterdir())


@pytest.mark.parametrize("field", DERIVED)
def test_a_derived_name_of_a_command_line_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], field: str
) -> None:
    with pytest.raises(FailedHookException):
        bake(tmp_path / "made", **{field: 'evil"'})
    assert f"  {field}: 'evil\"' must not be answered: it is " in capfd.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["made"]


@pytest.mark.parametrize("found", ["1.7.2", "1.7.3", "2.1.1", "2.1.2.dev0"])
def test_too_old_a_cookiecutter_is_told_what_is_needed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, found: str
) -> None:
    metadata = tmp_path / "old" / f"cookiecutter-{found}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: cookiecutter\nVersion: {found}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "old"))
    with pytest.raises(FailedHookException):
        bake(tmp_path / "made")
    said = capfd.readouterr().err.splitlines()
    assert said[0].startswith(f"This template needs cookiecutter 2.2 or newer, and this is {found}: `pipx run cookie")
    assert not list((tmp_path / "made").iterdir())


def test_a_cookiecutter_that_cannot_ask_all_questions_asks_no_second_one() -> None:
    # Cookiecutter 1.7 knows no uuid4. It would also ask for each dictionary of cookiecutter.json, and take no answer.
    default = Environment(undefined=StrictUndefined).from_string(QUESTIONS["broker_name"])
    with pytest.raises(SystemExit, match=r"needs cookiecutter 2\.2 or newer: `pipx run cookiecutter"):
        default.render(cookiecutter={"_presets": QUESTIONS["_presets"], "preset": "redis"})


def test_too_old_a_python_is_told_what_is_needed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = "import sys\nsys.version_info, sys.version = (3, 9, 2), '3.9.2 (default)'\ndel sys.stdlib_module_names\n"
    (tmp_path / "sitecustomize.py").write_text(old)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(FailedHookException):
        bake(tmp_path / "made")
    said = capfd.readouterr().err.splitlines()
    assert said[0].startswith("This template needs Python 3.10 or newer, and this is 3.9.2: `pipx run --python")
    assert not list((tmp_path / "made").iterdir())


@pytest.mark.parametrize("hook", ["pre_gen_project.py"])
def test_an_old_python_can_read_what_tells_it(hook: str) -> None:
    ast.parse((ROOT / "hooks" / hook).read_text(encoding="utf-8"), hook, feature_version=(3, 8))


@pytest.mark.parametrize("preset", ["blank", "pubsub"])
def test_a_project_is_made_in_two_seconds(tmp_path: Path, preset: str) -> None:
    took = []
    for turn in range(3):
        before = time.perf_counter()
        bake(tmp_path / str(turn), preset=preset)
        took.append(time.perf_counter() - before)
    assert min(took) < 2


@pytest.mark.parametrize("field", CHOICES)
def test_a_choice_that_is_none_is_refused(tmp_path: Path, field: str) -> None:
    with pytest.raises(ValueError, match=f"choice variable {field}"):
        bake(tmp_path, **good_answers(**{field: "something else"}))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_was_there_is_left_alone(tmp_path: Path) -> None:
    kept = tmp_path / "json" / "kept"
    kept.parent.mkdir()
    kept.write_text("mine")
    with pytest.raises(Exception, match="already exists"):
        bake(tmp_path, package_name="json")
    assert kept.read_text() == "mine"


def test_it_says_what_to_do_next(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bake(tmp_path, preset="blank", package_name="one")
    said = capfd.readouterr().out
    for path in (
        "cd one",
        "tox run -e py",
        "src/one/transport.py",
        "src/one/settings.py",
        "tests/broker.py",
        "tests/settings.py",
        "The client library goes into `dependencies` in pyproject.toml",
        "CONTRIBUTING.md says which files are yours",
    ):
        assert path in said
    bake(tmp_path, preset="redis", package_name="two")
    said = capfd.readouterr().out
    assert "tox run" in said
    assert "python -m two check --url URL" in said
    assert "CONTRIBUTING.md says which files are yours" in said


@pytest.mark.skipif(not hasattr(os, "fork"), reason="closes descriptors by a POSIX shell")
@pytest.mark.parametrize("output", [">&-", "> /dev/full", "| true"])
def test_it_is_made_even_when_nobody_listens(tmp_path: Path, output: str) -> None:
    if "/dev/full" in output and not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    command = f'("$PYTHON" -m cookiecutter "$ROOT" --no-input -o made --config-file "$CONFIG" {output}); test -d made/*'
    names = {
        "PYTHON": sys.executable,
        "ROOT": str(ROOT),
        "CONFIG": str(own_config(tmp_path)),
        "PYTHONIOENCODING": "utf-16",
    }
    ended = subprocess.run(["sh", "-c", command], env={**os.environ, **names}, cwd=tmp_path, capture_output=True)
    assert ended.returncode == 0, ended.stderr
    assert b"hook" not in ended.stderr.lower()


def test_presets_hold_no_jinja() -> None:
    for module in (ROOT / "templates" / "presets").rglob("*.py"):
        text = module.read_text(encoding="utf-8")
        assert not [mark for mark in ("{{", "{%", "{#") if mark in text], module
        ast.parse(text)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_project_has_a_client_module_if_its_preset_has_one(tmp_path: Path, preset: str) -> None:
    says_so = QUESTIONS["_presets"][preset]["client"]
    project = bake(tmp_path, preset=preset)
    assert (ROOT / "templates" / "presets" / preset / "client.py").is_file() is says_so
    assert (project / "src" / project.name / "client.py").is_file() is says_so


@pytest.mark.parametrize("preset", PRESETS)
def test_a_baked_project_has_no_jinja_left(tmp_path: Path, preset: str) -> None:
    project = bake(tmp_path, preset=preset)
    assert not [path for path in project.rglob("*") if "{{" in path.name]
    for path in project.rglob("*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert not [mark for mark in ("{{ cookiecutter", "{{cookiecutter", "{%") if mark in text], path
    assert "${{ matrix.python }}" in (project / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
