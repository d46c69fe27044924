"""A server that creates its connector before it forks, like gunicorn with --preload.

    python forked.py PACKAGE made TOPIC
    python forked.py PACKAGE connected TOPIC

The connector's settings come from the environment. With `made`, two children connect and talk to each other. With
`connected`, the connector is in use when the process forks, and the child tries to use it, too. Each process writes
one line of JSON.
"""

import asyncio
import importlib
import json
import os
import sys
from typing import Any

MESSAGES = 10


def say(**what: Any) -> None:
    """Write one line, all at once, since other processes write to the same place."""
    os.write(sys.stdout.fileno(), f"{json.dumps(what)}\n".encode())


async def talk(connector: Any, topic: str) -> None:
    """Join the cluster, wait to be told to go, and say who was heard."""
    heard: list[Any] = []
    changed = asyncio.Event()

    def hear(message: Any) -> None:
        heard.append(message)
        changed.set()

    go = asyncio.Event()
    async with connector:
        await connector.subscribe(topic, hear)
        await connector.subscribe(f"{topic}-go", lambda _: go.set())
        await connector.publish(f"{topic}-hello", connector.node_name)
        await go.wait()
        for number in range(MESSAGES):
            await connector.publish(topic, [connector.node_name, number])
        while len(heard) < MESSAGES:
            changed.clear()
            await changed.wait()
        say(name=connector.node_name, heard=heard)


async def fork_late(connector: Any, topic: str) -> None:
    """Fork while connected; the child may not use the connector, the parent may."""
    async with connector:
        child = os.fork()
        if not child:
            told = "nothing"
            try:
                connector.publish_nowait(topic, "from the child")
            except BaseException as error:
                told = f"{type(error).__name__}: {error}"
            say(told=told)
            os._exit(0)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        await connector.publish(topic, "from the parent")
    assert not status, f"the child has ended with {os.waitstatus_to_exitcode(status)}"


def main(package: str, when: str, topic: str) -> None:
    """Run until all children have ended."""
    module = importlib.import_module(package)
    connector = module.Connector(module.Settings())
    if when == "connected":
        asyncio.run(fork_late(connector, topic))
        return
    say(name=connector.node_name)
    children = []
    for _ in range(2):
        child = os.fork()
        if not child:
            try:
                asyncio.run(asyncio.wait_for(talk(connector, topic), 60))
            finally:
                sys.stderr.flush()
                os._exit(0)
        children.append(child)
    for child in children:
        _, status = os.waitpid(child, 0)
        assert not status, f"a child has ended with {os.waitstatus_to_exitcode(status)}"


if __name__ == "__main__":
    main(*sys.argv[1:])
