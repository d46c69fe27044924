"""RabbitMQ for the tests, for all presets that speak one of its protocols: with files, ports and users of its own."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any, ClassVar

from .server import Server, find_program, free_port

INSTALL = "apt-get install rabbitmq-server, or set the url of one that runs"


class PortMapper(Server):
    """The daemon `epmd`: through it, Erlang's programs find each other; its folder has what they must share."""

    def command(self) -> list[str]:
        words = ["-address", "127.0.0.1", "-port", str(self.port)]
        return [find_program("epmd", "apt-get install erlang-base"), *words]

    @property
    def url(self) -> str:
        return f"epmd://127.0.0.1:{self.port}"


class RabbitMQ(Server):
    """One node, with a port mapper of its own unless it shares one.

    `options` has more lines of its file. Vhosts, users and rights are its `definitions`; where there is a `login`, only
    that user gets in, and may do all.
    """

    workers = 2
    speaks_tls = True
    changes_passwords = True

    plugins: ClassVar[Sequence[str]] = ()
    definitions: Mapping[str, Any]
    options: Mapping[str, object] = {}

    shared_mapper: PortMapper | None = None
    """That of a cluster, whose nodes must have the same."""

    seconds_to_notice: int = 60
    """After about so many seconds of silence, the nodes of a cluster think that another one is down."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.name = f"test-{self.port}@localhost"
        self._distribution_port = free_port()
        self._own_mapper = PortMapper(folder / "mapper")

    @property
    def _mapper(self) -> PortMapper:
        return self.shared_mapper or self._own_mapper

    def spawn(self) -> None:
        if not self._mapper.is_running:
            self._mapper.folder.mkdir(exist_ok=True)
            self._mapper.start()
        super().spawn()

    def stop(self) -> None:
        super().stop()
        self._own_mapper.stop()

    def command(self) -> list[str]:
        (self.folder / "definitions.json").write_text(json.dumps(self._definitions()))
        (self.folder / "enabled_plugins").write_text(f"[{','.join(self.plugins)}].")
        options = {
            "load_definitions": self.folder / "definitions.json",
            "vm_memory_high_watermark.absolute": "2GB",
            "disk_free_limit.absolute": "1MB",
            **self._listener(),
            **self.options,
        }
        (self.folder / "rabbitmq.conf").write_text("".join(f"{name} = {value}\n" for name, value in options.items()))
        return [self.program("rabbitmq-server")]

    def _definitions(self) -> Mapping[str, Any]:
        if self.login is None:
            return self.definitions
        user, password = self.login
        rights = {"user": user, "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}
        return {
            "vhosts": [{"name": "/"}],
            "users": [{"name": user, "password": password, "tags": ""}],
            "permissions": [rights],
        }

    def _listener(self) -> dict[str, object]:
        if self.certificate is None:
            return {"listeners.tcp.1": f"127.0.0.1:{self.port}"}
        return {
            "listeners.tcp": "none",
            "listeners.ssl.1": f"127.0.0.1:{self.port}",
            "ssl_options.cacertfile": self.certificate.ca,
            "ssl_options.certfile": self.certificate.cert,
            "ssl_options.keyfile": self.certificate.key,
            "ssl_options.verify": "verify_peer",
            "ssl_options.fail_if_no_peer_cert": "true" if self.asks_for_certificate else "false",
        }

    def program(self, name: str) -> str:
        """Return the path of one of RabbitMQ's programs, past Debian's wrappers, which change the user."""
        for folder in sorted(glob("/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin"), reverse=True):
            return f"{folder}/{name}"
        return find_program(name, INSTALL)

    def version(self) -> str:
        return Path(self.program("rabbitmq-server")).resolve().parts[-3].replace("rabbitmq_server-", "RabbitMQ ")

    def environment(self) -> dict[str, str]:
        local = f"-kernel inet_dist_use_interface {{127,0,0,1}} -kernel net_ticktime {self.seconds_to_notice}"
        return {
            "HOME": str(self._mapper.folder),  # where the cookie is, which nodes and tools must share
            "ERL_EPMD_PORT": str(self._mapper.port),
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-start_epmd false {local}",
            "RUNNING_UNDER_SYSTEMD": "true",  # one process, to be stopped like any other
        }

    def control(self, *words: str) -> None:
        """Run `rabbitmqctl`, which takes some seconds."""
        command = [self.program("rabbitmqctl"), *words]
        done = subprocess.run(command, env={**os.environ, **self.environment()}, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"rabbitmqctl {words[0]} failed: {done.stderr}")

    def set_password(self, password: str) -> None:
        assert self.login
        self.control("change_password", self.login[0], password)

    @property
    def url(self) -> str:
        scheme, login = "amqps" if self.certificate else "amqp", "" if self.login else "guest:guest@"
        return f"{scheme}://{login}127.0.0.1:{self.port}"
