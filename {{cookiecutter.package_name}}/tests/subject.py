"""What the tests are about: the package, by one name wherever it is needed."""

from {{ cookiecutter.package_name }} import (
    Connector,
    Settings,
    Topic,
    contract,
    private_topic,
)
from {{ cookiecutter.package_name }}.transport import (
    BrokerTransport,
)

__all__ = ["BrokerTransport", "Connector", "Settings", "Topic", "contract", "private_topic"]
