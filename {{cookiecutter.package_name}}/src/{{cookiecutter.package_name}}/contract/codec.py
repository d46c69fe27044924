"""Messages to bytes and back, so that what arrives equals what was sent or was refused."""

import math
from typing import Any

import msgspec

from .errors import SerializationError

_to_json = msgspec.json.Encoder().encode
_from_json = msgspec.json.Decoder().decode
_to_msgpack = msgspec.msgpack.Encoder().encode
_from_msgpack = msgspec.msgpack.Decoder().decode

_UNENCODABLE = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)


def encode(serialization: str, message: Any) -> bytes:
    """Serialise one message; raise `SerializationError` for what JSON cannot carry unaltered.

    Both encoders run, since each refuses what the other lets pass (integers over 64 bits, keys that
    are no text); a message that does not come back equal is looked at value by value.
    """
    try:
        as_json = _to_json(message)
        as_msgpack = _to_msgpack(message)
        if _from_json(as_json) != message:
            _check(message, "message")
    except _UNENCODABLE as error:
        raise SerializationError(f"The message cannot be serialised: {error}.") from error
    return as_json if serialization == "json" else as_msgpack


def decode(serialization: str, body: bytes) -> list[Any]:
    """Return the messages in the body of a frame; raise `ValueError` if it is no array."""
    messages = _from_json(body) if serialization == "json" else _from_msgpack(body)
    if not isinstance(messages, list):
        raise ValueError("the body is no array")
    return messages


def _check(value: Any, path: str) -> None:
    """Raise `TypeError` or `ValueError` at the first value that JSON would alter; tuples may be lists."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{path} has the key {key!r}, which is no str")
            _check(item, f"{path}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check(item, f"{path}[{index}]")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{path} is {value}, which JSON does not have")
    elif value is not None and not isinstance(value, str | int):
        raise TypeError(f"{path} is of the type {type(value).__name__}, which JSON does not have")
