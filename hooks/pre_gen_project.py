"""Checks the answers before any file is written. When it fails, cookiecutter removes the folder that it made."""

from __future__ import annotations

import json
import keyword
import re
import sys
import unicodedata
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# Jinja writes both here as one ASCII string literal, so that nothing in them is read as code.
ANSWERS: dict[str, Any] = json.loads({{cookiecutter | jsonify | jsonify}})  # type: ignore  # noqa: F821, PGH003
# This is rendered in the template's folder. No variable of cookiecutter holds it for all the tools that call this.
TEMPLATE = Path(json.loads({{lipsum.__globals__.os.getcwd() | jsonify | jsonify}}))  # type: ignore  # noqa: F821, PGH003

# Older ones find no file in templates/ (cookiecutter), and do not name the standard library's modules (Python).
OLDEST_COOKIECUTTER = (2, 2)
OLDEST_PYTHON = (3, 10)


def what_is_too_old() -> str | None:
    """One sentence for whoever runs this on too old a cookiecutter or Python."""
    tool = "cruft" if "_commit" in ANSWERS else "cookiecutter"
    newest = f"`pipx run {tool} ...` runs the newest one, whatever is installed."
    if sys.version_info[:2] < OLDEST_PYTHON:
        needed, found = "Python 3.10", sys.version.split()[0]
        newest = f"`pipx run --python python3.11 {tool} ...` runs {tool} on a newer one."
    else:
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("cookiecutter")
        except PackageNotFoundError:
            return None
        if tuple(map(int, re.findall(r"\d+", found)[:2])) >= OLDEST_COOKIECUTTER:
            return None
        needed = "cookiecutter 2.2"
    return f"This template needs {needed} or newer, and this is {found}: {newest} Nothing was made."


if __name__ == "__main__" and (sentence := what_is_too_old()):
    sys.exit(sentence)

QUESTIONS: dict[str, Any] = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))

# fmt: off
# What every connector uses, whatever its broker and its host. Each preset's own modules are listed in cookiecutter.json.
MODULES_OF_ALL = {
    "annotated_types", "dotenv", "msgspec", "pydantic", "pydantic_core", "pydantic_settings", "pyee",
    "typing_extensions", "typing_inspection",
    "ast_serialize", "cachetools", "cffi", "colorama", "coverage", "cryptography", "distlib", "editables", "execnet", "filelock", "hatchling", "hypothesis", "idna", "iniconfig",
    "librt", "mypy", "mypy_extensions", "mypyc", "packaging", "pathspec", "pip", "platformdirs", "pluggy", "py", "pycparser", "pygments",
    "pyproject_api", "pytest", "pytest_asyncio", "pytest_cov", "pytest_timeout", "python_discovery", "ruff", "setuptools",
    "pkg_resources", "sortedcontainers", "tomli_w", "tox", "trustme", "virtualenv", "wheel", "xdist",
    "aiohttp", "anyio", "asgiref", "bidict", "channels", "channels_redis", "django", "engineio", "litestar", "socketio",
    "starlette", "uvicorn", "websockets", "wsproto", "yaml",
}
# Distributions that have another name than their module, with the underscores of a module.
DISTRIBUTIONS_OF_ALL = {"pytest_xdist", "python_engineio", "python_socketio"}
# A connector runs on each Python from 3.11: since then, these have left its standard library or entered it.
MODULES_OF_SOME_PYTHONS = {
    "aifc", "annotationlib", "asynchat", "asyncore", "audioop", "cgi", "cgitb", "chunk", "compression", "crypt",
    "distutils", "imghdr", "imp", "lib2to3", "mailcap", "msilib", "nis", "nntplib", "ossaudiodev", "pipes", "smtpd",
    "sndhdr", "spwd", "sunau", "telnetlib", "uu", "xdrlib", "test",
}
# fmt: on
STANDARD_MODULES = sys.stdlib_module_names | MODULES_OF_SOME_PYTHONS
DEVICES_OF_WINDOWS = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{port}{number}" for port in ("com", "lpt") for number in range(10)),
}
IMPORTED_BY_ITSELF = {"sitecustomize", "usercustomize", "conftest"}
FOLDERS_OF_A_PROJECT = {"src", "tests"}
LEFT_OUT_BY_TOOLS = {"build", "dist", "node_modules", "venv"}
KEYWORDS = {*keyword.kwlist, *keyword.softkwlist, "type"}

# What cookiecutter itself obeys, besides the variables that the template has.
STEERS_COOKIECUTTER = ("_extensions", "_new_lines")

# Cookiecutter renders the stored answers when a project is updated: what looks like its language would be run then.
JINJA = tuple("{" + character for character in "#%{")

EMAIL = re.compile(r"[\w!#$%&'*+/=?^`{|}~-]+(\.[\w!#$%&'*+/=?^`{|}~-]+)*@[^@]+", re.ASCII)
DOMAIN = re.compile(r"([^\W_]+(-+[^\W_]+)*\.)+(?!\d+$)[^\W_]+(-+[^\W_]+)*")


def one_line(text: str) -> bool:
    """Whether nothing in the text breaks or reorders the line, controls a terminal, or cannot be written to a file."""
    return not any(
        unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}
        or unicodedata.bidirectional(character) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
        for character in text
    )


