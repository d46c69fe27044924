"""What a connector does on the command line: `example-config`, `check` and `bench`."""

import argparse
import asyncio
import logging
import socket
import sys
from collections.abc import Iterator
from logging.handlers import BufferingHandler
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from pydantic import ValidationError

from . import configuration
from .bench import MESSAGE, PATIENCE, bench
from .configuration import variable
from .connector import MessageConnector
from .errors import ConnectorError
from .settings import ConnectorSettings
from .topics import private_topic

TURNS = 20
"""How often a message goes to another node and back."""


def main(connector: type[MessageConnector[Any]], settings: type[ConnectorSettings]) -> None:
    """Run the command that the arguments name; exit with 1, and say what to check, if it fails."""
    arguments = _parser(connector).parse_args()
    try:
        if arguments.command == "example-config":
            print(configuration.example(settings, arguments.format))
            return
        if arguments.config:
            found = settings.from_config(arguments.config)
        else:
            found = settings(**{"url": arguments.url} if arguments.url else {})
        asyncio.run(
            check(connector, found) if arguments.command == "check" else bench(connector, found, arguments.output)
        )
    except ValidationError as error:
        sys.exit("\n".join(_rules(error, settings)))
    except (ConnectorError, OSError, ValueError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


async def check(connector: type[MessageConnector[Any]], settings: ConnectorSettings) -> None:
    """Connect two nodes, and send a message from one to the other and back, `TURNS` times; raise what fails."""
    for target in settings.targets():
        if addresses := await _addresses(target.host):
            print(f"{target.host} leads to {', '.join(addresses)}", flush=True)
    one, other = connector(settings), connector(settings.of_another_node())
    complaints = BufferingHandler(sys.maxsize)
    logging.getLogger(__name__.partition(".")[0]).addHandler(complaints)
    async with one, other:
        print(f"connected to {settings.where}", flush=True)
        times = [1000 * seconds for seconds in await _round_trips(one, other)]
        print(
            f"a message goes to another node and back in {median(times):.2f} ms ({min(times):.2f} to {max(times):.2f})"
        )
    if complaints.buffer:
        raise ConnectorError(complaints.buffer[0].getMessage())
    print("all is well")


async def _round_trips(one: MessageConnector[Any], other: MessageConnector[Any]) -> list[float]:
    """Return the seconds of each of `TURNS` messages to another node and back, one after another."""
    topic = private_topic(other.node_name)
    came = asyncio.Event()

    def answer(message: Any) -> None:
        other.publish_nowait(topic, message)

    await other.subscribe(topic, answer)
    await one.subscribe(topic, lambda _: came.set())
    times = []
    for _ in range(TURNS):
        came.clear()
        start = perf_counter()
        await one.publish(topic, MESSAGE)
        try:
            async with asyncio.timeout(PATIENCE):
                await came.wait()
        except TimeoutError:
            raise TimeoutError(
                f"The broker accepted a message on the topic {topic!r}, but it did not reach another node and come back "
                f"within {PATIENCE:g} s. Check that both nodes are at one broker or cluster."
            ) from None
        times.append(perf_counter() - start)
    return times


async def _addresses(host: str) -> list[str]:
    """Return the addresses to which a name resolves; none for an address, or for an unknown name."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [each for each in dict.fromkeys(str(address[0]) for *_, address in found) if each != host]


def _rules(error: ValidationError, settings: type[ConnectorSettings]) -> Iterator[str]:
    """State the rule for each field that is wrong."""
    for fault in error.errors():
        name = ".".join(map(str, fault["loc"]))
        if fault["type"] == "missing":
            yield f"{name} is not set: set {variable(settings, name)} in the environment, or give --url or --config."
        else:
            value = f"{name} = {fault['input']!r}: " if name else ""
            yield value + fault["msg"].removeprefix("Value error, ")


def _parser(connector: type[MessageConnector[Any]]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {connector.__module__}", description=connector.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    printing = commands.add_parser("example-config", help="print a configuration with all settings and their defaults")
    printing.add_argument("--format", choices=configuration.FORMATS, default=configuration.FORMATS[0])
    checking = commands.add_parser("check", help="connect, and send a message to another node and back")
    measuring = commands.add_parser(
        "bench", help="measure how many messages a second go from node to node, and draw it"
    )
    measuring.add_argument("--output", type=Path, default=Path("bench"), help="what to write, without .json and .svg")
    for command in (checking, measuring):
        where = command.add_mutually_exclusive_group()
        where.add_argument(
            "--config", type=Path, help="take the settings from this file, as example-config prints them"
        )
        where.add_argument("--url", help="where the broker is; other settings come from the environment")
    return parser
