"""A connector of the preset for Redis, the packages of npm, Valkey, and real servers with real clients, for each test."""

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NoReturn

import pytest
import pytest_asyncio
from baking import bake

HERE = Path(__file__).resolve().parent
EXAMPLE = HERE.parent
PATIENCE = 30.0

NODE = 18
NPM = 10
"""The first release that can replace a package that comes from Git; an older one can fetch it."""
BOUNDS = {
    "npm_config_fetch_retries": "1",
    "npm_config_fetch_retry_mintimeout": "100",
    "npm_config_fetch_timeout": "30000",
}
"""By itself, npm asks three times for each package, and waits for minutes in between."""
NPM_SECONDS = 90.0
NEEDED = f"Node {NODE} or later and npm are needed: apt-get install nodejs npm"


def without(what: str) -> NoReturn:
    """Skip the tests because something is missing, unless nothing may be left out."""
    if os.environ.get("REQUIRE_BROKERS") == "1":
        pytest.fail(what)
    pytest.skip(what)


def release(program: str) -> int:
    """Return the first number of a program's version."""
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return int(re.findall(r"\d+", told)[0])


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the JavaScript files and the packages that they need; tox keeps it for the next run."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm or release(node) < NODE:
        without(NEEDED)
    kept = os.environ.get("TOX_ENV_DIR")
    folder = Path(kept) / "npm" if kept else tmp_path_factory.mktemp("npm")
    for file in (*EXAMPLE.glob("*.js*"), *HERE.glob("*.js")):
        copy = folder / file.relative_to(EXAMPLE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    install_packages(str(npm), folder)
    return folder


def install_packages(npm: str, folder: Path) -> None:
    """Install what `package.json` names; end within a time limit, and leave no process behind."""
    install = "npm install --ignore-scripts --no-audit --no-fund --no-package-lock"
    command, where = install.split(), folder
    if release(npm) < NPM:  # run elsewhere, since it would read the package.json first
        there = f"cd {shlex.quote(str(folder))} && {install}"
        command, where = ["npm", "exec", "--yes", f"--package=npm@{NPM}", "--call", there], folder.parent
    process = subprocess.Popen(
        command,
        cwd=where,
        env={**BOUNDS, **os.environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=NPM_SECONDS)
    except subprocess.TimeoutExpired:
        without(f"npm has not installed the packages within {NPM_SECONDS:.0f} s")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        without(f"npm cannot install the packages: {' '.join(errors.splitlines()[:3])}")


@pytest.fixture(scope="session", autouse=True)
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The project of the preset, whose package and tests can be imported, as can the example's own programs."""
    project = bake(tmp_path_factory.mktemp("project"), preset="redis")
    with pytest.MonkeyPatch.context() as patch:
        for folder in (EXAMPLE, project, project / "src"):
            patch.syspath_prepend(str(folder))
        yield project


class Program:
    """A child process that reports in lines of JSON, and takes commands in such lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[str] = []
        self.said: list[dict[str, Any]] = []
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout
        async for line in self._process.stdout:
            text = line.decode().strip()
            self.lines.append(text)
            if text.startswith("{"):
                self.said.append(json.loads(text))
            self._news.set()

    async def until(self, condition: Callable[[], Any], wanted: str) -> None:
        """Return when its reports fulfil a condition."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"waited for {wanted}; there was {self.lines[-30:]}") from None

    async def until_line(self, text: str) -> None:
        await self.until(lambda: any(text in line for line in self.lines), text)

    def tell(self, do: str, name: str, data: Any = None) -> None:
        """Tell it to do something."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"do": do, "name": name, "data": data}).encode() + b"\n")

    def heard(self, name: str) -> list[Any]:
        """Return the data of the events of a name."""
        return [what["data"] for what in self.said if what["is"] == "event" and what["name"] == name]

    async def until_heard(self, name: str, count: int) -> None:
        """Return when so many events of a name were heard."""
        await self.until(lambda: len(self.heard(name)) >= count, f"{count} of {name}")

    async def call(self, name: str, data: Any) -> dict[str, Any]:
        """Call a procedure, and return the outcome."""
        before = len(self.said)
        self.tell("call", name, data)

        def ended() -> list[dict[str, Any]]:
            return [what for what in self.said[before:] if what["is"] in ("result", "error")]

        await self.until(ended, f"what comes of {name}")
        return ended()[0]

    async def stop(self) -> None:
        """End it, and wait for its end."""
        if self._process.returncode is None:
            self._process.terminate()
            try:
                async with asyncio.timeout(10):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
        await self._process.wait()
        await self._reading


class World:
    """A broker, and programs that end with the test."""

    def __init__(self, broker: Any, programs: Path, closing: AsyncExitStack) -> None:
        self.broker = broker
        self.errors: list[Exception] = []
        """The events of the Python node's connector."""
        self._closing = closing
        self._programs = programs

    async def start(self, *command: str | int | Path, **environment: str) -> Program:
        """Start a program, with additions to this one's environment."""
        from tests.contract.server import DYING_WITH_PARENT

        process = await asyncio.create_subprocess_exec(
            *DYING_WITH_PARENT,
            *map(str, command),
            cwd=self._programs,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            limit=2**24,
        )
        program = Program(process)
        self._closing.push_async_callback(program.stop)
        return program

    async def server(self, name: str, **options: Any) -> tuple[Program, Program]:
        """Start a deepstream server, and a client of it; the options are those of the cluster node."""
        from tests.contract.server import free_port

        port = free_port()
        server = await self.start("node", "server.js", name, port, json.dumps({"url": self.broker.url, **options}))
        await server.until_line("Deepstream started")
        client = await self.start("node", "tests/client.js", port)
        await client.until_line("ready")
        return server, client

    async def old_server(self, name: str) -> Program:
        """Start a deepstream server 2.4, with its client inside."""
        server = await self.start("node", "tests/old-server.js", name, self.broker.port)
        await server.until_line("ready")
        return server

    async def node(self, name: str = "python", **settings: Any) -> Any:
        """Let a Python node join."""
        from deepstream_msg_redis import Connector, Settings
        from node import Node

        connector = Connector(Settings(url=self.broker.url, node_name=name, **settings))
        connector.on("error", self.errors.append)
        return await self._closing.enter_async_context(Node(connector))


@pytest_asyncio.fixture
async def world(programs: Path, tmp_path: Path) -> AsyncIterator[World]:
    """A broker on a free port, and nothing else yet."""
    from tests.broker import Broker

    broker = Broker(tmp_path)
    await asyncio.to_thread(broker.start)
    try:
        async with AsyncExitStack() as closing:
            yield World(broker, programs, closing)
    finally:
        await asyncio.to_thread(broker.stop)


async def eventually(condition: Callable[[], Any], wanted: Callable[[], Any]) -> None:
    """Return when a condition holds that no event reports."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"waited in vain; there was {wanted()}") from None


async def until_known(node: Any, *clients: Any) -> None:
    """Return when the servers of clients let them call the procedures of a node."""
    for client in clients:
        while (await client.call("is it known?", None))["is"] == "error":
            await asyncio.sleep(0.05)


async def settled(node: Any, *clients: Any) -> None:
    """Return when all that was told to the clients, or said by the node, has reached the servers."""
    await node.provide("is it known?", lambda data: True)
    await until_known(node, *clients)
