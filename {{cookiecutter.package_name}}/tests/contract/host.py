"""A realtime server in small: joins a cluster through whichever connector it is told to use, and does as it is told.

    python host.py NAME

NAME is that of an entry point in the group `deepstream.msg`; the connector's settings come from the environment. Each
line of the input is a command, each line of the output an event, both JSON: ["subscribe", topic],
["publish", topic, message], ["close"]; ["ready", node_name], ["done", command], ["message", topic, message], ["error", text].
"""

import asyncio
import json
import sys
from importlib.metadata import entry_points
from typing import Any


def say(*event: Any) -> None:
    """Report an event to the test."""
    print(json.dumps(event), flush=True)


async def main(name: str) -> None:
    """Run until the command `close`, or the end of the input."""
    (point,) = entry_points(group="deepstream.msg", name=name)
    kind = point.load()
    connector = kind(kind.Settings())
    connector.on("error", lambda error: say("error", repr(error)))
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    async with connector:
        say("ready", connector.node_name)
        while line := await commands.readline():
            command, *words = json.loads(line)
            if command == "close":
                break
            if command == "subscribe":
                (topic,) = words
                await connector.subscribe(topic, lambda message, topic=topic: say("message", topic, message))
            else:
                await connector.publish(*words)
            say("done", command)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
