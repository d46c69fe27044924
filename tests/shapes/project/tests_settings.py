"""Where the broker is that the tests talk to."""

import pytest

from .broker import Broker
from .subject import Settings


@pytest.fixture(scope="session")
def settings(broker: Broker) -> Settings:
    """The broker that broker.py starts."""
    return Settings(url=broker.url, subscribe_port=broker.ports["subscribe_port"])