def faults_of_any(text: str) -> Iterator[str]:
    if any(opening in text for opening in JINJA):
        yield f"must not hold {', '.join(JINJA)}, which would be run when the project is updated"


def used_by_connectors() -> set[str]:
    """The modules and the distributions that a connector, its broker's client or its tests use."""
    names = MODULES_OF_ALL | DISTRIBUTIONS_OF_ALL
    for preset in QUESTIONS["_presets"].values():
        names.update(module.partition(".")[0] for module in preset["modules"])
        for requirement in chain(preset["requires"], preset["extras"].values(), preset["test_requires"]):
            names.add(re.sub(r"[-_.]+", "_", re.split(r"[^\w.-]", requirement)[0].lower()))
    return names


def faults_of_package_name(name: str) -> Iterator[str]:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        yield "must be a lower-case identifier: a letter from a to z, then letters, digits and underscores"
    elif name.endswith("_"):
        yield "must not end with an underscore: the name on the package index is made of it"
    if len(name) > 60:
        yield "must have at most 60 characters"
    if name in KEYWORDS:
        yield "must not be a keyword of Python"
    if name in STANDARD_MODULES:
        yield "must not be a module of the standard library"
    if name in used_by_connectors():
        yield "must not be a module or a package that connectors or their brokers' clients use"
    if name in DEVICES_OF_WINDOWS:
        yield "is a reserved device name on Windows: choose another"
    if name in IMPORTED_BY_ITSELF:
        yield "must not be a module that Python or pytest imports by itself"
    if name in FOLDERS_OF_A_PROJECT:
        yield "must not be src or tests, which are folders of each project"
    if name in LEFT_OUT_BY_TOOLS:
        yield "must not be a folder that tools leave out: build, dist, node_modules or venv"


def faults_of_text(text: str) -> Iterator[str]:
    if not one_line(text) or not any(character.isprintable() and not character.isspace() for character in text):
        yield "must be one line, not empty, without control characters"


def faults_of_email(text: str) -> Iterator[str]:
    if not EMAIL.fullmatch(text) or not DOMAIN.fullmatch(text.rpartition("@")[2]):
        yield "must be an e-mail address, like you@example.com"


def faults_of_url(text: str) -> Iterator[str]:
    try:
        parts = urlsplit(text)
        has_host = any(character.isalnum() for character in parts.hostname or "") and parts.port != 0
    except ValueError:
        has_host = False
    if not (has_host and parts.scheme in {"http", "https"} and one_line(text) and not re.search(r"\s", text)):
        yield "must be one http:// or https:// URL with a host, without spaces"
    elif "@" in parts.netloc:
        yield "must hold no user and no password, since everybody can read it"


CHECKS = {
    "broker_name": faults_of_text,
    "package_name": faults_of_package_name,
    "author_name": faults_of_text,
    "author_email": faults_of_email,
    "repository_url": faults_of_url,
}


def derived() -> dict[str, str]:
    """What cookiecutter.json makes of the package's name."""
    name = ANSWERS["package_name"]
    return {
        "__one_folder": name,
        "__distribution": name.replace("deepstream_msg_", "deepstream.io-msg-", 1).replace("_", "-"),
        "__entry_point": name.replace("deepstream_msg_", "", 1).replace("_", "-"),
    }


def faults_of_answers() -> Iterator[tuple[str, Any, str]]:
    """Each answer that cannot be used, and the rule: its field, the answer, the rule."""
    # A package_name that cannot be a folder is kept in __one_folder, see cookiecutter.json.
    kept = ANSWERS["__one_folder"]
    kept_aside = ANSWERS["package_name"] == "not-one-folder" and any(faults_of_package_name(str(kept)))
    for field, question in QUESTIONS.items():
        if field.startswith("_"):
            continue
        answer = kept if kept_aside and field == "package_name" else ANSWERS[field]
        if field in CHECKS:
            if isinstance(answer, str):
                rules = chain(CHECKS[field](answer), faults_of_any(answer))
            else:
                rules = chain(["must be text"])
            yield from ((field, answer, rule) for rule in rules)
        elif answer not in question:
            yield field, answer, f"must be one of {', '.join(question)}"


def faults_of_own_variables() -> Iterator[tuple[str, Any, str]]:
    """Each variable that is the template's own, and that a replay file or a command line has changed."""
    for field in (*QUESTIONS, *STEERS_COOKIECUTTER):
        if field.startswith("_") and not field.startswith("__") and ANSWERS.get(field) != QUESTIONS.get(field):
            yield field, ANSWERS.get(field), "must not be answered: it is the template's own"
    if isinstance(ANSWERS["package_name"], str) and ANSWERS["package_name"] != "not-one-folder":
        for field, name in derived().items():
            if ANSWERS[field] != name:
                yield field, ANSWERS[field], f"must not be answered: it is {shown(name)}, made of package_name"


def shown(answer: Any) -> str:
    text = re.sub("//[^/]*@", "//**********@", repr(answer))
    return text if len(text) <= 70 else f"{text[:50]}...{text[-17:]}"


def main() -> int:
    faults = [
        f"  {field}: {shown(answer)} {rule}"
        for field, answer, rule in chain(faults_of_answers(), faults_of_own_variables())
    ]
    if faults:
        again = "Nothing was made. A default can be given: cookiecutter TEMPLATE author_name=Ann"
        print("These answers cannot be used:", *faults, again, sep="\n", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
