"""Servers that people run, two of each on one broker: what one client sends, the clients of both servers hear."""

import asyncio
import importlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Self

from baking import bake, blocks
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

PROGRAMS = Path(__file__).with_name("hosts")
HOSTS = sorted(path.name.removesuffix("_server.py") for path in PROGRAMS.glob("*_server.py"))
BROKERS = {"redis": "Valkey", "nats": "NATS"}
"""By preset: the server on which its connector is tried."""

CONNECTOR = "connector"
"""The word by which each program knows its back end on a connector."""
OWN = {
    "channels": {"own": "RedisPubSubChannelLayer", "own2": "RedisChannelLayer"},
    "fanout": {"own": "broadcaster"},
    "litestar": {"own": "RedisChannelsPubSubBackend"},
    "socketio": {"own": "AsyncRedisManager"},
}
"""By host: what else there is for it on Redis, by the word by which its program knows it."""

RATE = 50
"""Messages a second, while the broker is there and while it is not."""
BEFORE, OUTAGE, AFTER = 1.0, 3.0, 2.0
"""Seconds: before the broker is killed, until it is back, and then."""
COUNT = round(RATE * (BEFORE + OUTAGE + AFTER))

PATIENCE = 20.0
"""Seconds that may pass until the last message is heard."""
PATIENCE_WITH_OWN = 5.0
"""The same for a host's own back end, which may have died for good."""

COST_RATE, COST_COUNT, COST_TURNS = 400, 400, 25
"""Turns are short and many, so that what else the machine does meanwhile falls on all back ends alike."""


class Package:
    """A baked connector: the package, to be imported, and what starts a broker for it."""

    def __init__(self, folder: Path, preset: str) -> None:
        project = bake(folder, preset=preset)
        self.name = project.name
        self.source = project / "src"
        sys.path.append(str(self.source))
        spec = spec_from_file_location(f"{self.name}_tests", project / "tests" / "__init__.py")
        assert spec
        sys.modules[spec.name] = module_from_spec(spec)
        self._tests = spec.name

    def module(self, name: str = "") -> Any:
        """Return a module of the package, or the package itself."""
        return importlib.import_module(f"{self.name}.{name}".rstrip("."))

    @contextmanager
    def broker(self, folder: Path) -> Iterator[Any]:
        """Lend a broker that runs, as the package's own tests start it."""
        folder.mkdir()
        with _stopped_at_the_end(importlib.import_module(f"{self._tests}.broker").Broker(folder)) as broker:
            yield broker

    @contextmanager
    def program(self, folder: Path, broker: Any, *words: str | Path) -> Iterator[Any]:
        """Lend a Python program that serves, in a process of its own; `PORT` among its words stands for its port."""
        package = self
        server: Any = importlib.import_module(f"{self._tests}.contract.server")

        class Program(server.Server):  # type: ignore[misc]
            def command(self) -> list[str]:
                return [sys.executable, *(str(self.port) if word == "PORT" else str(word) for word in words)]

            def environment(self) -> dict[str, str]:
                place = {f"{package.name.upper()}_URL": broker.url, "REDIS_URL": broker.url}
                return {**place, "PYTHONPATH": str(package.source), "PACKAGE": package.name}

            @property
            def url(self) -> str:
                return f"http://127.0.0.1:{self.port}"

            @property
            def log(self) -> str:
                """What it has written."""
                text: str = (self.folder / "server.log").read_text(errors="replace")
                return text

            def terminate(self) -> None:
                """Ask it to end, as a process manager does."""
                self._signal(signal.SIGTERM)

            def ended(self, within: float) -> bool:
                """Tell whether it ends within so many seconds."""
                try:
                    self._process.wait(within)
                except subprocess.TimeoutExpired:
                    return False
                return True

            @property
            def cpu(self) -> float:
                """The seconds for which it has worked."""
                user, system = _stat(self._process.pid)[11:13]
                return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

            @property
            def connections(self) -> int:
                """The connections that it has to the broker."""
                return _connections(self._process.pid, broker.port)

        folder.mkdir(exist_ok=True)
        with _stopped_at_the_end(Program(folder)) as program:
            yield program

    @contextmanager
    def programs(self, folder: Path, host: str, back_end: str, broker: Any) -> Iterator[list[Any]]:
        """Lend two programs of a host on one broker."""
        words = PROGRAMS / f"{host}_server.py", "PORT", back_end
        with ExitStack() as stack:
            yield [
                stack.enter_context(self.program(folder / f"{back_end}-{number}", broker, *words))
                for number in range(2)
            ]

    @contextmanager
    def printed(self, folder: Path, broker: Any, page: str) -> Iterator[list[Any]]:
        """Lend the two programs of a guide, started by the commands that it prints. They must log nothing."""
        code = blocks(f"docs/{page}", "python")[0]
        commands = [
            line.split() for line in blocks(f"docs/{page}", "console")[0].splitlines() if line.startswith("uvicorn ")
        ]
        with ExitStack() as stack:
            programs = []
            for command in commands:
                port = command.index("--port") + 1
                place = folder / command[port]
                place.mkdir()
                (place / f"{command[1].partition(':')[0]}.py").write_text(code)
                words = "-m", *command[:port], "PORT", *command[port + 1 :], "--log-level", "warning"
                programs.append(stack.enter_context(self.program(place, broker, *words)))
            yield programs
            assert [program.log for program in programs] == ["", ""]


