"""Topics as names that a broker takes: readable, reversible, and as short as it wants them."""

from hashlib import sha256
from string import ascii_letters, digits
from urllib.parse import unquote

_KEPT = frozenset(f"{ascii_letters}{digits}-_".encode())


def escape(topic: str, mark: str = "%", longest: int | None = None) -> str:
    """Return `topic` with all but ASCII letters, digits, `-` and `_` written as `mark` and two hex digits per byte.

    `mark` may be `_`, which is escaped itself then. A name of more than `longest` characters is cut, and ends
    in a digest of the topic: still a name for this topic alone, but one that `unescape` cannot read.
    """
    kept = _KEPT - {ord(mark)}
    name = "".join(chr(byte) if byte in kept else f"{mark}{byte:02X}" for byte in topic.encode())
    if longest is not None and len(name) > longest:
        digest = sha256(topic.encode()).hexdigest()[:32]
        name = f"{name[: longest - len(digest) - 2]}{mark}{mark}{digest}"
    return name


def unescape(name: str, mark: str = "%") -> str:
    """Return the topic from which `escape` made `name`, unless it was cut."""
    return unquote(name.replace(mark, "%"))
