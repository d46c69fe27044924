"""Bytes in JSON: as text where they are text in UTF-8, which costs little, and in base64 otherwise."""

from base64 import b64decode, b64encode

Packed = str | list[str]
"""A text, or a list with the base64 of what is no text."""


def pack(data: bytes) -> Packed:
    """Return a JSON value from which `unpack` makes the same bytes."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return [b64encode(data).decode()]


def unpack(packed: Packed) -> bytes:
    """Return the bytes that were packed."""
    return packed.encode() if isinstance(packed, str) else b64decode(packed[0])
