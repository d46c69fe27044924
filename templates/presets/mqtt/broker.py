"""The servers for the tests: Mosquitto, from the machine; one, or two with a bridge between them."""

import getpass
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .contract.public import Cluster, Server, find_program, wait_until

INSTALL = "apt-get install mosquitto, or brew install mosquitto"


class Broker(Server):
    """A Mosquitto server that keeps nothing on disk; `configuration` has more lines of its file."""

    speaks_tls = True
    changes_passwords = True

    configuration: Sequence[str] = ()

    def command(self) -> list[str]:
        lines = [f"user {getpass.getuser()}", "set_tcp_nodelay true", f"listener {self.port} 127.0.0.1"]
        lines += [f"allow_anonymous {'false' if self.login else 'true'}", *self.configuration]
        if self.certificate:
            files = self.certificate
            lines += [f"cafile {files.ca}", f"certfile {files.cert}", f"keyfile {files.key}"]
            lines += [f"require_certificate {'true' if self.asks_for_certificate else 'false'}"]
        if self.login:
            lines += [f"password_file {self._write_passwords(self.login[1])}"]
        file = self.folder / "mosquitto.conf"
        file.write_text("".join(f"{line}\n" for line in lines))
        return [find_program("mosquitto", INSTALL, "/usr/sbin"), "-c", str(file)]

    @property
    def url(self) -> str:
        return f"{'mqtts' if self.certificate else 'mqtt'}://127.0.0.1:{self.port}"

    def set_password(self, password: str) -> None:
        self._write_passwords(password)
        assert self._process
        log = self.folder / "server.log"
        seen = log.stat().st_size
        self._process.send_signal(signal.SIGHUP)
        wait_until(lambda: b"Reloading" in log.read_bytes()[seen:], "Mosquitto to read its configuration again")

    def _write_passwords(self, password: str) -> Path:
        assert self.login
        file = self.folder / "passwords"
        program = find_program("mosquitto_passwd", INSTALL)
        subprocess.run([program, "-b", "-c", file, self.login[0], password], check=True, capture_output=True)
        return file


class TwoBridged(Cluster):
    """Two Mosquitto servers, with a bridge from the second to the first that forwards messages both ways."""

    title = "Mosquitto, two with a bridge"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        first = self.new(Broker, "first")
        bridge = (
            "connection bridge",
            f"address 127.0.0.1:{first.port}",
            "bridge_protocol_version mqttv50",
            "topic # both 1",
            "restart_timeout 1",
            "keepalive_interval 5",
        )
        self.servers = [first, self.new(Broker, "second", configuration=bridge)]

    @property
    def url(self) -> str:
        return f"mqtt://{','.join(f'127.0.0.1:{server.port}' for server in self.servers)}"


Broker.clusters = (TwoBridged,)
