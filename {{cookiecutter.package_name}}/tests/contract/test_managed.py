"""Your files and the template's fit: no managed file was edited, and all that your files name exists."""

from hashlib import sha256
from pathlib import Path

import pytest

from ..broker import Broker
from .clauses import CLAUSES
from .selection import clauses_of, selected_by

ROOT = Path(__file__).resolve().parents[2]
NOTED = Path(__file__).with_name("managed.txt")


def test_no_managed_file_was_edited() -> None:
    noted = [line.split(" ", 1) for line in NOTED.read_text(encoding="utf-8").splitlines()]
    edited = [path for digest, path in noted if digest != digest_of(ROOT / path)]
    assert not edited, f"edited or gone: {', '.join(edited)}. The template owns these; see CONTRIBUTING.md"


@pytest.mark.basic(0)
def test_every_name_of_a_clause_or_test_is_known(request: pytest.FixtureRequest) -> None:
    items = request.session.items
    unknown = [f"{item.nodeid}: {clause}" for item in items for clause in clauses_of(item) if clause not in CLAUSES]
    assert not unknown, f"there is no such clause: {', '.join(unknown)}"
    declared, known = Broker.not_applicable, {*CLAUSES, *(item.name for item in items)}
    assert all(declared.values()), "each key in Broker.not_applicable (tests/broker.py) needs a reason"
    if not selected_by(request.config):
        unknown = [key for key in declared if key not in known]
        assert not unknown, f"Broker.not_applicable (tests/broker.py) names no clause and no test: {', '.join(unknown)}"


def digest_of(path: Path) -> str:
    """Return the digest of a file, however its lines end; an empty text if there is none."""
    return sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest() if path.is_file() else ""