@contextmanager
def _stopped_at_the_end(server: Any) -> Iterator[Any]:
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _stat(process: int) -> list[str]:
    """Return what the system says of a process, from the third word on, since the second may have spaces."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()


def _connections(process: int, port: int) -> int:
    folder = Path(f"/proc/{process}")
    sockets = set()
    for path in (folder / "fd").iterdir():
        with suppress(OSError):  # it may have been closed meanwhile
            sockets.add(os.readlink(path))
    rows = [line.split() for line in (folder / "net" / "tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "01" and f"socket:[{row[9]}]" in sockets for row in rows)


class Client:
    """A client of one server. It speaks plain websockets; a subclass in `hosts/<host>_client.py` speaks otherwise."""

    _socket: ClientConnection

    def __init__(self, port: int) -> None:
        self.port = port
        self.texts: list[str] = []
        """What it has heard."""
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect, and have `hear` called from now on."""
        self._socket = await connect(f"ws://127.0.0.1:{self.port}/ws")
        self._reading = asyncio.create_task(self._read())

    async def send(self, text: str) -> None:
        """Have the server publish a text."""
        await self._socket.send(text)

    async def close(self) -> None:
        """Hang up."""
        await self._socket.close()
        await asyncio.wait([self._reading])

    async def _read(self) -> None:
        with suppress(ConnectionClosed):
            async for text in self._socket:
                self.hear(str(text))

    def hear(self, text: str) -> None:
        """Take a text that the server has sent."""
        self.texts.append(text)
        self._news.set()

    async def until(self, text: str) -> None:
        """Return when it has heard a text."""
        while text not in self.texts:
            self._news.clear()
            await self._news.wait()

    @property
    def numbers(self) -> list[int]:
        return [int(text) for text in self.texts if text.isdigit()]

    @property
    def missed(self) -> int:
        """How often it was told that it has missed something."""
        return self.texts.count("missed")


def client_class(host: str) -> type[Client]:
    """Return the class of a host's clients."""
    if (PROGRAMS / f"{host}_client.py").exists():
        found: type[Client] = importlib.import_module(f"hosts.{host}_client").Client
        return found
    return Client


@asynccontextmanager
async def clients(kind: type[Client], programs: list[Any]) -> AsyncIterator[list[Client]]:
    """Lend a client of each program; both hear what the first one sends."""
    async with AsyncExitStack() as stack:
        found = [await stack.enter_async_context(kind(program.port)) for program in programs]
        async with asyncio.timeout(PATIENCE):
            while not all("hello" in client.texts for client in found):  # a client is not told when it is subscribed
                await found[0].send("hello")
                await asyncio.sleep(0.05)
        yield found


