"""The server for the tests: RabbitMQ, which the machine has, with files, ports and users of its own."""

import asyncio
import json
import os
import shlex
import shutil
from glob import glob
from pathlib import Path

from .contract.server import Server, find_program, free_port

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
"""What the server takes, in bytes."""


class Broker(Server):
    """A RabbitMQ server, and the daemon that Erlang needs beside it."""

    workers = 2

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._distribution_port = free_port()
        self._daemon_port = free_port()

    def start(self) -> None:
        (self.folder / "definitions.json").write_text(json.dumps(DEFINITIONS))
        (self.folder / "enabled_plugins").write_text("[].")
        options = {
            "listeners.tcp.1": f"127.0.0.1:{self.port}",
            "load_definitions": self.folder / "definitions.json",
            "max_message_size": LARGEST,
            "vm_memory_high_watermark.absolute": "2GB",
            "disk_free_limit.absolute": "1MB",
        }
        (self.folder / "rabbitmq.conf").write_text("\n".join(f"{name} = {value}" for name, value in options.items()))
        super().start()

    def program(self, name: str) -> str:
        """Return the path of one of RabbitMQ's programs, past Debian's wrappers, which change the user."""
        for folder in sorted(glob("/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin"), reverse=True):
            return f"{folder}/{name}"
        return find_program(name, "apt-get install rabbitmq-server, or set the url of one that runs")

    def version(self) -> str:
        return Path(self.program("rabbitmq-server")).resolve().parts[-3].replace("rabbitmq_server-", "RabbitMQ ")

    def command(self) -> list[str]:
        server = self.program("rabbitmq-server")
        daemon = [find_program("epmd", "apt-get install erlang-base"), "-address", "127.0.0.1"]
        if dies_with_parent := shutil.which("setpriv"):
            daemon = [dies_with_parent, "--pdeathsig=KILL", "--", *daemon]
        return ["sh", "-c", f"{shlex.join(daemon)} & exec {shlex.quote(server)}"]

    def environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.folder),
            "ERL_EPMD_PORT": str(self._daemon_port),
            "RABBITMQ_NODENAME": f"test-{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
            "RUNNING_UNDER_SYSTEMD": "true",  # one process, to be stopped like any other
        }

    async def control(self, *words: str) -> None:
        """Run `rabbitmqctl`."""
        command = [self.program("rabbitmqctl"), *words]
        environment = {**os.environ, **self.environment()}
        process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.DEVNULL)
        if await process.wait():
            raise RuntimeError(f"rabbitmqctl failed: {words}")

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}"
