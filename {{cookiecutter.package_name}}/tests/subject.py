"""What the tests are about: the package, by one name wherever it is needed."""

from {{ cookiecutter.package_name }} import (
    BlockingConnector,
    Connector,
    Settings,
    Topic,
    contract,
    private_topic,
)
from {{ cookiecutter.package_name }}.contract import (
    inbox,
    receiving,
    sending,
    serialization,
)
from {{ cookiecutter.package_name }}.contract import (
    wire as wire_format,
)
from {{ cookiecutter.package_name }}.transport import (
    BrokerTransport,
)

__all__ = [
    "BlockingConnector",
    "BrokerTransport",
    "Connector",
    "Settings",
    "Topic",
    "contract",
    "inbox",
    "private_topic",
    "receiving",
    "sending",
    "serialization",
    "wire_format",
]
