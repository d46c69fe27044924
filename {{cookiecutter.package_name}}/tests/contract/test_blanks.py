"""That nothing is left to fill in."""

import pytest

from .blanks import open_blanks


def test_every_blank_is_filled_in() -> None:
    if unwritten := open_blanks():
        pytest.fail(f"{len(unwritten)} blanks are open, see below; next: {unwritten[0]}", pytrace=False)
