"""Bytes in values that are otherwise JSON: a text that begins with `MARK` represents them."""

from base64 import b64decode, b64encode
from typing import Any

MARK = "\uffff"
"""No character of any text; a text that begins with it nevertheless gets a second one in front."""

_PLAIN = frozenset((int, float, bool, type(None)))


def pack(value: Any) -> Any:
    """Return a copy of `value` with its bytes as text; other values that JSON does not have stay as they are.

    A text of a subclass of `str` becomes plain text, a tuple becomes a list.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if isinstance(value, str):
        return MARK + value if value.startswith(MARK) else str.__str__(value)
    if isinstance(value, dict):
        return {key: pack(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [each if type(each) in _PLAIN else pack(each) for each in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return MARK + b64encode(value).decode()
    return value


def unpack(value: Any) -> Any:
    """Return a copy of what was packed."""
    kind = type(value)
    if kind is str:
        if value[:1] != MARK:
            return value
        return value[1:] if value[1:2] == MARK else b64decode(value[1:])
    if kind is dict:
        return {key: unpack(each) for key, each in value.items()}
    if kind is list:
        return [each if type(each) in _PLAIN else unpack(each) for each in value]
    return value
