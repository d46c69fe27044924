"""What is between the nodes in the tests: a Zenoh router, from the wheel that the connector needs anyway."""

import json
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from .contract.public import Cluster, Server

ROUTER = """
import sys, threading, zenoh
config = zenoh.Config()
for key, value in zip(sys.argv[1::2], sys.argv[2::2]):
    config.insert_json5(key, value)
with zenoh.open(config):
    threading.Event().wait()
"""


class Broker(Server):
    """A router with Zenoh's own defaults; nodes that listen nowhere reach each other through it alone."""

    workers = 2
    speaks_tls: ClassVar = True
    not_applicable: ClassVar = {
        "E3": "Zenoh's access control drops what it forbids, and tells nobody",
        "test_a_fork_may_come_when_it_is_in_use": "Zenoh's own threads end at a fork, and a child cannot start them again",
        "test_a_wrong_password_is_refused_and_not_shown": "Zenoh does not tell why it makes no link",
    }

    configuration: Mapping[str, str] = MappingProxyType({})

    def command(self) -> list[str]:
        configuration = {
            "mode": '"router"',
            "listen/endpoints": f'["{"tls" if self.certificate else "tcp"}/127.0.0.1:{self.port}"]',
            "scouting/multicast/enabled": "false",
            **self.configuration,
        }
        if self.certificate:
            configuration |= {
                "transport/link/tls/root_ca_certificate": json.dumps(str(self.certificate.ca)),
                "transport/link/tls/listen_certificate": json.dumps(str(self.certificate.cert)),
                "transport/link/tls/listen_private_key": json.dumps(str(self.certificate.key)),
                "transport/link/tls/enable_mtls": json.dumps(self.asks_for_certificate),
            }
        return [sys.executable, "-c", ROUTER, *(part for pair in configuration.items() for part in pair)]

    def version(self) -> str:
        return f"Zenoh {version('eclipse-zenoh')}, a router"

    @property
    def url(self) -> str:
        return f"zenoh{'s' if self.certificate else ''}://127.0.0.1:{self.port}"


class ThreePeers(Cluster):
    """Peers that are linked to each other; the nodes are behind them."""

    title = "Zenoh, three peers"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.servers = [self.new(Broker, f"peer{number}") for number in range(3)]
        for server in self.servers:
            others = [f"tcp/127.0.0.1:{other.port}" for other in self.servers if other is not server]
            configuration = {"mode": '"peer"', "connect/endpoints": json.dumps(others), "connect/timeout_ms": "0"}
            vars(server).update(configuration=configuration)

    @property
    def url(self) -> str:
        return f"zenoh://{','.join(f'127.0.0.1:{server.port}' for server in self.servers)}"


Broker.clusters = (ThreePeers,)
