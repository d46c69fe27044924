"""Configuration files: the settings of a connector as a host keeps them, among its own."""

import json
import os
import re
import textwrap
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr
from pydantic_core import to_jsonable_python
from pydantic_settings import BaseSettings, DotEnvSettingsSource

FORMATS = "yaml", "json", "env"
PLACE = "plugins", "message", "options"
"""The place of a connector's settings in its host's configuration."""

WIDTH = 79
"""Characters of a comment's line."""


def variable(settings: type[BaseSettings], name: str) -> str:
    """Return the environment variable of a setting."""
    return f"{settings.model_config['env_prefix']}{name.upper()}"


def unknown(settings: type[BaseSettings], name: str) -> str:
    """Say that there is no setting, or variable of the environment, of this name, and which one may be meant."""
    prefix = settings.model_config["env_prefix"]
    is_variable = name.upper().startswith(prefix)
    if is_variable:
        name = name.upper()
    near = get_close_matches(name.removeprefix(prefix).lower(), settings.model_fields, 1)
    meant = [variable(settings, each) if is_variable else each for each in near]
    return f"there is no setting {name!r}{f'. Did you mean {meant[0]!r}?' if meant else ''}"


def strangers(settings: type[BaseSettings]) -> list[str]:
    """Return the variables of the environment that begin as those of settings do, and are none."""
    prefix = settings.model_config["env_prefix"]
    names = (name.upper() for name in os.environ)
    return sorted(
        name
        for name in names
        if name.startswith(prefix) and name.removeprefix(prefix).lower() not in settings.model_fields
    )


def example(settings: type[BaseSettings], form: str) -> str:
    """Return a configuration with all settings, what they mean and their defaults, in one of `FORMATS`.

    Those that need no value are commented out with a `#`; in JSON, which has no comments, their names begin with it.
    """
    if form == "env":
        return "\n".join(_lines(settings, "", lambda name, value: f"{variable(settings, name)}={_plain(value)}"))
    package = settings.__module__.partition(".")[0]
    plugin = next((each.name for each in entry_points(group="deepstream.msg") if each.module == package), package)
    if form == "json":
        members = dict(_members(settings))
        return json.dumps({"plugins": {"message": {"name": plugin, "options": members}}}, indent=2, ensure_ascii=False)
    lines = _lines(settings, "      ", lambda name, value: f"{name}: {json.dumps(value)}")
    return "\n".join(["plugins:", "  message:", f"    name: {plugin}", "    options:", *lines])


def options(path: Path, settings: type[BaseSettings]) -> dict[str, Any]:
    """Return the settings in a file: YAML or JSON as its name says, or else lines for the environment.

    Raises `OSError` if the file cannot be read, and `ValueError` that names it, the place in it and the rule.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not in UTF-8") from None
    if path.suffix not in (".yaml", ".yml", ".json"):
        found = DotEnvSettingsSource(settings, env_file=path)()
        prefix = settings.model_config["env_prefix"].lower()
        return {
            name: value for name, value in found.items() if name in settings.model_fields or name.startswith(prefix)
        }
    part = _parse(text, path)
    for name in PLACE:
        if not isinstance(part, dict) or name not in part:
            raise ValueError(f"{path}: must have the settings at {' > '.join(PLACE)}, as example-config prints them")
        part = part[name]
    if not isinstance(part or {}, dict):
        raise ValueError(f"{path}: {' > '.join(PLACE)} must have names and values")
    given = {str(name): value for name, value in (part or {}).items() if not str(name).startswith("#")}
    return {name: _filled(value, f"{path}: {name}") for name, value in given.items()}


def _values(settings: type[BaseSettings]) -> Iterator[tuple[str, Any]]:
    """Return each setting with its default, or without one, with a reference to the environment."""
    for name, field in settings.model_fields.items():
        if field.is_required():
            yield name, f"${{{variable(settings, name)}}}"
        else:
            default = field.get_default(call_default_factory=True)
            yield name, default.get_secret_value() if isinstance(default, SecretStr) else to_jsonable_python(default)


def _members(settings: type[BaseSettings]) -> Iterator[tuple[str, Any]]:
    for name, value in _values(settings):
        field = settings.model_fields[name]
        yield f"# {name}", field.description
        yield f"{'' if field.is_required() else '#'}{name}", value


def _lines(settings: type[BaseSettings], indent: str, line: Callable[[str, Any], str]) -> Iterator[str]:
    for name, value in _values(settings):
        field = settings.model_fields[name]
        yield from textwrap.wrap(
            field.description or "", WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
        )
        yield f"{indent}{'' if field.is_required() else '#'}{line(name, value)}"
        yield ""


def _plain(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _parse(text: str, path: Path) -> Any:
    try:
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line, rule = error.problem_mark.line + 1 if error.problem_mark else 1, error.problem
    except json.JSONDecodeError as error:
        line, rule = error.lineno, error.msg
    except yaml.YAMLError:
        line, rule = 1, "a character that YAML does not allow"
    raise ValueError(f"{path}, line {line}: {rule}")


def _filled(value: Any, place: str) -> Any:
    """Return a value with each `${NAME}` replaced by its value in the environment."""

    def found(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise ValueError(f"{place}: the environment has no variable {match[1]}")
        return os.environ[match[1]]

    match value:
        case str():
            return re.sub(r"\$\{(\w+)\}", found, value)
        case list():
            return [_filled(each, place) for each in value]
        case dict():
            return {name: _filled(each, place) for name, each in value.items()}
    return value
