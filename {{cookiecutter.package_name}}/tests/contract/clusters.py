"""Clusters of servers, of which a test kills, freezes and brings back one at a time; and the table of its results."""

import asyncio
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import pytest

from .server import Server

HEADS = ("cluster", "fault", "ready", "could serve", "owed", "delivered", "lost", "repaired")
"""What a row of the table has; both times are seconds after the fault."""

ESTABLISHED = "01"

AnyServer = TypeVar("AnyServer", bound=Server)


class Cluster(ABC):
    """Several servers that act as one broker. A subclass creates the servers, and says where nodes connect."""

    title: ClassVar[str]
    """What it is, for the table."""

    settings: Mapping[str, Any] = MappingProxyType({})
    """With which settings nodes connect, besides the url."""

    switches_over: ClassVar[bool] = False
    """Whether `switch_over` is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: Sequence[Server] = []
        """Those to which nodes connect."""

    def new(self, kind: type[AnyServer], name: str, **attributes: Any) -> AnyServer:
        """Return a server for the cluster, with a folder of its own and attributes that differ from its class's."""
        folder = self.folder / name
        folder.mkdir()
        server = kind(folder)
        vars(server).update(attributes)
        return server

    @property
    @abstractmethod
    def url(self) -> str:
        """Where nodes connect: all hosts."""

    def url_without(self, gone: Server) -> str:
        """Return a url that leads past a server that is gone."""
        return self.url.replace(f"127.0.0.1:{gone.port},", "").replace(f",127.0.0.1:{gone.port}", "")

    def start(self) -> None:
        """Start all servers, and wait until they are ready."""
        for server in self.servers:
            server.spawn()
        for server in self.servers:
            server.wait_until_ready()

    def stop(self) -> None:
        """Stop all servers, even those that are frozen."""
        for server in self.servers:
            server.stop()

    def victim(self) -> Server:
        """Return the most important server: the one to which most of this process's connections lead."""
        connected = _connected_ports()
        return max(self.servers, key=lambda server: connected[server.port])

    async def without(self, gone: Server) -> None:
        """Do what an operator does when a server is gone, if the cluster does not help itself."""
        return

    async def with_again(self, back: Server) -> None:
        """Bring a server that was killed back into the cluster."""
        back.spawn()
        await asyncio.to_thread(back.wait_until_ready)

    async def thaw(self, frozen: Server) -> None:
        """Let a frozen server go on, and do what an operator does then."""
        frozen.thaw()

    async def switch_over(self) -> None:
        """Hand over from the server that serves to another one, in good order."""
        raise NotImplementedError


def _connected_ports() -> Counter[int]:
    """Count the connections of this process by the port to which they lead."""
    mine = set()
    for file in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            mine.add(os.readlink(file).removeprefix("socket:[").removesuffix("]"))
    counts: Counter[int] = Counter()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/self/net", table).read_text().splitlines()[1:]:
            _, _, remote, state, _, _, _, _, _, inode, *_ = line.split()
            if state == ESTABLISHED and inode in mine:
                counts[int(remote.rpartition(":")[2], 16)] += 1
    return counts


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("the pack").addoption(
        "--clusters",
        action="store_true",
        help="run tests/contract/test_cluster.py alone: clusters of servers, with one fault after another",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.option.report:
        items[:] = [item for item in items if (item.path.name == "test_cluster.py") == config.option.clusters]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what became of each fault."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    rows = [value for report in reports for name, value in report.user_properties if name == "fault"]
    if rows:
        table = [list(HEADS), *([str(cell) for cell in row] for row in rows)]
        widths = [max(len(row[column]) for row in table) for column in range(len(HEADS))]
        terminalreporter.section("faults of clusters, with the seconds until all nodes were ready again")
        for row in table:
            terminalreporter.write_line("  ".join(map(str.ljust, row, widths)).rstrip())
