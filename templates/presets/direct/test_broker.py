"""What is special without a broker: peers that find each other, freeze, die, and are cut from each other."""

import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zenoh
from pydantic import SecretStr, ValidationError

from .contract.public import FAST, Log, MakeNode, Missing, Node, Serve, eventually, free_port, patience
from .subject import Connector, Settings, contract

State = dict[str, Any]

PEER = """
import asyncio, importlib, json, sys, time
package = importlib.import_module(sys.argv.pop(1))

async def main(settings, own, topics):
    state = dict(sent=0, slowest=0.0, losses=0, first={}, last={})
    state |= dict(got=dict.fromkeys(topics, 0), lost=dict.fromkeys(topics, 0))
    is_going, publishing = False, None

    def listen(topic):
        def listener(number):
            state["first"].setdefault(topic, number)
            assert number > state["last"].get(topic, 0), "out of order"
            state["last"][topic] = number
            state["got"][topic] += 1
        return listener

    def note(error):
        if isinstance(error, package.contract.MessagesLostError):
            state["lost"][error.topic] += error.count
        elif isinstance(error, package.contract.ConnectionLostError):
            state["losses"] += 1
        else:
            print(repr(error), file=sys.stderr)

    async def publish():
        while is_going:
            started = time.monotonic()
            state["sent"] += 1
            await connector.publish(own, state["sent"])
            state["slowest"] = max(state["slowest"], time.monotonic() - started)
            await asyncio.sleep(0.01)

    connector = package.Connector(package.Settings(**settings))
    connector.on("error", note)
    await connector.connect()
    for topic in topics:
        if topic != own:
            await connector.subscribe(topic, listen(topic))
    while command := await asyncio.to_thread(sys.stdin.readline):
        if command == "go\\n":
            is_going, state["slowest"] = True, 0.0
            publishing = asyncio.create_task(publish())
        elif command == "stop\\n" and publishing:
            is_going = False
            await publishing
        print(json.dumps(state), flush=True)
    await connector.close()

asyncio.run(main(*map(json.loads, sys.argv[1:])))
"""


