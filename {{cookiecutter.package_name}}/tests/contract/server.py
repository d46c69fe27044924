"""A broker that the tests start: a child process on free ports of 127.0.0.1, which dies with them."""

import asyncio
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn
from urllib.parse import urlsplit, urlunsplit

from ..subject import contract
from .brief import told
from .certificates import Certificate

if TYPE_CHECKING:
    from .clusters import Cluster

READY_WITHIN = 45.0
"""Seconds that a server may take to start; less than the `timeout` of a test, so that the reason can be told."""

VERSION_WITHIN = 5.0
"""Seconds that a program may take to say its version."""

LAST_LINES = 20
"""How much of a server's log is shown."""

FREE_WITHIN = 3.0
"""Seconds after which the port of a server that was killed is free, if nobody else has it."""


_LAUNCHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
try:
    os.execvp(sys.argv[1], sys.argv[1:])
except OSError as error:
    sys.exit(f"{sys.argv[1]}: {error}")
"""
DYING_WITH_PARENT = [sys.executable, "-I", "-S", "-c", _LAUNCHER] if sys.platform == "linux" else []
"""Put before a server's command. It is a program, since a process with threads can run no code after a fork."""


class Missing(Exception):
    """The server is not on this machine; the text says how to get it."""


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nothing listens, that no other call returns while this process lives.

    No client is given it either, while its server restarts.
    """
    while True:
        port = random.randrange(10_000, 32_768)  # below the ports that systems give to clients
        with socket.socket() as probe, socket.socket(type=socket.SOCK_DGRAM) as claim, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            claim.bind(("127.0.0.1", port))  # no server here uses UDP: it tells other processes that the port is taken
            claim.detach()
            return port


def wait_until(condition: Callable[[], object], wanted: str) -> None:
    """Return when `condition()` is true of a server, which sends no event; raise `RuntimeError` after `READY_WITHIN`."""
    deadline = time.monotonic() + READY_WITHIN
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {READY_WITHIN:g} s in vain for {wanted}")
        time.sleep(0.01)


def find_program(name: str, install: str, *folders: str) -> str:
    """Return the path of a program on PATH or in one of the folders; raise `Missing` otherwise."""
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *folders]))
    if path is None:
        raise Missing(f"{name} is not installed: {install}")
    return path


def at_port(url: str, port: int) -> str:
    """Return a url with this port of 127.0.0.1 in place of its host and port."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{port}"))


def _place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    if parts.hostname is None or parts.port is None:
        raise ValueError("the url of the broker for the tests must name host and port")
    return parts.hostname, parts.port


