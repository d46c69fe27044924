"""Nothing is left to fill in, and there is a broker to test with."""

import pytest

from ..subject import Settings
from .blanks import open_blanks
from .nodes import Wire, patience


def test_every_blank_is_filled_in() -> None:
    if unwritten := open_blanks():
        are_open = "1 blank is open" if len(unwritten) == 1 else f"{len(unwritten)} blanks are open"
        pytest.fail(f"{are_open}, see below; next: {unwritten[0]}", pytrace=False)


@pytest.mark.basic(1)
@pytest.mark.clause("L2")
def test_the_broker_can_be_reached(given: Settings) -> None:
    assert given


@pytest.mark.basic(2)
@pytest.mark.clause("R5")
async def test_the_broker_answers_a_ping(wire: Wire) -> None:
    async with patience("the end of `ping`"):
        await wire.transport.ping()
