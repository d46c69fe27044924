"""The servers for the tests: RabbitMQ, which the machine has; one, or three that are a cluster."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from .contract.public import Cluster, PortMapper, RabbitMQ

OWN = r"^deepstream(\..*)?$"
DEFINITIONS = {
    "vhosts": [{"name": "/"}, {"name": "other/host"}],
    "users": [
        {"name": "guest", "password": "guest", "tags": "administrator"},
        {"name": "limited", "password": "s3cr3t", "tags": ""},
    ],
    "permissions": [
        {"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"},
        {"user": "guest", "vhost": "other/host", "configure": ".*", "write": ".*", "read": ".*"},
        {"user": "limited", "vhost": "/", "configure": r"^deepstream\.", "write": OWN, "read": OWN},
    ],
    "topic_permissions": [
        {"user": "limited", "vhost": "/", "exchange": "deepstream", "write": "^allowed$", "read": "^allowed$"},
    ],
}
LARGEST = 2_000_000
"""The most that the server takes, in bytes."""


class Broker(RabbitMQ):
    """A RabbitMQ server that also knows nodes by the common names of their certificates."""

    plugins = ("rabbitmq_auth_mechanism_ssl",)
    definitions = DEFINITIONS
    absurd: ClassVar = {"bytes": b"\x01\0\0\x7f\xff\xff\xff"}
    options: Mapping[str, object] = {
        "max_message_size": LARGEST,
        "auth_mechanisms.1": "PLAIN",
        "auth_mechanisms.2": "EXTERNAL",
        "ssl_cert_login_from": "common_name",
    }


class ThreeServers(Cluster):
    """Three RabbitMQ servers that are a cluster, in which the exchange is everyone's and a queue is one server's."""

    title = "RabbitMQ, three servers"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._mapper = PortMapper(folder / "mapper")
        servers = [
            self.new(Broker, str(number), shared_mapper=self._mapper, seconds_to_notice=4) for number in range(3)
        ]
        self.servers = [*servers]
        options: dict[str, object] = {
            **Broker.options,
            "cluster_partition_handling": "pause_minority",
            "cluster_formation.peer_discovery_backend": "classic_config",
        }
        for number, server in enumerate(servers, 1):
            options[f"cluster_formation.classic_config.nodes.{number}"] = server.name
            server.options = options

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.servers)
        return f"amqp://guest:guest@{hosts}"

    def start(self) -> None:
        """Start one after another, so that each joins the first, and wait until all are ready."""
        for server in self.servers:
            server.start()

    def stop(self) -> None:
        super().stop()
        self._mapper.stop()


Broker.clusters = (ThreeServers,)
