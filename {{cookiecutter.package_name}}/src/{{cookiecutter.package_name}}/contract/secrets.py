"""What is secret, and how it is hidden in the texts of others.

The types of settings decide what is secret: `SecretStr` and `SecretBytes`. Names of fields, and patterns in a text, do
not.
"""

import json
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args
from urllib.parse import quote, quote_plus, unquote

from pydantic import BaseModel, SecretBytes, SecretStr

HIDDEN = "**********"

_SHORT = 8
"""Characters; a shorter secret is hidden only where it stands alone, since it may be a part of any word."""

_LONG = 10_000
"""Characters; of a longer text, which a server or a client library may make of its input, only the beginning is shown.

No secret is longer.
"""

_LONGEST_TRACEBACK = 100_000
"""Characters; a longer one is not searched."""


def is_secret(annotation: Any) -> bool:
    """Tell whether values of a type may hold a secret."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return any(is_secret(field.annotation) for field in annotation.model_fields.values())
    if isinstance(annotation, type) and issubclass(annotation, SecretStr | SecretBytes):
        return True
    return any(is_secret(part) for part in get_args(annotation))


def secrets_in(value: object) -> list[str]:
    """Return the secrets in a value, including those in its containers and models."""
    if isinstance(value, SecretStr):
        return [value.get_secret_value()]
    if isinstance(value, SecretBytes):
        return [value.get_secret_value().decode(errors="replace")]
    if isinstance(value, BaseModel):
        return secrets_in(value.__dict__)
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return [secret for part in value for secret in secrets_in(part)]
    return []


def hide(text: str, secrets: Iterable[str]) -> str:
    """Return `text` without the secrets, even where they are percent-encoded, percent-decoded or escaped."""
    pattern = _pattern(secrets)
    return pattern.sub(HIDDEN, text) if pattern else text


def tell(text: str, secrets: Iterable[str]) -> str:
    """Return `text`, or the beginning of a long one, without the secrets."""
    if len(text) <= _LONG:
        return hide(text, secrets)
    pattern = _pattern(secrets)
    parts, end = [], 0
    for found in pattern.finditer(text, 0, 2 * _LONG) if pattern else ():
        if found.start() < _LONG:
            parts += [text[end : found.start()], HIDDEN]
            end = found.end()
    return "".join([*parts, text[end:_LONG], " …"])


def describe(error: BaseException, secrets: Iterable[str]) -> str:
    """Put an exception in words that hold no secret; even one that has no readable text."""
    try:
        text = str(error).rstrip(".")
    except BaseException:
        text = ""
    name = type(error).__name__
    return f"{name}: {tell(text, secrets)}" if text else name


def presentable(error: BaseException, secrets: Iterable[str]) -> bool:
    """Tell whether the traceback of an exception, with all exceptions in its chain, shows no secret."""
    try:
        shown = "".join([*traceback.format_exception(error), *map(repr, chain(error))])
    except BaseException:
        return False
    return len(shown) <= _LONGEST_TRACEBACK and hide(shown, secrets) == shown


def _pattern(secrets: Iterable[str]) -> re.Pattern[str] | None:
    forms = {form for secret in secrets for form in _forms(secret)} - {""}
    if not forms:
        return None
    patterns = [
        rf"(?<!\w){re.escape(form)}(?!\w)" if len(form) < _SHORT else re.escape(form)
        for form in sorted(forms, key=lambda form: (-len(form), form))
    ]
    return re.compile("|".join(patterns))


def _forms(secret: str) -> Iterator[str]:
    """Return the forms that a secret may have in a text."""
    for plain in (secret, unquote(secret)):
        encoded = [quote(plain, safe="", errors="replace"), quote(plain, errors="replace")]
        encoded += [quote_plus(plain, errors="replace")]
        yield from encoded
        yield from (re.sub("%..", lambda code: code[0].lower(), form) for form in encoded)
        yield from (plain, repr(plain)[1:-1], ascii(plain)[1:-1], repr(plain.encode(errors="replace"))[2:-1])
        yield from (json.dumps(plain)[1:-1], json.dumps(plain, ensure_ascii=False)[1:-1])


def chain(error: BaseException) -> list[BaseException]:
    """Return an exception and all others that its traceback may show."""
    found: list[BaseException] = []
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if not any(one is other for other in found):
            found.append(one)
            inner = one.exceptions if isinstance(one, BaseExceptionGroup) else ()
            waiting += [each for each in (one.__cause__, one.__context__, *inner) if each is not None]
    return found
