"""What a `test_broker.py` may use of the pack. All else in `tests/contract` may change with any update."""

from .balance import balance, losses, reported
from .blanks import TEST_URL
from .certificates import Authority
from .nodes import PATIENCE, Host, Log, Node, SpiedNode, Wire, eventually, patience
from .plugin import FAST, Change, MakeHost, MakeNode, ProxyFor, Serve
from .proxy import Proxy
from .server import DYING_WITH_PARENT, Missing, Server, at_port, free_port

__all__ = [
    "DYING_WITH_PARENT",
    "FAST",
    "PATIENCE",
    "TEST_URL",
    "Authority",
    "Change",
    "Host",
    "Log",
    "MakeHost",
    "MakeNode",
    "Missing",
    "Node",
    "Proxy",
    "ProxyFor",
    "Serve",
    "Server",
    "SpiedNode",
    "Wire",
    "at_port",
    "balance",
    "eventually",
    "free_port",
    "losses",
    "patience",
    "reported",
]
