"""Where the broker is that the tests talk to."""

import pytest

from .broker import Broker
from .subject import Settings


@pytest.fixture(scope="session")
def settings(broker: Broker) -> Settings:
{% if cookiecutter.preset == "blank" %}
    """Where the broker is; in the environment, {{ cookiecutter.package_name | upper }}_TEST_URL says it instead.

    A broker that is running already: return Settings(url="scheme://127.0.0.1:1234").
    One that the tests are to start: fill in broker.py, and return Settings(url=broker.url).
    """
    raise NotImplementedError
{% else %}
    """Where the broker is: one that broker.py starts, or what {{ cookiecutter.package_name | upper }}_TEST_URL says."""
    return Settings(url=broker.url)
{% endif %}
