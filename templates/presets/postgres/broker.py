"""The servers for the tests: PostgreSQL, which the machine has, with files of its own; alone, or with a standby."""

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
from contextlib import suppress
from glob import glob
from pathlib import Path
from typing import Any, ClassVar

from .contract.public import Cluster, Missing, Server, find_program

UNPRIVILEGED = [
    *("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=QUIT"),
    *("--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--"),
]
"""Put before a command, since PostgreSQL refuses to run as root; it may still enter root's own folders."""


class Broker(Server):
    """A PostgreSQL server that never waits for the disk."""

    speaks_tls: ClassVar = True
    changes_passwords: ClassVar = True
    absurd: ClassVar = {"negative": b"D\xff\xff\xff\xff", "bytes": b"R\x7f\xff\xff\xff"}

    primary: "Broker | None" = None
    """The server that it follows; then it is a standby, until it is promoted."""

    def start(self) -> None:
        if not (self.folder / "data").exists():
            self.fill()
        super().start()

    def fill(self) -> None:
        """Create the server's data: a copy of its primary, or the user of the tests alone."""
        if self.primary:
            self._run("pg_basebackup", "-d", self.primary.url, "-D", "data", "-R", "-X", "stream", "-c", "fast", "-N")
            return
        (self.folder / "password").write_text("s3same")
        users = ["--username=tester", "--auth=scram-sha-256", "--pwfile=password"]
        self._run("initdb", *users, "--pgdata=data", "--no-sync", "--encoding=UTF8", "--locale=C")
        if self.certificate:
            asks = "clientcert=verify-ca" if self.asks_for_certificate else ""
            (self.folder / "data" / "pg_hba.conf").write_text(f"hostssl all all all scram-sha-256 {asks}\n")
        if self.login:
            user, password = self.login
            create = f"create role {user} login password '{password}'"
            self._run("postgres", "--single", "-D", "data", "postgres", given=create)

    def follow(self, primary: "Broker") -> None:
        """Forget all, and be a standby of another server from the next start on."""
        shutil.rmtree(self.folder / "data")
        self.primary = primary
        self.fill()

    def promote(self) -> None:
        """Make a standby a primary; return when it is one."""
        self._run("pg_ctl", "promote", "-D", "data")

    def set_password(self, password: str) -> None:
        assert self.login
        url = f"postgresql://tester:s3same@127.0.0.1:{self.port}/postgres"
        self._run("psql", "--quiet", url, given=f"alter role {self.login[0]} password '{password}'")

    def _run(self, name: str, *arguments: str, given: str = "") -> None:
        """Run one of PostgreSQL's programs until it ends."""
        subprocess.run(
            [*self._before(), self.program(name), *arguments],
            cwd=self.folder,
            check=True,
            stdout=subprocess.DEVNULL,
            input=given.encode(),
        )

    def _before(self) -> list[str]:
        if os.geteuid() != 0:
            return []
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            raise Missing("PostgreSQL refuses to run as root, and there is no user `postgres`") from None
        return UNPRIVILEGED

    def program(self, name: str) -> str:
        """Return the path of one of PostgreSQL's programs, which Debian keeps off PATH."""
        folders = sorted(glob("/usr/lib/postgresql/*/bin"), reverse=True)
        return find_program(name, "apt-get install postgresql, or set the url of one that runs", *folders)

    def version(self) -> str:
        return subprocess.run([self.program("postgres"), "--version"], capture_output=True, text=True).stdout.strip()

    def command(self) -> list[str]:
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "dynamic_shared_memory_type": "mmap",
            "fsync": "off",
        }
        if self.certificate:
            files = self.certificate
            options |= {"ssl": "on", "ssl_ca_file": f"{files.ca}"}
            options |= {"ssl_cert_file": f"{files.cert}", "ssl_key_file": f"{files.key}"}
        settings = [f"--{name}={value}" for name, value in options.items()]
        data = f"{self.folder / 'data'}"
        return [*self._before(), self.program("postgres"), "-D", data, "-p", str(self.port), *settings]

    def is_ready(self) -> bool:
        command = [self.program("pg_isready"), "--quiet", "--host=127.0.0.1", f"--port={self.port}"]
        return subprocess.run(command, check=False).returncode == 0

    def stop(self) -> None:
        """Let the server end at once, as in a crash; killed, it would leave shared memory."""
        if self._process:
            self.thaw()
            self._process.send_signal(signal.SIGQUIT)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=10)
        super().stop()

    def _signal(self, number: int) -> None:
        # Each of its processes is a group of its own.
        assert self._process
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", f"{self._process.pid}"], capture_output=True, text=True)
        for pid in (self._process.pid, *map(int, listed.stdout.split())):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    @property
    def url(self) -> str:
        login = "" if self.login else "tester:s3same@"
        return f"postgresql://{login}127.0.0.1:{self.port}/postgres"


class PrimaryAndStandby(Cluster):
    """A primary, and a standby that is promoted when the primary is gone, which comes back as a standby."""

    title = "PostgreSQL, a primary and a standby"
    switches_over = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.primary: Any = self.new(Broker, "one")
        self.standby: Any = self.new(Broker, "other", primary=self.primary)
        self.servers = [self.primary, self.standby]

    def start(self) -> None:
        for server in self.servers:
            server.start()

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.servers)
        return f"postgresql://tester:s3same@{hosts}/postgres"

    async def without(self, gone: Server) -> None:
        if gone is self.primary:
            self.primary, self.standby = self.standby, self.primary
            await asyncio.to_thread(self.primary.promote)

    async def with_again(self, back: Server) -> None:
        await asyncio.to_thread(self.standby.follow, self.primary)
        await super().with_again(back)

    async def thaw(self, frozen: Server) -> None:
        await asyncio.to_thread(frozen.stop)  # as a primary, it must not come back
        await self.with_again(frozen)

    async def switch_over(self) -> None:
        old = self.primary
        await asyncio.to_thread(old.stop)
        await self.without(old)
        await self.with_again(old)


Broker.clusters = (PrimaryAndStandby,)
