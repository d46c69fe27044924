"""Checks the answers before any file is written. When it fails, cookiecutter removes the folder that it made."""

import json
import keyword
import re
import sys
import unicodedata
from collections.abc import Iterator
from itertools import chain
from typing import Any
from urllib.parse import urlsplit

# Jinja writes the answers here as one ASCII string literal, so that nothing in them is read as code.
ANSWERS: dict[str, Any] = json.loads({{cookiecutter | jsonify | jsonify}})  # type: ignore  # noqa: F821, PGH003

# fmt: off
# What every connector uses, whatever its broker. Each preset's own modules are listed in cookiecutter.json.
MODULES_OF_ALL = {
    "annotated_types", "dotenv", "msgspec", "pydantic", "pydantic_core", "pydantic_settings", "pyee",
    "typing_extensions", "typing_inspection",
    "ast_serialize", "cachetools", "cffi", "colorama", "coverage", "cryptography", "distlib", "editables", "execnet", "filelock", "hatchling", "hypothesis", "idna", "iniconfig",
    "librt", "mypy", "mypy_extensions", "mypyc", "packaging", "pathspec", "pip", "platformdirs", "pluggy", "py", "pycparser", "pygments",
    "pyproject_api", "pytest", "pytest_asyncio", "pytest_cov", "pytest_timeout", "python_discovery", "ruff", "setuptools",
    "sortedcontainers", "tomli_w", "tox", "trustme", "virtualenv", "wheel", "xdist",
}
# A connector runs on each Python from 3.11: since then, these have left its standard library or entered it.
MODULES_OF_SOME_PYTHONS = {
    "aifc", "annotationlib", "asynchat", "asyncore", "audioop", "cgi", "cgitb", "chunk", "compression", "crypt",
    "distutils", "imghdr", "imp", "lib2to3", "mailcap", "msilib", "nis", "nntplib", "ossaudiodev", "pipes", "smtpd",
    "sndhdr", "spwd", "sunau", "telnetlib", "uu", "xdrlib",
}
# fmt: on
STANDARD_MODULES = sys.stdlib_module_names | MODULES_OF_SOME_PYTHONS
KEYWORDS = {*keyword.kwlist, *keyword.softkwlist, "type"}

# Cookiecutter renders the stored answers when a project is updated: what looks like its language would be run then.
JINJA = tuple("{" + character for character in "#%{")

EMAIL = re.compile(r"[\w!#$%&'*+/=?^`{|}~-]+(\.[\w!#$%&'*+/=?^`{|}~-]+)*@[^@]+", re.ASCII)
DOMAIN = re.compile(r"([^\W_]+(-+[^\W_]+)*\.)+(?!\d+$)[^\W_]+(-+[^\W_]+)*")


def one_line(text: str) -> bool:
    """Whether nothing in the text breaks the line, controls a terminal, or cannot be written to a file."""
    return not any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in text)


def faults_of_any(text: str) -> Iterator[str]:
    if any(opening in text for opening in JINJA):
        yield f"must not hold {', '.join(JINJA)}, which would be run when the project is updated"


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
    if name in MODULES_OF_ALL | {
        module.partition(".")[0] for preset in ANSWERS["_presets"].values() for module in preset["modules"]
    }:
        yield "must not be a module that connectors or their brokers' clients use"
    if name == "tests":
        yield "must not be tests, which is where the tests are"


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


CHECKS = {
    "broker_name": faults_of_text,
    "package_name": faults_of_package_name,
    "author_name": faults_of_text,
    "author_email": faults_of_email,
    "repository_url": faults_of_url,
}


def answer_to(field: str) -> Any:
    """What was answered. A package_name that cannot be a folder is kept in __one_folder, see cookiecutter.json."""
    kept_aside = field == "package_name" and ANSWERS[field] == "not-one-folder"
    return ANSWERS["__one_folder" if kept_aside else field]


def shown(answer: Any) -> str:
    text = repr(answer)
    return text if len(text) <= 70 else f"{text[:50]}...{text[-17:]}"


def main() -> int:
    faults = [
        f"  {field}: {shown(answer_to(field))} {rule}"
        for field, faults_of in CHECKS.items()
        for rule in chain(*(check(str(answer_to(field))) for check in (faults_of, faults_of_any)))
    ]
    if faults:
        print("These answers cannot be used:", *faults, "Nothing was made.", sep="\n", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
