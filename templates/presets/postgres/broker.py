"""The server for the tests: PostgreSQL, which the machine has, with files of its own."""

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from glob import glob
from pathlib import Path

from .contract.server import Missing, Server, find_program

UNPRIVILEGED = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=QUIT", "--"]
"""What comes before a command, since PostgreSQL refuses to run as root."""


class Broker(Server):
    """A PostgreSQL server that never waits for the disk."""

    def start(self) -> None:
        initdb = [self.program("initdb"), "--username=tester", "--auth=scram-sha-256", "--pwfile=password"]
        if os.geteuid() == 0:
            # Root's own folders are closed to others, and so may be the one that TMPDIR names.
            self.folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
            atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
            try:
                shutil.chown(self.folder, "postgres", "postgres")
            except LookupError:
                raise Missing("PostgreSQL refuses to run as root, and there is no user `postgres`") from None
            initdb = [*UNPRIVILEGED, *initdb]
        (self.folder / "password").write_text("s3same")
        options = ["--pgdata=data", "--no-sync", "--encoding=UTF8", "--locale=C"]
        subprocess.run([*initdb, *options], cwd=self.folder, check=True, stdout=subprocess.DEVNULL)
        super().start()

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
        settings = [f"--{name}={value}" for name, value in options.items()]
        command = [self.program("postgres"), "-D", f"{self.folder / 'data'}", "-p", str(self.port), *settings]
        return [*UNPRIVILEGED, *command] if os.geteuid() == 0 else command

    def is_ready(self) -> bool:
        command = [self.program("pg_isready"), "--quiet", "--host=127.0.0.1", f"--port={self.port}"]
        return subprocess.run(command, check=False).returncode == 0

    def stop(self) -> None:
        """Let the server end at once, as in a crash; killed, it would leave shared memory."""
        if self._process:
            self._process.send_signal(signal.SIGQUIT)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=10)
        super().stop()

    @property
    def url(self) -> str:
        return f"postgresql://tester:s3same@127.0.0.1:{self.port}/postgres"
