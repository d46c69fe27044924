"""The server for the tests: Apache Kafka in KRaft mode, one process, from Maven artifacts."""

import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from .contract.public import TEST_URL, Authority, Cluster, Server, fetch, free_port, java
from .subject import contract

VERSION = "3.9.1"
API_VERSIONS = b"\0\0\0\x0a\0\x12\0\0\0\0\0\1\xff\xff"
"""A request that a broker answers before any others."""


def jars() -> Path:
    """Return the folder of the server, which Maven fetches the first time."""
    return fetch(f"kafka-{VERSION}", f"org.apache.kafka:kafka_2.13:{VERSION}", "org.slf4j:slf4j-simple:1.7.36")


UNASKED = (
    "where the broker keeps messages, nobody is asked how far a sender has come: cluster_key keeps forged frames off"
)


OWNER = "owner"
"""The server's name for a client that shows a certificate."""

SCRAM = "SCRAM-SHA-512"
SECURITY = "org.apache.kafka.common.security"


class Broker(Server):
    """A Kafka server that keeps its log over a restart.

    It has several listeners, since it tells its clients where to connect: the main one; one behind the proxy, which
    it advertises at the proxy's port; one at which a user or a token must log in, whatever `login` is; and one for
    itself and its tools.
    """

    not_applicable: ClassVar[dict[str, str]] = {
        "test_no_forged_frame_makes_later_messages_of_a_living_node_vanish": UNASKED,
        "test_a_forged_run_of_the_next_numbers_is_seen_through": UNASKED,
    }
    is_durable = True
    workers = 2
    speaks_tls = True
    changes_passwords = True
    absurd: ClassVar = {"bytes": b"\x7f\xff\xff\xff"}
    settings_of_login: ClassVar[dict[str, Any]] = {"sasl_mechanism": SCRAM}
    options: Sequence[str] = ()
    """Further options for Java."""
    users: ClassVar[dict[str, str]] = {"limited": "s3cr3t", "writer": "s3cr3t"}
    """The users at `login_port` and their passwords; they have no rights at first."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.behind_port, self.login_port, self.inside_port, self.controller_port = (free_port() for _ in range(4))
        if elsewhere := os.environ.get(TEST_URL):  # somebody else runs it, and has a listener for the proxy, too
            self.proxy_ports["url"] = (urlsplit(elsewhere).port or 9092) + 10002

    def version(self) -> str:
        return f"Apache Kafka {VERSION}"

    @property
    def url(self) -> str:
        return f"kafka://127.0.0.1:{self.port}"

    @property
    def login_url(self) -> str:
        """Where a user or a token must log in."""
        return f"kafka://127.0.0.1:{self.login_port}"

    def set_password(self, password: str) -> None:
        assert self.login
        words = ["--entity-type", "users", "--entity-name", self.login[0], "--alter"]
        self.run_tool("kafka.admin.ConfigCommand", *words, "--add-config", f"{SCRAM}=[password={password}]")

    def targets(self, settings: contract.ConnectorSettings) -> dict[str, tuple[str, int]]:
        host, port = super().targets(settings)["url"]
        return {"url": (host, self.behind_port if self.is_running else port + 2)}

    def is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.inside_port), timeout=1) as probe:
                probe.sendall(API_VERSIONS)
                return bool(probe.recv(1)) and super().is_ready()
        except OSError:
            return False

    def run_tool(self, main: str, *arguments: str) -> None:
        """Run one of Kafka's programs that set the server up."""
        command = self.program(main, "--bootstrap-server", f"127.0.0.1:{self.inside_port}", *arguments)
        subprocess.run(command, check=True, capture_output=True)

    def program(self, main: str, *arguments: str) -> list[str]:
        """Return the command that runs one of Kafka's programs."""
        return java([f"{jars()}/*"], main, *arguments, options=self.options)

    def command(self) -> list[str]:
        properties = self.folder / "server.properties"
        if not properties.exists():
            properties.write_text("".join(f"{name}={value}\n" for name, value in self.properties().items()))
            words = ["format", "--cluster-id", "AAAAAAAAAAAAAAAAAAAAAA", "--config", str(properties)]
            if self.login:
                words += ["--add-scram", f"{SCRAM}=[name={self.login[0]},password={self.login[1]}]"]
            subprocess.run(self.program("kafka.tools.StorageTool", *words), check=True, capture_output=True)
        return self.program("kafka.Kafka", str(properties))

    def properties(self) -> dict[str, object]:
        """Return the settings of the server."""
        users = " ".join(f'user_{name}="{password}"' for name, password in self.users.items())
        listeners = {
            "MAIN": self.port,
            "PROXIED": self.behind_port,
            "LOGIN": self.login_port,
            "INSIDE": self.inside_port,
        }
        advertised = {**listeners, "PROXIED": self.proxy_ports["url"]}
        main = f"{'SASL_' if self.login else ''}{'SSL' if self.certificate else 'PLAINTEXT'}"
        protocols = {**dict.fromkeys(listeners, "PLAINTEXT"), "MAIN": main, "LOGIN": "SASL_PLAINTEXT"}
        protocols["CONTROLLER"] = "PLAINTEXT"
        properties: dict[str, object] = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{self.controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": _places({**listeners, "CONTROLLER": self.controller_port}),
            "advertised.listeners": _places(advertised),
            "inter.broker.listener.name": "INSIDE",
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            "sasl.enabled.mechanisms": "PLAIN,OAUTHBEARER",
            "listener.name.login.plain.sasl.jaas.config": f"{SECURITY}.plain.PlainLoginModule required {users};",
            "listener.name.login.oauthbearer.sasl.jaas.config": f"{SECURITY}.oauthbearer.OAuthBearerLoginModule "
            'required unsecuredLoginStringClaim_sub="broker";',
            "listener.name.main.sasl.enabled.mechanisms": SCRAM,
            f"listener.name.main.{SCRAM.lower()}.sasl.jaas.config": f"{SECURITY}.scram.ScramLoginModule required;",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": ";".join(f"User:{name}" for name in ("ANONYMOUS", OWNER, *(self.login or ())[:1])),
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
        if self.certificate:
            keystore = self.folder / "keystore.pem"
            keystore.write_text(f"{self.certificate.key.read_text()}{self.certificate.cert.read_text()}")
            properties |= {
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": keystore,
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": self.certificate.ca,
                "listener.name.main.ssl.client.auth": "required" if self.asks_for_certificate else "none",
                "ssl.principal.mapping.rules": f"RULE:.*/{OWNER}/",
            }
        return properties


class Member(Broker):
    """One of `ThreeBrokers`, a controller as well."""

    number = 1
    members: Sequence["Member"] = ()
    options = ("-Xmx256m",)

    def properties(self) -> dict[str, object]:
        voters = (f"{member.number}@127.0.0.1:{member.controller_port}" for member in self.members)
        return {
            **super().properties(),
            "node.id": self.number,
            "controller.quorum.voters": ",".join(voters),
            "default.replication.factor": 3,
            "min.insync.replicas": 2,
            "broker.session.timeout.ms": 4000,
            "controller.socket.timeout.ms": 3000,
        }


class ThreeBrokers(Cluster):
    """A cluster in which at least two brokers keep each message; nodes log in with SCRAM, over TLS."""

    title = "Kafka, three brokers, SASL_SSL"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        authority, login = Authority(folder), ("node", "s3cr3t")
        common = {"certificate": authority.issue("127.0.0.1"), "login": login}
        members = [self.new(Member, f"server-{number}", number=number, **common) for number in (1, 2, 3)]
        for member in members:
            member.members = members
        self.servers = members
        self.settings = {
            "username": login[0],
            "password": login[1],
            "tls_ca_file": authority.file,
            **Broker.settings_of_login,
        }

    @property
    def url(self) -> str:
        return f"kafka://{','.join(f'127.0.0.1:{server.port}' for server in self.servers)}"


Broker.clusters = (ThreeBrokers,)


def _places(ports: dict[str, int]) -> str:
    return ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())


if __name__ == "__main__":
    jars()