class Peer:
    """A node in a process of its own, which publishes on a topic of its own and listens to those of all others."""

    def __init__(self, process: Process, topic: str) -> None:
        self.process = process
        self.topic = topic

    async def tell(self, command: str) -> State:
        """Have the node do something; return how it is after that."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{command}\n".encode())
        async with patience():
            state: State = json.loads(await self.process.stdout.readline())
        return state

    async def until(self, condition: Callable[[State], bool]) -> State:
        """Return how the node is, once a condition holds."""
        state: State = {}
        async with patience(lambda: f"a state of {self.topic}, which is: {state}"):
            while not condition(state := await self.tell("state")):
                await asyncio.sleep(0.02)
        return state

    async def end(self) -> None:
        """Kill the node, and wait for its end."""
        if self.process.returncode is None:
            self.process.kill()
        assert self.process.stdin
        self.process.stdin.close()
        await self.process.wait()


class Mesh:
    """Peers by name; each is told of one other, and finds the rest."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.peers: dict[str, Peer] = {}
        self.ports: dict[str, int] = {}
        self.networks: dict[str, Process] = {}

    async def wire(self) -> None:
        """Give each peer a network of its own, all on one switch, so that one can be cut from another."""
        for name in ("switch", *self.names):
            self.networks[name] = await asyncio.create_subprocess_exec("unshare", "--net", "cat", stdin=PIPE)
            process = self.networks[name]
            await eventually(lambda: _network_of(process.pid) != _network_of(os.getpid()), "a network of its own")  # noqa: B023 (awaited at once)
            await self.configure(name, "link set lo up")
        await self.configure("switch", "link add bridge type bridge")
        await self.configure("switch", "link set bridge up")
        for name in self.names:
            await self.configure(
                "switch", f"link add {name} type veth peer name outside netns {self.networks[name].pid}"
            )
            await self.configure("switch", f"link set {name} master bridge up")
            await self.configure(name, f"address add {self.host(name)}/24 dev outside")
            await self.configure(name, "link set outside up")

    async def configure(self, name: str, command: str) -> None:
        """Run `ip` in a peer's network, or in the switch."""
        inside = ["nsenter", f"--target={self.networks[name].pid}", "--net", "ip"]
        process = await asyncio.create_subprocess_exec(*inside, *command.split())
        assert await process.wait() == 0

    async def cut(self, *pair: str, way: str = "add") -> None:
        """Let nothing pass between two peers; with `del` as the way, let it pass again."""
        for here, there in (pair, reversed(pair)):
            await self.configure(here, f"route {way} blackhole {self.host(there)}/32")

    def host(self, name: str) -> str:
        """The address of a peer."""
        return f"10.77.0.{1 + self.names.index(name)}" if self.networks else "127.0.0.1"

    def address(self, name: str) -> str:
        """Where a peer listens."""
        return f"{self.host(name)}:{self.ports.setdefault(name, free_port())}"

    async def start(self, name: str, told_of: str | None = None) -> Peer:
        """Start a peer that knows another one, or that may be alone; return when it is subscribed."""
        listen = self.address(name)
        settings = {"url": f"zenoh://{self.address(told_of or name)}", "listen": listen, "may_be_alone": not told_of}
        arguments = (FAST | settings | {"publish_timeout": 60}, name, self.names)
        command = [sys.executable, "-c", PEER, Connector.__module__, *map(json.dumps, arguments)]
        if self.networks:
            command = ["nsenter", f"--target={self.networks[name].pid}", "--net", *command]
        self.peers[name] = Peer(await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE), name)
        await self.peers[name].tell("state")
        return self.peers[name]

    async def all(self, act: Callable[[Peer], Coroutine[Any, Any, State]], *but: str) -> dict[str, State]:
        """Do something with all peers but some; return how they are."""
        peers = [peer for name, peer in self.peers.items() if name not in but]
        states = await asyncio.gather(*map(act, peers))
        return {peer.topic: state for peer, state in zip(peers, states, strict=True)}

    async def go_on(self, *but: str, messages: int = 50) -> None:
        """Return when all peers but some have published so many messages more, and heard each other meanwhile."""
        before = await self.all(lambda peer: peer.tell("state"), *but)

        def has_gone_on(name: str, steps: int) -> Callable[[State], bool]:
            others = [other for other in before if other != name]
            return lambda state: (
                state["sent"] >= before[name]["sent"] + steps
                and all(state["last"].get(other, 0) > before[other]["sent"] for other in others)
            )

        async def go_on(steps: int, peer: Peer) -> State:
            return await peer.until(has_gone_on(peer.topic, steps))

        for steps in range(10, messages + 1, 10):  # on a busy machine, all of them may take longer than patience lasts
            await self.all(partial(go_on, steps), *but)

    async def balance(self) -> None:
        """Stop; return when each peer has got, or reported as lost, all that each other one has sent."""
        states = await self.all(lambda peer: peer.tell("stop"))

        def is_balanced(name: str) -> Callable[[State], bool]:
            wanted = {other: state["sent"] for other, state in states.items() if other != name}
            return lambda state: all(
                state["got"][other] + state["lost"][other] == sent - state["first"][other] + 1
                for other, sent in wanted.items()
            )

        await self.all(lambda peer: peer.until(is_balanced(peer.topic)))

    async def end(self) -> None:
        """Kill the peers, and take the networks down."""
        for peer in self.peers.values():
            await peer.end()
        for process in self.networks.values():
            assert process.stdin
            process.stdin.close()
            await process.wait()


