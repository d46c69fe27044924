"""The two ways to turn messages into bytes and back: what arrives equals what was sent, or the sender gets an error.

Each way is one object, which holds its name in the settings, its code in the header of a frame, and its behaviour.
A third way is one more class here, and one more object in `SERIALIZATIONS`.
"""

import gc
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import chain, compress, repeat
from math import isfinite
from operator import is_
from typing import Any, ClassVar

import msgspec

from .errors import MessageTooLargeError, SerializationError

MAX_DEPTH = 256
"""How deep the lists and dicts of a message may be nested. A number has the depth 0, `[]` has 1, and `[{}]` has 2."""

_SHALLOW = 2 * MAX_DEPTH
"""This many bytes of JSON are not nested deeper than `MAX_DEPTH`, since each level takes two brackets."""

_LARGE = 128 * 1024
"""Bytes from which on a body is decoded without the garbage collector, and checked without a second decoding."""

_to_json = msgspec.json.Encoder().encode
_from_json = msgspec.json.Decoder().decode
_split_json = msgspec.json.Decoder(list[msgspec.Raw]).decode
_to_msgpack = msgspec.msgpack.Encoder().encode
_from_msgpack = msgspec.msgpack.Decoder().decode


class Serialization(ABC):
    """One way to serialise messages."""

    name: ClassVar[str]
    """The value of the setting `serialization`."""

    code: ClassVar[int]
    """The value in the header of a frame, from 1 to 255."""

    @abstractmethod
    def encode(self, message: Any, most: int) -> bytes:
        """Serialise one message, without altering it.

        Tuples become lists, and members of an enum their values.

        Raises `MessageTooLargeError` if the result is longer than `most` bytes. This takes no longer than to serialise
        the message once.
        Raises `SerializationError` if the message holds a value that would not arrive as it is, or if it is nested
        deeper than `MAX_DEPTH`.
        """

    @abstractmethod
    def join(self, parts: Sequence[bytes]) -> bytes:
        """Return the body of a frame: one array of messages that `encode` has serialised."""

    @abstractmethod
    def join_bodies(self, bodies: Sequence[bytes], count: int) -> bytes:
        """Return one body with the messages of several bodies, `count` in all; none of the bodies is empty."""

    @abstractmethod
    def decode(self, body: bytes) -> list[Any]:
        """Return the messages in the body of a frame; each call makes new objects.

        Raises `ValueError` if `encode` and `join` cannot have made the body.
        """

    @abstractmethod
    def copy(self, body: bytes) -> list[Any]:
        """Return the messages in a body that was decoded before, as new objects; this takes half the time."""


class Json(Serialization):
    """JSON."""

    name = "json"
    code = 1

    def encode(self, message: Any, most: int) -> bytes:
        try:
            data = _to_json(message)
            if len(data) <= most:
                _to_msgpack(message)  # It refuses integers of more than 64 bits.
                if len(data) > _SHALLOW or _from_json(data) != message:
                    _prove(message, data)
                return data
        except Exception as error:
            raise _refusal(error) from error
        raise _too_large(len(data), most)

    def join(self, parts: Sequence[bytes]) -> bytes:
        return b"[%b]" % b",".join(parts)

    def join_bodies(self, bodies: Sequence[bytes], count: int) -> bytes:
        return b"[%b]" % b",".join([body[1:-1] for body in bodies])

    def decode(self, body: bytes) -> list[Any]:
        try:
            messages = self.copy(body)
            _to_msgpack(messages)  # It refuses integers of more than 64 bits.
            if len(body) > _SHALLOW and not _are_shallow(messages, body):
                _check(messages, 1 + MAX_DEPTH)
        except Exception as error:
            raise ValueError(f"no sender produces this body: {_text(error)}") from error
        return messages

    def copy(self, body: bytes) -> list[Any]:
        return _array(_from_json(body) if len(body) < _LARGE else _undisturbed(_from_json, body))


class MessagePack(Serialization):
    """MessagePack, as far as JSON has the same values."""

    name = "msgpack"
    code = 2

    def encode(self, message: Any, most: int) -> bytes:
        try:
            data = _to_msgpack(message)
            if len(data) <= most:
                as_json = _to_json(message)
                if len(as_json) > _SHALLOW or _from_json(as_json) != message:
                    _prove(message, as_json)
                return data
        except Exception as error:
            raise _refusal(error) from error
        raise _too_large(len(data), most)

    def join(self, parts: Sequence[bytes]) -> bytes:
        return b"\xdd%b%b" % (len(parts).to_bytes(4, "big"), b"".join(parts))

    def join_bodies(self, bodies: Sequence[bytes], count: int) -> bytes:
        return b"\xdd%b%b" % (count.to_bytes(4, "big"), b"".join([body[5:] for body in bodies]))

    def decode(self, body: bytes) -> list[Any]:
        try:
            messages = self.copy(body)
            as_json = _to_json(messages)
            if len(as_json) > _SHALLOW and (len(as_json) > _LARGE or not _are_shallow(messages, as_json)):
                _check(messages, 1 + MAX_DEPTH)
            elif _from_json(as_json) != messages:
                raise ValueError("it holds a value or a key that JSON does not have")
        except Exception as error:
            raise ValueError(f"no sender produces this body: {_text(error)}") from error
        return messages

    def copy(self, body: bytes) -> list[Any]:
        return _array(_from_msgpack(body) if len(body) < _LARGE else _undisturbed(_from_msgpack, body))


