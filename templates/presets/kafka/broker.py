"""The server for the tests: Apache Kafka in KRaft mode, one process, from Maven artifacts."""

import os
import socket
import subprocess
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from .contract.blanks import TEST_URL
from .contract.java import fetch, java
from .contract.server import Server, free_port
from .subject import contract

VERSION = "3.9.1"
API_VERSIONS = b"\0\0\0\x0a\0\x12\0\0\0\0\0\1\xff\xff"
"""A request that a broker answers before all others."""


def jars() -> Path:
    """Return the folder where the server lies, which Maven fetches the first time."""
    return fetch(f"kafka-{VERSION}", f"org.apache.kafka:kafka_2.13:{VERSION}", "org.slf4j:slf4j-simple:1.7.36")


UNASKED = (
    "where the broker keeps messages, nobody is asked how far a sender has come: cluster_key keeps forged frames off"
)


class Broker(Server):
    """A Kafka server that keeps its log over a restart.

    It has a listener for each way in, since it tells its clients where to connect: the plain one; one behind the
    proxy, which it advertises at the proxy's port; and one at which a user must log in.
    """

    not_applicable: ClassVar[dict[str, str]] = {
        "test_no_forged_frame_makes_later_messages_of_a_living_node_vanish": UNASKED,
        "test_a_forged_run_of_the_next_numbers_is_seen_through": UNASKED,
    }
    is_durable = True
    workers = 2
    users: ClassVar[dict[str, str]] = {"limited": "s3cr3t", "writer": "s3cr3t"}
    """Who may enter at `login_port`, with which password, without any rights at first."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.behind_port, self.login_port, self.controller_port = free_port(), free_port(), free_port()
        if elsewhere := os.environ.get(TEST_URL):  # somebody else runs it, and has a listener for the proxy, too
            self.behind_port = (urlsplit(elsewhere).port or 9092) + 2
            self.proxy_ports["url"] = self.behind_port + 10000

    def version(self) -> str:
        return f"Apache Kafka {VERSION}"

    @property
    def url(self) -> str:
        return f"kafka://127.0.0.1:{self.port}"

    @property
    def login_url(self) -> str:
        """Where a user must log in."""
        return f"kafka://127.0.0.1:{self.login_port}"

    def targets(self, settings: contract.ConnectorSettings) -> dict[str, tuple[str, int]]:
        host, _ = super().targets(settings)["url"]
        return {"url": (host, self.behind_port)}

    def is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                probe.sendall(API_VERSIONS)
                return bool(probe.recv(1))
        except OSError:
            return False

    def program(self, main: str, *arguments: str) -> list[str]:
        """Return the command that runs one of Kafka's programs."""
        return java([f"{jars()}/*"], main, *arguments)

    def command(self) -> list[str]:
        properties = self.folder / "server.properties"
        if not properties.exists():
            properties.write_text("".join(f"{name}={value}\n" for name, value in self.properties().items()))
            words = ["format", "--cluster-id", "AAAAAAAAAAAAAAAAAAAAAA", "--config", str(properties)]
            subprocess.run(self.program("kafka.tools.StorageTool", *words), check=True, capture_output=True)
        return self.program("kafka.Kafka", str(properties))

    def properties(self) -> dict[str, object]:
        """Return the settings of the server."""
        module = "org.apache.kafka.common.security.plain.PlainLoginModule"
        users = " ".join(f'user_{name}="{password}"' for name, password in self.users.items())
        listeners = {"PLAIN": self.port, "PROXIED": self.behind_port, "LOGIN": self.login_port}
        advertised = {**listeners, "PROXIED": self.proxy_ports["url"]}
        protocols = {**dict.fromkeys(listeners, "PLAINTEXT"), "LOGIN": "SASL_PLAINTEXT", "CONTROLLER": "PLAINTEXT"}
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{self.controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": _places({**listeners, "CONTROLLER": self.controller_port}),
            "advertised.listeners": _places(advertised),
            "inter.broker.listener.name": "PLAIN",
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.login.plain.sasl.jaas.config": f"{module} required {users};",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "auto.create.topics.enable": "false",
            "log.dirs": self.folder / "log",
            "log.index.size.max.bytes": 65536,
            "log.cleaner.enable": "false",
            "num.recovery.threads.per.data.dir": 4,
            "offsets.topic.replication.factor": 1,
            "broker.heartbeat.interval.ms": 200,
            "broker.session.timeout.ms": 2000,
            "initial.broker.registration.timeout.ms": 20000,
        }


def _places(ports: dict[str, int]) -> str:
    return ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())


if __name__ == "__main__":
    jars()