def _network_of(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/net")


@pytest.fixture
async def mesh() -> AsyncIterator[Callable[..., Coroutine[Any, Any, Mesh]]]:
    """Starts so many peers, of which each but the first is told of the first; `wired` ones can be cut."""
    meshes: list[Mesh] = []

    async def make(count: int, wired: bool = False, names: int = 0) -> Mesh:
        made = Mesh([f"peer{number}" for number in range(max(count, names))])
        meshes.append(made)
        if wired:
            await made.wire()
        await made.start("peer0")
        await asyncio.gather(*(made.start(name, "peer0") for name in made.names[1:count]))
        await made.all(lambda peer: peer.tell("go"))
        await made.go_on()
        return made

    yield make
    for made in meshes:
        await made.end()


@pytest.fixture
async def networks() -> None:
    """Whether this machine lets tests make networks."""
    trying = await asyncio.create_subprocess_exec("unshare", "--net", "true", stderr=PIPE)
    await trying.communicate()
    if trying.returncode != 0:
        raise Missing(
            "no networks to cut peers from each other: that needs root, and the commands unshare, nsenter and ip"
        )


@pytest.fixture
def peer(node: MakeNode) -> MakeNode:
    """Makes a node that listens; `told_of` are the ports of others; without any it may be alone."""

    async def peer(port: int, *told_of: int, scheme: str = "zenoh", **changes: Any) -> Node:
        url = f"{scheme}://{','.join(f'127.0.0.1:{each}' for each in told_of or (port,))}"
        settings = {"url": url, "listen": f"127.0.0.1:{port}", "may_be_alone": not told_of, **changes}
        made: Node = await node(**settings)
        return made

    return peer


def ports(count: int) -> list[int]:
    """This many free ports, all different."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return list(found)


async def talk(nodes: list[Node], topic: str) -> None:
    """Have each node publish; return when each has heard all others, each once."""
    mailboxes = [Log() for _ in nodes]
    for node, mailbox in zip(nodes, mailboxes, strict=True):
        await node.subscribe(topic, mailbox)
    for turn in range(3):
        await asyncio.gather(*(node.publish(topic, [turn, index]) for index, node in enumerate(nodes)))
    for index, mailbox in enumerate(mailboxes):
        got = await mailbox.count(3 * (len(nodes) - 1))
        others = [other for other in range(len(nodes)) if other != index]
        assert sorted(got) == [[turn, other] for turn in range(3) for other in others]
    for node, mailbox in zip(nodes, mailboxes, strict=True):
        await node.unsubscribe(topic, mailbox)


@pytest.mark.clause("M1", "M2", "R5")
async def test_peers_find_each_other_and_any_may_go_also_the_first(peer: MakeNode, topic: str) -> None:
    first, second, third, late = ports(4)
    nodes: list[Node] = [await peer(first), await peer(second, first), await peer(third, first)]
    await talk(nodes, topic)
    await nodes.pop(0).close()
    await talk(nodes, topic)
    nodes.append(await peer(late, third))
    await talk(nodes, topic)
    assert [node.stats()["filtered"] for node in nodes] == [0, 0, 0]
    assert [node.stats()["reconnects"] for node in nodes] == [0, 0, 0]


@pytest.mark.clause("L2", "L3")
async def test_alone_a_node_is_ready_only_if_it_may_be(peer: MakeNode, topic: str) -> None:
    here, there = ports(2)
    impatient: Node = await peer(there, here, connect=False)
    with pytest.raises(contract.ConnectError, match="may_be_alone"):
        await impatient.connect()
    waiting: Node = await peer(here, here, there, may_be_alone=True)
    await waiting.publish(topic, "nobody hears it")
    await impatient.connect()
    await talk([waiting, impatient], topic)


@pytest.mark.clause("M1", "R2")
async def test_who_may_be_alone_finds_those_that_come_later(peer: MakeNode, topic: str) -> None:
    here, there = ports(2)
    waiting: Node = await peer(here, there, may_be_alone=True)
    other: Node = await peer(there)
    mailbox = Log()
    await waiting.subscribe(topic, mailbox)
    async with patience():
        while not mailbox.items:
            await other.publish(topic, "found")


@pytest.mark.clause("R1")
async def test_the_last_link_is_the_connection(peer: MakeNode) -> None:
    here, there, elsewhere = ports(3)
    first: Node = await peer(here)
    nodes = [await peer(there, here, noisy=True), await peer(elsewhere, here)]
    await first.close()
    await nodes.pop().close()
    await nodes[0].until_down()
    again: Node = await peer(here)
    await nodes[0].until_ready(2)
    await again.close()


@pytest.mark.clause("M1")
async def test_a_router_is_only_another_url(serve: Serve, node: MakeNode, peer: MakeNode, topic: str) -> None:
    here = serve()
    there = serve(configuration={"connect/endpoints": f'["tcp/127.0.0.1:{here.port}"]'})
    port = free_port()
    peers = [await peer(port, here.port), await peer(free_port(), here.port), await peer(free_port(), there.port)]
    behind = [await node(url=there.url), await node(url=f"zenoh://127.0.0.1:{port}")]
    async with patience():
        mailbox = Log()
        await behind[1].subscribe(topic, mailbox)
        while not mailbox.items:  # the two routers have yet to find each other
            await behind[0].publish(topic, "through")
    await talk([*peers, *behind], f"{topic}-all")


@pytest.mark.clause("R8")
@pytest.mark.skipif(sys.platform != "linux", reason="not applicable: 127.0.0.2 is an address of this machine on Linux")
async def test_each_address_of_a_name_is_tried(node: MakeNode, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    hosts = "127.0.0.1", "127.0.0.2"
    listening: Node = await node(url=f"zenoh://{hosts[1]}:{port}", listen=f"{hosts[1]}:{port}", may_be_alone=True)

    def look_up(*_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in hosts]

    with socket.socket() as silent:
        silent.bind((hosts[0], port))
        silent.listen()
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        other: Node = await node(url=f"zenoh://localhost:{port}")
        await talk([listening, other], topic)


@pytest.mark.clause("M1")
async def test_another_namespace_is_another_cluster(node: MakeNode, topic: str) -> None:
    one, other, stranger = await node(), await node(), await node(namespace="another/cluster")
    mailbox = Log()
    await one.subscribe(topic, mailbox)
    await stranger.publish(topic, "from elsewhere")
    await other.publish(topic, "from here")
    assert await mailbox.count(1) == ["from here"]


@pytest.mark.clause("R4", "R2", "R1")
@pytest.mark.timeout(180)
@pytest.mark.parametrize("count", [3, 8])
async def test_the_balance_holds_when_peers_freeze_are_cut_off_and_die(networks: None, mesh: Any, count: int) -> None:
    made: Mesh = await mesh(count, wired=True)
    names = list(made.peers)
    frozen = made.peers[names[-1]]
    frozen.process.send_signal(signal.SIGSTOP)
    await made.go_on(names[-1], messages=120)
    states = await made.all(lambda peer: peer.tell("state"), names[-1])
    assert max(state["slowest"] for state in states.values()) < 2 * FAST["heartbeat"]
    frozen.process.send_signal(signal.SIGCONT)
    await made.go_on()
    await made.cut(*names[1:3])
    await made.go_on(names[1], messages=120)
    await made.cut(*names[1:3], way="del")
    await made.go_on()
    await made.peers.pop(names[0]).end()
    await made.go_on()
    await made.balance()


@pytest.mark.clause("R4", "R2")
@pytest.mark.timeout(180)
async def test_five_restarts_of_each_peer_in_turn_under_load(mesh: Any) -> None:
    made: Mesh = await mesh(3, names=8)
    for turn in range(5):
        await made.peers.pop(f"peer{turn}").end()
        made.ports[f"peer{turn + 3}"] = made.ports[f"peer{turn}"]
        comer = await made.start(f"peer{turn + 3}", told_of=f"peer{turn + 1}")
        await comer.tell("go")
        await made.go_on()
    await made.balance()


@pytest.mark.production("tls")
@pytest.mark.clause("L3")
@pytest.mark.parametrize("given_as", ["file", "text"])
async def test_peers_show_each_other_certificates(
    peer: MakeNode, node: MakeNode, authority: Any, topic: str, given_as: str
) -> None:
    files = authority.issue("127.0.0.1")
    tls = {"tls_ca_file": files.ca, "tls_cert_file": files.cert, "tls_key_file": files.key}
    if given_as == "text":
        tls = {name: file.read_text() for name, file in tls.items()}
    first, second, third = ports(3)
    nodes = [await peer(first, scheme="zenohs", **tls)]
    nodes += [await peer(port, first, scheme="zenohs", **tls) for port in (second, third)]
    await talk(nodes, topic)
    ca_alone = {"tls_ca_file": tls["tls_ca_file"]}
    for some in (ca_alone, {name: value for name, value in tls.items() if name not in ca_alone}):
        refused: Node = await node(connect=False, url=f"zenohs://127.0.0.1:{first}", **some)
        with pytest.raises(contract.ConnectError, match="a refused login or certificate"):
            await refused.connect()


@pytest.mark.clause("L3", "L9")
async def test_a_wrong_password_is_told_without_showing_it(
    peer: MakeNode, node: MakeNode, tmp_path: Path, topic: str
) -> None:
    users = tmp_path / "users"
    users.write_text("node:s3cr3t/x\n")
    first, second = ports(2)
    login = {"username": "node", "password": "s3cr3t/x", "users_file": users}
    nodes = [await peer(first, **login), await peer(second, first, **login)]
    nodes.append(await node(url=f"zenoh://node:s3cr3t%2Fx@127.0.0.1:{first}"))
    await talk(nodes, topic)
    for wrong in ({"username": "node", "password": "wr0ng"}, {}):
        refused: Node = await node(connect=False, url=f"zenoh://127.0.0.1:{first}", **wrong)
        with pytest.raises(contract.ConnectError) as raised:
            await refused.connect()
        assert "wr0ng" not in f"{raised.value!r} {raised.value.__cause__!r}"


@pytest.mark.clause("L1")
def test_where_to_listen_must_be_hosts_and_ports() -> None:
    for good in ("0.0.0.0:1", "[::]:7447", "one:7447,other:7448"):
        assert Settings(listen=good).listen == good
    for bad in ("7447", "host", "host:0", "tcp/host:7447", "host:7447,"):
        with pytest.raises(ValidationError, match="listen"):
            Settings(listen=bad)
    told = json.loads(Settings(url=SecretStr("zenoh://one,other:1")).for_zenoh())
    assert told["connect"]["endpoints"] == ["tcp/one:7447", "tcp/other:1"]


@pytest.mark.clause("L1")
@pytest.mark.parametrize("rest", ["/deepstream", "?tls=true", "/?password=s3cr3t"])
def test_what_the_url_says_after_its_hosts_is_refused_and_not_shown(rest: str) -> None:
    assert Settings(url=SecretStr("zenoh://one,other:1/")).targets()
    with pytest.raises(ValidationError, match="must end after its hosts") as raised:
        Settings(url=SecretStr(f"zenoh://one{rest}"))
    assert "s3cr3t" not in str(raised.value)


@pytest.mark.clause("L4")
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGSTOP, None], ids=["killed", "frozen", "closed"])
async def test_nothing_is_left_of_a_node(mesh: Any, peer: MakeNode, ending: int | None) -> None:
    made: Mesh = await mesh(2)
    config = zenoh.Config()
    config.insert_json5("mode", '"client"')
    config.insert_json5("connect/endpoints", f'["tcp/{made.address("peer0")}"]')
    with zenoh.open(config) as onlooker:

        async def nodes() -> int:
            return len(list(await asyncio.to_thread(onlooker.get, "deepstream/node/*", timeout=FAST["heartbeat"] / 3)))

        publisher = onlooker.declare_publisher("deepstream/topic/peer0")

        def is_heard() -> bool:
            status: Any = publisher.matching_status
            return bool(status.matching)

        async def are_there() -> bool:
            return is_heard() and await nodes() == 2

        async def is_alone() -> bool:
            return not is_heard() and await nodes() == 1

        await eventually(are_there, "both peers")
        leaver = made.peers["peer1"].process
        if ending is None:
            assert leaver.stdin
            leaver.stdin.close()
            assert await leaver.wait() == 0
        else:
            leaver.send_signal(ending)
        await eventually(is_alone, "one peer alone")
