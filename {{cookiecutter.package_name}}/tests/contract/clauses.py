"""The clauses of the contract, and the blanks that each needs filled in before it can be tested."""

from typing import NamedTuple

CHAPTERS = {
    "L": "Lifecycle",
    "M": "Messaging",
    "S": "Serialisation",
    "E": "Errors",
    "R": "Recovery",
    "T": "Throughput",
}

NOTHING = ()
CONNECT = ("settings", "command", "url", "connect", "close", "ping")
TALK = (*CONNECT, "publish", "subscribe")
ALL = (*TALK, "unsubscribe")


class Clause(NamedTuple):
    """A clause in short, and the names of the blanks that it needs."""

    text: str
    needs: tuple[str, ...]


CLAUSES = {
    "L1": Clause("constructing does no I/O; bad settings are all named", NOTHING),
    "L2": Clause("connect() makes ready, once", CONNECT),
    "L3": Clause("an unreachable or silent broker: ConnectError in time", CONNECT),
    "L4": Clause("close() delivers, fails what it cannot, releases all", ALL),
    "L5": Clause("NotReadyError before connect(); ClosedError once closed", NOTHING),
    "L6": Clause("async with connects and closes", CONNECT),
    "L7": Clause("cancelling a call leaves the connector usable", ALL),
    "L8": Clause("name, version and node_name; a host needs only the class", NOTHING),
    "L9": Clause("no secret is shown anywhere", CONNECT),
    "L10": Clause("an identity belongs to one process and one event loop", TALK),
    "L11": Clause("start() connects in the background", TALK),
    "L12": Clause("settings may be a function, called before each attempt", TALK),
    "M1": Clause("every other subscribed node gets each message once", TALK),
    "M2": Clause("a node never gets its own messages", TALK),
    "M3": Clause("a subscription begins when subscribe() returns", ALL),
    "M4": Clause("listeners share one subscription at the broker", ALL),
    "M5": Clause("unsubscribe() ends it for that listener alone", ALL),
    "M6": Clause("topics are exact strings", ALL),
    "M7": Clause("messages of a node on a topic stay in order", TALK),
    "M8": Clause("a private topic is its owner's", TALK),
    "M9": Clause("a listener may publish, subscribe, unsubscribe, close", ALL),
    "M10": Clause("a listener that raises anything harms nobody else", TALK),
    "M11": Clause("a slow listener delays nobody; at most a report a second", TALK),
    "M12": Clause("messages() is a listener that is pulled", ALL),
    "S1": Clause("what arrives equals what was sent", TALK),
    "S2": Clause("what cannot round-trip is refused", TALK),
    "S3": Clause("the message is taken as it is at the call", TALK),
    "S4": Clause("a payload that is no frame is an error event", TALK),
    "S5": Clause("too large is refused, and never made by joining", TALK),
    "S6": Clause("forged frames do no harm; with cluster_key none is taken", TALK),
    "E1": Clause("an operation's error goes to its caller only", TALK),
    "E2": Clause("other errors are events that say what to do", TALK),
    "E3": Clause("a refusal by the broker is the operation's error at once", TALK),
    "R1": Clause("a lost or silent connection is noticed and reported", TALK),
    "R2": Clause("it reconnects and restores by itself", TALK),
    "R3": Clause("a publish in an outage waits, and never hangs", TALK),
    "R4": Clause("what was missed is repaired, or else reported", ALL),
    "R5": Clause("an idle, healthy connection stays ready", TALK),
    "R6": Clause("subscribing, unsubscribing, closing work in an outage", ALL),
    "R7": Clause("a restart of the broker under load loses nothing", ALL),
    "R8": Clause("a dead first host blocks none of the others", TALK),
    "R9": Clause("new reasons for staying away are reported, with refused", CONNECT),
    "T1": Clause("what waits leaves together; a lone message at once", TALK),
    "T2": Clause("the event loop is never blocked for long", TALK),
    "T3": Clause("memory is bounded", TALK),
    "T4": Clause("a cluster at rest is quiet", TALK),
}


class Level(NamedTuple):
    """How far a connector has come: what must hold, besides the levels before it."""

    name: str
    text: str
    clauses: tuple[str, ...]
    figures: tuple[str, ...] = ()
    """What must have been measured."""
    real: tuple[str, ...] = ()
    """Clauses that must hold on a real broker, not only simulated."""
    matters: tuple[str, ...] = ()
    """What tests in tests/test_broker.py must prove, with the marker `production`."""


MATTERS = {
    "cluster": "a cluster of brokers survives the loss of one",
    "tls": "TLS, with a certificate that is checked",
    "rotation": "a password or certificate changes while nodes are connected",
}
"""What only a test of the broker itself can prove, and what is asked for by `@pytest.mark.production("tls")`."""

FIGURES = {
    "round_trip_ms": ("round trip of a lone message", "ms"),
    "rate_1": ("messages a second, 1 in flight", "/s"),
    "rate_1_bare": ("the same, bare transport", "/s"),
    "rate_100": ("messages a second, 100 in flight", "/s"),
    "rate_100_bare": ("the same, bare transport", "/s"),
    "recovery_s": ("from a cut until all is ready again", "s"),
    "memory_mb": ("memory that a node takes", "MB"),
}
"""What is measured for the report: what it is, and its unit."""


def _of_chapters(letters: str) -> tuple[str, ...]:
    return tuple(clause for clause in CLAUSES if clause[0] in letters)


LEVELS = (
    Level("works", "nodes reach each other", _of_chapters("LMSE"), ("round_trip_ms",)),
    Level(
        "recovers",
        "outages and load lose nothing",
        _of_chapters("RT"),
        ("rate_1", "rate_100", "recovery_s", "memory_mb"),
    ),
    Level(
        "production", "proved on a real broker", ("R8", "R9", "L12"), real=("E3", "L3", "R9"), matters=tuple(MATTERS)
    ),
)
"""The levels, each on top of the one before it."""