SERIALIZATIONS: tuple[Serialization, ...] = (Json(), MessagePack())

_BY_NAME = {each.name: each for each in SERIALIZATIONS}
_BY_CODE = {each.code: each for each in SERIALIZATIONS}


def by_name(name: str) -> Serialization:
    """Return the serialisation that the settings call `name`; raise `ValueError` if there is none."""
    if name not in _BY_NAME:
        raise ValueError(f"serialisation {name!r} is unknown")
    return _BY_NAME[name]


def by_code(code: int) -> Serialization:
    """Return the serialisation that a frame calls `code`; raise `ValueError` if there is none."""
    if code not in _BY_CODE:
        raise ValueError(f"serialisation {code} is unknown")
    return _BY_CODE[code]


def as_it_arrives(message: Any) -> Any:
    """Return what listeners at other nodes get for a message that was serialised without an error."""
    return SERIALIZATIONS[0].copy(b"[%b]" % _to_json(message))[0]


def _prove(message: Any, as_json: bytes) -> None:
    """Raise `TypeError` or `ValueError` if a message would not arrive as it is, or is nested too deep."""
    if _brackets(as_json) > MAX_DEPTH or _from_json(as_json) != message:
        _check(message, MAX_DEPTH)


def _are_shallow(messages: list[Any], as_json: bytes) -> bool:
    """Tell whether no message of an array is nested too deep; where only `_check` can tell, return False."""
    parts = [as_json] if len(messages) == 1 else [bytes(part) for part in _split_json(as_json) if len(part) > _SHALLOW]
    return all(_brackets(part) <= MAX_DEPTH for part in parts)


def _brackets(as_json: bytes) -> int:
    return as_json.count(b"[") + as_json.count(b"{")


def _check(value: Any, deepest: int) -> None:
    """Raise `TypeError` or `ValueError` for a value that JSON would alter, and for one nested deeper than `deepest`.

    All values of one depth are checked together, with iterators that run in C. One by one, 1 MB of tuples with one
    element each would take 260 ms instead of 20.
    """
    level, depth = [value], 0
    while level:
        inner: list[Any] = []
        types = list(map(type, level))
        is_mixed = len(set(types)) > 1
        for kind in dict.fromkeys(types) if is_mixed else types[:1]:
            if kind is str or kind is int:
                continue
            values = list(compress(level, map(is_, types, repeat(kind)))) if is_mixed else level
            if issubclass(kind, dict):
                values = list(filter(None, values))
                if not all(issubclass(key, str) for key in set(map(type, chain.from_iterable(values)))):
                    raise TypeError("a dict has a key that is not a str")
                inner.extend(chain.from_iterable(map(dict.values, values)))
            elif issubclass(kind, list | tuple):
                inner.extend(chain.from_iterable(values))
            elif issubclass(kind, float):
                if not all(map(isfinite, values)):
                    raise ValueError("a number is nan or infinite, which JSON does not have")
            elif not issubclass(kind, str | int | None):
                raise TypeError(f"a value is of the type {kind.__name__}, which JSON does not have")
            if depth == deepest and issubclass(kind, dict | list | tuple):
                raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
        level, depth = inner, depth + 1


def _undisturbed(decode: Callable[[bytes], Any], body: bytes) -> Any:
    """Decode a body without the garbage collector, with which 1 MB of short lists can take 200 ms instead of 20."""
    if not gc.isenabled():
        return decode(body)
    gc.disable()
    try:
        return decode(body)
    finally:
        gc.enable()


def _array(messages: Any) -> list[Any]:
    if not isinstance(messages, list):
        raise ValueError("the body is not an array")
    return messages


def _refusal(error: Exception) -> SerializationError:
    return SerializationError(f"The message cannot be serialised: {_text(error)}.")


def _too_large(size: int, most: int) -> MessageTooLargeError:
    return MessageTooLargeError(f"The serialised message has {size} bytes; the limit is {most}.")


def _text(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return f"it holds itself, or is nested deeper than {MAX_DEPTH} levels"
    try:
        return str(error).rstrip(".")
    except Exception:
        return type(error).__name__
