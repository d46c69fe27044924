"""What a connector does on the command line: `example-config`, `check` and `bench`."""

import argparse
import asyncio
import logging
import os
import shutil
import socket
import sys
import textwrap
from collections.abc import Iterator
from logging.handlers import BufferingHandler
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NoReturn, TextIO

from pydantic import ValidationError

from . import configuration
from .bench import MESSAGE, PATIENCE, bench
from .configuration import variable
from .connector import MessageConnector
from .errors import ConnectorError
from .settings import ConnectorSettings
from .tls import TlsSettings
from .topics import private_topic

TURNS = 20
"""How often a message goes to another node and back."""


def main(connector: type[MessageConnector[Any]], settings: type[ConnectorSettings]) -> None:
    """Run the command that the arguments name; exit with 1, and say what to check, if it fails."""
    arguments = _parser(connector, settings).parse_args()
    try:
        if arguments.command == "example-config":
            print(configuration.example(settings, arguments.format), flush=True)
            return
        if arguments.config:
            found = settings.from_config(arguments.config)
        else:
            found = settings(**{"url": arguments.url} if arguments.url else {})
        asyncio.run(
            check(connector, found) if arguments.command == "check" else bench(connector, found, arguments.output)
        )
    except ValidationError as error:
        _fail(*_rules(error, settings, arguments.config))
    except BrokenPipeError:  # nobody reads any further
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (ConnectorError, ValueError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(*lines: str) -> NoReturn:
    for line in lines:
        _say(line, sys.stderr)
    sys.exit(1)


def _say(line: str, file: TextIO | None = None) -> None:
    """Print a line; on a terminal, break it between its words."""
    file = file or sys.stdout
    if file.isatty():
        columns = shutil.get_terminal_size().columns
        line = textwrap.fill(line, columns, break_long_words=False, break_on_hyphens=False)
    print(line, file=file, flush=True)


async def check(connector: type[MessageConnector[Any]], settings: ConnectorSettings) -> None:
    """Connect two nodes, and send a message from one to the other and back, `TURNS` times; raise what fails."""
    url = variable(type(settings), "url")
    for stranger in configuration.strangers(type(settings)):
        _say(f"{stranger} in the environment: {configuration.unknown(type(settings), stranger)}")
    default = "" if "url" in settings.model_fields_set else f", the default; for another, give --url or set {url}"
    _say(f"connecting to {settings.where}{default}")
    for target in settings.targets():
        if addresses := await _addresses(target.host):
            _say(f"{target.host} resolves to {', '.join(addresses)}")
    one, other = connector(settings), connector(settings.of_another_node())
    complaints = BufferingHandler(sys.maxsize)
    logging.getLogger(__name__.partition(".")[0]).addHandler(complaints)
    async with one, other:
        with_tls = " with TLS" if isinstance(settings, TlsSettings) and settings.uses_tls else ""
        _say(f"connected to {settings.where}{with_tls}")
        times = [1000 * seconds for seconds in await _round_trips(one, other)]
        _say(
            f"round trip between two nodes that this command opened: {median(times):.2f} ms "
            f"({min(times):.2f} to {max(times):.2f})"
        )
    if complaints.buffer:
        raise ConnectorError(complaints.buffer[0].getMessage())
    _say("all is well (not tried: the rights to other topics, such as RECORD or fanout)")


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
                f"within {PATIENCE:g} s. Check that both nodes use the same broker or cluster."
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


def _rules(error: ValidationError, settings: type[ConnectorSettings], config: Path | None) -> Iterator[str]:
    """State the rule for each field that is wrong."""
    for fault in error.errors():
        name = ".".join(map(str, fault["loc"]))
        if fault["type"] == "missing":
            yield f"{name} is not set: set {variable(settings, name)} in the environment, or give --url or --config."
        elif fault["type"] == "extra_forbidden":
            yield f"{config}: {fault['msg']}"
        else:
            yield (f"{name} = {fault['input']!r}: " if name else "") + fault["msg"]


def _parser(connector: type[MessageConnector[Any]], settings: type[ConnectorSettings]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {connector.__module__}",
        description=f"Tries and measures the {connector.name} connector, and prints its settings.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    printing = commands.add_parser("example-config", help="print a configuration with all settings and their defaults")
    printing.add_argument("--format", choices=configuration.FORMATS, default=configuration.FORMATS[0])
    checking = commands.add_parser("check", help="say whether the broker can be reached, and if not, what to check")
    measuring = commands.add_parser(
        "bench", help="measure how many messages a second go from node to node, and draw it"
    )
    measuring.add_argument(
        "--output",
        type=Path,
        default=Path("bench"),
        metavar="PATH",
        help="where to write the figures and the drawing: PATH.json and PATH.svg; default: bench",
    )
    for command in (checking, measuring):
        where = command.add_mutually_exclusive_group()
        where.add_argument(
            "--config",
            type=Path,
            metavar="FILE",
            help="a file with settings, as example-config prints it: .yml, .yaml or .json, or lines for the environment",
        )
        where.add_argument(
            "--url",
            help=f"where the broker is; default: {variable(settings, 'url')} in the environment, as for each other setting",
        )
    return parser
