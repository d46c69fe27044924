"""What a `test_broker.py` and a `broker.py` may use of the pack. All else in `tests/contract` may change with any update."""

from collections.abc import Awaitable, Callable
from typing import Any

from ..subject import Settings
from .balance import balance, losses, reported
from .blanks import TEST_URL
from .certificates import Authority, Certificate
from .clusters import Cluster
from .java import fetch, java
from .nodes import PATIENCE, Host, Log, Node, SpiedNode, Wire, eventually, patience
from .proxy import Proxy
from .rabbitmq import PortMapper, RabbitMQ
from .server import DYING_WITH_PARENT, READY_WITHIN, Missing, Server, at_port, find_program, free_port, wait_until

__all__ = [
    "DYING_WITH_PARENT",
    "FAST",
    "PATIENCE",
    "READY_WITHIN",
    "TEST_URL",
    "Authority",
    "Certificate",
    "Change",
    "Cluster",
    "Host",
    "Log",
    "MakeHost",
    "MakeNode",
    "Missing",
    "Node",
    "PortMapper",
    "Proxy",
    "ProxyFor",
    "RabbitMQ",
    "Serve",
    "Server",
    "SpiedNode",
    "Wire",
    "at_port",
    "balance",
    "eventually",
    "fetch",
    "find_program",
    "free_port",
    "java",
    "losses",
    "patience",
    "reported",
    "wait_until",
]

FAST = {"heartbeat": 1.2, "reconnect_delay_min": 0.02, "reconnect_delay_max": 0.2, "connect_timeout": 10.0}
"""Settings for the fastest recovery with which a busy machine does not look like a dead one."""

# The types of the fixtures that are called.

Change = Callable[..., Settings]

MakeNode = Callable[..., Awaitable[Any]]

Serve = Callable[..., Any]

MakeHost = Callable[[], Awaitable[Host]]

ProxyFor = Callable[[Server], Awaitable[Proxy]]