class Server(ABC):
    """One broker. A subclass says how it is started, and at which url it is then.

    `folder` is empty, the server's own, and removed at the end. A server keeps its ports when it
    is started again.
    """

    not_applicable: ClassVar[dict[str, str]] = {}
    """Clauses that this broker cannot keep, each with the reason; or the names of tests, if the rest of a clause holds."""

    absurd: ClassVar[Mapping[str, bytes]] = MappingProxyType({})
    """By name, lengths in this broker's protocol that no client may believe: tests send them in its place."""

    workers: ClassVar[int] = 5
    """How many of these servers a small machine can run: that many tests run side by side, since most of them wait."""

    is_durable: ClassVar[bool] = False
    """Whether a broker that keeps messages for nodes that are away keeps them over its own restart, too."""

    addresses: ClassVar[tuple[str, ...]] = ("url",)
    """The settings that say where the broker listens: a url, or the number of a port. Each gets a proxy of its own."""

    speaks_tls: ClassVar[bool] = False
    """Whether the server can speak TLS here: then `command` and `url` heed `certificate` and `asks_for_certificate`."""

    certificate: Certificate | None = None
    """The server's certificate, where it is to speak TLS and nothing else."""

    asks_for_certificate: bool = False
    """Whether it takes only clients that show a certificate of the same authority."""

    changes_passwords: ClassVar[bool] = False
    """Whether the server can ask for a password that changes: then it heeds `login` and has `set_password`."""

    settings_of_login: ClassVar[dict[str, Any]] = {}
    """The settings with which a node logs in there, besides user and password."""

    login: tuple[str, str] | None = None
    """The only user and password that it lets in; `url` has no login then."""

    clusters: ClassVar[tuple[type["Cluster"], ...]] = ()
    """The kinds of clusters that can be started here, for `--clusters`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {name: free_port() for name in self.addresses}
        self.proxy_ports = {name: free_port() for name in self.addresses}
        self._process: subprocess.Popen[bytes] | None = None
        self._words: list[str] = []

    @property
    def port(self) -> int:
        """The port of the url; others are in `ports`, by the settings in `addresses`."""
        return self.ports["url"]

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command that starts the server on `self.port`; raise `Missing` if it is not here."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where the server is, for `Settings(url=...)`."""

    def set_password(self, password: str) -> None:
        """Change the password of the user in `login`, while the server runs."""
        raise NotImplementedError

    def version(self) -> str:
        """Return what the server is, for the report: what its program says to `--version` up to the number, or its name."""
        program = self.command()[0]
        with suppress(subprocess.TimeoutExpired):  # to some programs, any option means: start a server
            asked = subprocess.run(
                [program, "--version"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=VERSION_WITHIN,
            )
            first = asked.stdout.strip().partition("\n")[0]
            found = re.match(r".*?\d+\.\d[\w.+-]*", first)
            if first:
                return found[0] if found else first
        return Path(program).name

    def environment(self) -> dict[str, str]:
        """Return what the server's environment has beyond this process's."""
        return {}

    def is_ready(self) -> bool:
        """Tell whether the server takes connections; asked again and again until it does.

        An `OSError` means no, too. Any other exception ends the start, and is shown.
        """
        socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        return True

    def targets(self, settings: contract.ConnectorSettings) -> dict[str, tuple[str, int]]:
        """Return, for each of `addresses`, host and port to which a proxy forwards, for a broker at these settings."""
        host, port = _place(settings.url.get_secret_value())
        return {name: (host, port) if name == "url" else (host, getattr(settings, name)) for name in self.addresses}

    def through(self, settings: contract.ConnectorSettings, ports: dict[str, int]) -> dict[str, Any]:
        """Return the changes of settings that lead to proxies on these ports of 127.0.0.1 in place of the broker."""
        return {**ports, "url": at_port(settings.url.get_secret_value(), ports["url"])}

    @property
    def is_running(self) -> bool:
        """Whether the tests have started it, so that they may also restart it."""
        return self._process is not None

    def spawn(self) -> None:
        """Start the process, without waiting for it; on the main thread, with which it dies."""
        for port in self.ports.values():
            self._wait_until_free(port)
        self._words = self.command()
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*DYING_WITH_PARENT, *self._words],
                cwd=self.folder,
                env={**os.environ, **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait_until_free(self, port: int) -> None:
        """Return when nothing listens on a port, as soon as what was killed is gone; raise if it is another's."""
        deadline = time.monotonic() + FREE_WITHIN
        while True:
            with socket.socket() as probe:
                if os.name == "posix":  # elsewhere, this would take the port from another
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError as error:
                    if time.monotonic() > deadline:
                        text = f"{type(self).__name__} cannot start: another program has port {port}"
                        raise RuntimeError(text) from error
                else:
                    return
            time.sleep(0.01)

    def wait_until_ready(self) -> None:
        """Return when the server takes connections; raise `RuntimeError` with its log if it does not."""
        deadline = time.monotonic() + READY_WITHIN
        while True:
            answer = self._ask()
            if self._process is None or self._process.poll() is not None:
                self._give_up(f"its process has ended, with code {self._process and self._process.returncode}")
            if not answer:
                return
            if time.monotonic() > deadline:
                self._give_up(f"after {READY_WITHIN:g} s, `is_ready` still {answer}")
            time.sleep(0.01)

    def _give_up(self, reason: str) -> NoReturn:
        raise RuntimeError(f"{type(self).__name__} did not start: {reason}{self.last_lines()}")

    def _ask(self) -> str:
        """Return what `is_ready` does instead of returning True; an empty text if it does that."""
        try:
            return "" if self.is_ready() else "returned False"
        except OSError as error:
            return f"raised {told(error)}"

    def last_lines(self) -> str:
        """Return how the server was started, if it was, and the end of what it has written."""
        if not self._words:
            return ""
        lines = (self.folder / "server.log").read_text(errors="replace").splitlines()[-LAST_LINES:]
        shown = "".join(f"\n    {line[:300]}" for line in lines) or " it has written nothing"
        return f"\n  Its command: {shlex.join(self._words)}\n  The last lines of its log:{shown}"

    def start(self) -> None:
        """Start the server, and wait until it is ready."""
        self.spawn()
        self.wait_until_ready()

    def stop(self) -> None:
        """Kill the server and all that it started, and wait for its end."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Freeze the server, like a machine that hangs: its connections stay, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process
        os.killpg(self._process.pid, number)

    async def restart(self) -> None:
        """Kill the server, and start it again in its place."""
        await asyncio.to_thread(self.stop)
        self.spawn()
        await asyncio.to_thread(self.wait_until_ready)
