"""The files that are not yours are as they came, so that an update of the template meets no conflict."""

from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTED = Path(__file__).with_name("managed.txt")


def test_no_managed_file_was_edited() -> None:
    noted = [line.split(" ", 1) for line in NOTED.read_text(encoding="utf-8").splitlines()]
    edited = [path for digest, path in noted if digest != digest_of(ROOT / path)]
    assert not edited, f"edited or gone: {', '.join(edited)}. The template owns these; see CONTRIBUTING.md"


def digest_of(path: Path) -> str:
    """Return the digest of a file, however its lines end; an empty text if there is none."""
    return sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest() if path.is_file() else ""
