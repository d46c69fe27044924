"""A cluster of servers: one is killed, frozen, brought back, and another takes over; no message is lost (R4, R8).

It runs only when `--clusters` or `--report` asks for it: it starts several servers, and each cluster takes up to a minute.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import pytest

from ..broker import Broker
from ..subject import Connector, Settings
from .balance import reported
from .clusters import Cluster
from .nodes import Node, eventually
from .server import Server

NODES = 3
TOPICS = ("first", "second", "third")
SPARE = "spare"
"""A topic that has been there from the beginning, but has no traffic."""

RATE = 100
"""Messages a second of each node."""

FLOWING = RATE * NODES * (NODES - 1)
"""Messages that have been delivered when a fault begins: those of one second."""

HEARTBEAT = 1.2
CURRENT = 0.25
"""Seconds: a message that is not older when it arrives is current."""

QUIET = 2 * HEARTBEAT
"""Seconds for which all messages must have been current before a fault counts as over."""

SLACK = 1.0
"""Seconds within which nodes must be ready once the cluster can serve them."""

OVER_WITHIN = 60.0
"""Seconds within which a fault must be over."""


class Row(NamedTuple):
    """What became of one fault."""

    cluster: str
    fault: str
    ready: float
    """Seconds from the fault until the last node was ready again; 0 if none has lost its connection."""
    could_serve: float
    """Seconds from the fault until a new node could connect, subscribe and publish."""
    owed: int
    """Messages, counted at each node that was to get them."""
    delivered: int
    lost: int
    repaired: int


class Traffic:
    """Messages from each node on each topic at a steady rate, and what becomes of them."""

    def __init__(self, nodes: list[Node]) -> None:
        self._nodes = nodes
        self._loop = asyncio.get_running_loop()
        self._sent = [0] * len(nodes)
        self._delivered = [0] * len(nodes)
        self._numbers: dict[tuple[int, int, str], int] = {}
        self._published: dict[tuple[int, int], float] = {}
        self._work: list[asyncio.Task[None]] = []
        self._is_over = True
        self.complaints: list[str] = []
        """Messages that came twice or out of order, and publishes that failed."""
        self.stale = 0.0
        """When a message of some node was last overdue at another."""

    async def subscribe(self) -> None:
        """Subscribe each node to each topic."""
        for receiver, node in enumerate(self._nodes):
            for topic in TOPICS:
                await node.subscribe(topic, self._listener(receiver, topic))
            await node.subscribe(SPARE, _ignore)

    def start(self) -> None:
        """Publish from now on."""
        self._is_over = False
        others = [(one, other) for one in range(NODES) for other in range(NODES) if one != other]
        self._published = dict.fromkeys(others, self._loop.time())
        self._work = [asyncio.ensure_future(self._publish(sender)) for sender in range(NODES)]
        self._work.append(asyncio.ensure_future(self._watch()))

    async def stop(self) -> None:
        """Stop publishing; return when each message has been delivered or reported as lost, and none twice."""
        self._is_over = True
        await asyncio.gather(*self._work)
        await eventually(lambda: max(self._missing()) <= 0, lambda: f"all messages; missing are {self._missing()}")
        assert self._missing() == [0] * NODES
        assert self.complaints == []

    def totals(self) -> tuple[int, int, int, int]:
        """Return how many messages were owed, delivered, reported as lost, and repaired, at all nodes together."""
        lost, repaired = (sum(node.stats()[name] for node in self._nodes) for name in ("lost", "repaired"))
        return sum(self._sent) * (NODES - 1), sum(self._delivered), lost, repaired

    def _missing(self) -> list[int]:
        """Return, for each node, how many messages have neither come nor been reported."""
        return [
            sum(self._sent) - self._sent[receiver] - self._delivered[receiver] - reported(node)
            for receiver, node in enumerate(self._nodes)
        ]

    def _listener(self, receiver: int, topic: str) -> Callable[[Any], None]:
        def listener(message: Any) -> None:
            sender, number, published = message
            self._delivered[receiver] += 1
            if number <= self._numbers.get((sender, receiver, topic), -1):
                self.complaints.append(f"{number} on {topic} from node {sender} came late or twice to node {receiver}")
            self._numbers[sender, receiver, topic] = number
            self._published[sender, receiver] = max(self._published[sender, receiver], published)

        return listener

    async def _publish(self, sender: int) -> None:
        began, sent = self._loop.time(), 0
        while not self._is_over:
            while sent < (self._loop.time() - began) * RATE:
                message = [sender, self._sent[sender], self._loop.time()]
                self._nodes[sender].publish_nowait(TOPICS[self._sent[sender] % len(TOPICS)], message, self._done)
                self._sent[sender] += 1
                sent += 1
            await asyncio.sleep(1 / RATE)

    def _done(self, error: Exception | None) -> None:
        if error:
            self.complaints.append(f"a publish failed: {error}")

    async def _watch(self) -> None:
        while not self._is_over:
            now = self._loop.time()
            if any(now - published > CURRENT for published in self._published.values()):
                self.stale = now
            await asyncio.sleep(CURRENT / 10)


class Scenario:
    """Three nodes at a cluster, and one fault after another while they publish."""

    def __init__(self, cluster: Cluster, nodes: list[Node]) -> None:
        self._cluster = cluster
        self._nodes = nodes
        self._loop = asyncio.get_running_loop()
        self._ready = 0.0
        self.traffic = Traffic(nodes)
        for node in nodes:
            node.on("ready", self._note_ready)

    async def suffer(self, fault: str, disturb: Callable[[], Awaitable[object]], gone: Server | None = None) -> Row:
        """Let one fault happen under load; return what became of it once all is well again."""
        before = self.traffic.totals()
        self.traffic.start()
        await eventually(lambda: self.traffic.totals()[1] - before[1] >= FLOWING, "messages from node to node")
        began = self._ready = self.traffic.stale = self._loop.time()
        await disturb()
        try:
            async with asyncio.timeout(OVER_WITHIN):
                could_serve = await self._serves(self._cluster.url_without(gone) if gone else self._cluster.url) - began
                while self._loop.time() - self.traffic.stale < QUIET or not all(node.is_ready for node in self._nodes):
                    await asyncio.sleep(CURRENT / 10)
        except TimeoutError:
            pytest.fail(f"{fault}: after {OVER_WITHIN:g} s the nodes do not hear one another")
        await self.traffic.stop()
        counts = [now - then for now, then in zip(self.traffic.totals(), before, strict=True)]
        times = round(self._ready - began, 2), round(could_serve, 2)
        return Row(self._cluster.title, fault, *times, *counts)

    def _note_ready(self) -> None:
        self._ready = self._loop.time()

    async def _serves(self, url: str) -> float:
        """Return the time at which a new node can connect, subscribe to all that the others have, and publish."""
        while True:
            try:
                async with asyncio.timeout(5), Connector(settings_for(self._cluster, url)) as new:
                    for topic in (*TOPICS, SPARE):
                        await new.subscribe(topic, _ignore)
                    await new.publish(SPARE, "here")
                    return self._loop.time()
            except (Connector.errors.ConnectorError, TimeoutError):
                await asyncio.sleep(0.05)


def _ignore(message: Any) -> None:
    """Be a listener to whom no message matters."""


def settings_for(cluster: Cluster, url: str) -> Settings:
    """Return the settings of a node at this url of a cluster."""
    paces = {"heartbeat": HEARTBEAT, "connect_timeout": 3, "reconnect_delay_min": 0.02, "reconnect_delay_max": 0.2}
    return Settings(**{**paces, "publish_timeout": OVER_WITHIN, **cluster.settings, "url": url})


@pytest.fixture
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that runs."""
    cluster: Cluster = request.param(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
async def nodes(cluster: Cluster) -> AsyncIterator[list[Node]]:
    """Three nodes that are connected to the cluster."""
    nodes = [Node(settings_for(cluster, cluster.url)) for _ in range(NODES)]
    try:
        for node in nodes:
            await node.connect()
        yield nodes
    finally:
        await asyncio.gather(*(node.close() for node in nodes))


@pytest.mark.timeout(400)
@pytest.mark.needs("clusters")
@pytest.mark.production("cluster")
@pytest.mark.clause("R4", "R8")
@pytest.mark.parametrize("cluster", Broker.clusters, ids=lambda cluster: cluster.__name__, indirect=True)
async def test_a_cluster_loses_nothing_whatever_becomes_of_one_server(
    cluster: Cluster, nodes: list[Node], record_property: Callable[[str, object], None]
) -> None:
    scenario = Scenario(cluster, nodes)
    await scenario.traffic.subscribe()
    bad = []

    async def suffer(fault: str, disturb: Callable[[], Awaitable[object]], gone: Server | None = None) -> None:
        row = await scenario.suffer(fault, disturb, gone)
        record_property("fault", row)
        allowed = row.could_serve + SLACK + (HEARTBEAT if fault == "frozen" else 0)
        if row.lost or row.delivered != row.owed or row.ready > allowed:
            bad.append(row)

    async def kill() -> None:
        await asyncio.to_thread(victim.stop)
        await cluster.without(victim)

    async def freeze() -> None:
        victim.freeze()
        await cluster.without(victim)

    victim = cluster.victim()
    await suffer("killed", kill, victim)
    await suffer("brought back", lambda: cluster.with_again(victim))
    victim = cluster.victim()
    await suffer("frozen", freeze, victim)
    await suffer("thawed", lambda: cluster.thaw(victim))
    if cluster.switches_over:
        await suffer("switched over", cluster.switch_over)
    assert not bad, f"not all was delivered, or nodes were ready too late: {bad}"