async def send_numbers(client: Client, numbers: range, rate: float) -> None:
    """Send numbers at so many a second, unless the server hangs up."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for count, number in enumerate(numbers):
        await asyncio.sleep(begun + count / rate - loop.time())
        try:
            await client.send(str(number))
        except Exception:
            return


async def heard(clients: list[Client], last: int, within: float) -> bool:
    """Tell whether all clients hear a number within so many seconds."""
    try:
        async with asyncio.timeout(within):
            await asyncio.gather(*(client.until(str(last)) for client in clients))
    except TimeoutError:
        return False
    return True


async def check_that_both_hear(programs: list[Any], kind: type[Client] = Client) -> None:
    """Fail unless the clients of both programs hear what the first one sends, once and in order."""
    async with clients(kind, programs) as pair:
        await send_numbers(pair[0], range(100), 1000)
        assert await heard(pair, 99, PATIENCE)
        for client in pair:
            assert client.numbers == list(range(100))


async def through_an_outage(host: str, broker: Any, programs: Mapping[str, list[Any]]) -> dict[str, list[Client]]:
    """Kill the broker and start it again, while the first client of each back end sends numbers; return the clients."""
    async with AsyncExitStack() as stack:
        found = {
            back_end: await stack.enter_async_context(clients(client_class(host), pair))
            for back_end, pair in programs.items()
        }
        sending = [asyncio.create_task(send_numbers(pair[0], range(COUNT), RATE)) for pair in found.values()]
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(pair[0].until(str(round(RATE * BEFORE))) for pair in found.values()))
        await asyncio.to_thread(broker.stop)
        await asyncio.sleep(OUTAGE)
        broker.spawn()
        await asyncio.to_thread(broker.wait_until_ready)
        await asyncio.wait(sending)
        await asyncio.gather(
            *(
                heard(pair, COUNT - 1, PATIENCE if back_end == CONNECTOR else PATIENCE_WITH_OWN)
                for back_end, pair in found.items()
            )
        )
        return found


class Cost(NamedTuple):
    """What a message costs that is delivered to a client."""

    milliseconds: float
    """Of CPU, in the processes of both servers: the median of all turns."""
    connections: int
    """To the broker, of one process."""


async def costs(host: str, programs: Mapping[str, list[Any]]) -> dict[str, Cost]:
    """Measure the back ends by turns."""
    found: dict[str, list[float]] = {back_end: [] for back_end in programs}
    async with AsyncExitStack() as stack:
        pairs = {
            back_end: await stack.enter_async_context(clients(client_class(host), pair))
            for back_end, pair in programs.items()
        }
        for turn in range(COST_TURNS):
            numbers = range(turn * COST_COUNT, (turn + 1) * COST_COUNT)
            for back_end, pair in pairs.items():
                before = sum(program.cpu for program in programs[back_end])
                await send_numbers(pair[0], numbers, COST_RATE)
                assert await heard(pair, numbers[-1], PATIENCE), f"{back_end}: the last message has not arrived"
                worked = sum(program.cpu for program in programs[back_end]) - before
                found[back_end].append(worked * 1000 / (len(pair) * COST_COUNT))
        return {
            back_end: Cost(median(times), max(program.connections for program in programs[back_end]))
            for back_end, times in found.items()
        }


def unsent(lines: Iterable[str]) -> list[tuple[int, str]]:
    """Return what lines of a log say of messages that may be lost: how many, and why."""
    found = [re.search(r"(\d+) (?:more )?messages? of this node may be lost\. (.*)", line) for line in lines]
    return [(int(each[1]), each[2]) for each in found if each]


def play(scene: Coroutine[Any, Any, None]) -> None:
    """Run a scene, within bounds; no task may be left."""

    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE):
            await scene
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(bounded())


def name_of(host: str, back_end: str) -> str:
    """Return what a back end is called."""
    return CONNECTOR if back_end == CONNECTOR else OWN[host][back_end]


def shown(numbers: list[int]) -> str:
    """Say in few words which of the numbers were heard, and how."""
    unique = set(numbers)
    words = [f"all {COUNT}" if len(unique) == COUNT else f"{len(unique)} of {COUNT}"]
    if len(unique) < len(numbers):
        words.append(f"{len(numbers) - len(unique)} twice")
    if list(dict.fromkeys(numbers)) != sorted(unique):
        words.append("not in order")
    return ", ".join(words)
