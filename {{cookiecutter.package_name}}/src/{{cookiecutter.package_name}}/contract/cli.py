"""What a connector does on the command line: `example-config`, `check` and `bench`."""

import argparse
import asyncio
import sys
from time import perf_counter
from typing import Any

from pydantic import SecretStr, ValidationError

from .connector import MessageConnector
from .errors import ConnectorError
from .settings import ConnectorSettings
from .topics import private_topic

MESSAGE = {"action": "P", "topic": "RECORD", "data": ["a name", 12, {"key": "value"}]}
IN_FLIGHT = {1: 2_000, 10: 10_000, 100: 50_000}
"""How many publishes wait at a time, and how many messages are sent so."""
PATIENCE = 30.0
"""Seconds for what was published to arrive."""


def main(connector: type[MessageConnector[Any]], settings: type[ConnectorSettings]) -> None:
    """Run the command that the arguments name; exit with 1 and one sentence if it fails."""
    parser = argparse.ArgumentParser(prog=f"python -m {connector.__module__}", description=connector.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("example-config", help="print all settings as environment variables, with their defaults")
    commands.add_parser("check", help="connect as the environment says, and send a message from node to node")
    commands.add_parser("bench", help="measure how many messages a second go from node to node")
    command = parser.parse_args().command
    try:
        if command == "example-config":
            print(example_config(settings))
        else:
            asyncio.run((check if command == "check" else bench)(connector, settings))
    except (ConnectorError, TimeoutError, ValidationError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


def example_config(settings: type[ConnectorSettings]) -> str:
    """Return a line for each setting, with what it means; those with a default are commented out."""
    lines = []
    for name, field in settings.model_fields.items():
        default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
        has_default = not field.is_required() and field.default_factory is None and default is not None
        comment = "" if field.is_required() else "#"
        value = default if has_default else ""
        lines += [f"# {field.description}", f"{comment}{settings.model_config['env_prefix']}{name.upper()}={value}", ""]
    return "\n".join(lines).rstrip()


async def check(connector: type[MessageConnector[Any]], settings: type[ConnectorSettings]) -> None:
    """Connect two nodes, and send a message from one to the other; raise what goes wrong."""
    arrived = asyncio.Event()
    async with connector(settings()) as one, connector(settings()) as other:
        print(f"connected to {one.settings.where}")
        topic = private_topic(other.node_name)
        await other.subscribe(topic, lambda _: arrived.set())
        start = perf_counter()
        await one.publish(topic, MESSAGE)
        async with asyncio.timeout(PATIENCE):
            await arrived.wait()
        print(f"a message went from node to node in {(perf_counter() - start) * 1000:.1f} ms: all is well")


async def bench(connector: type[MessageConnector[Any]], settings: type[ConnectorSettings]) -> None:
    """Print how many messages a second arrive, with one publish or many waiting at a time; both nodes in here."""
    rates: dict[int, float] = {}
    async with connector(settings()) as one, connector(settings()) as other:
        for width, messages in IN_FLIGHT.items():
            print(f"{messages} messages, {width} in flight ...", file=sys.stderr)
            topic = f"{private_topic(other.node_name)}/{width}"
            rates[width] = await _measure(one, other, topic, width, messages)
    most = max(rates.values())
    for width, rate in rates.items():
        print(f"{width:>4} in flight  {rate:>9,.0f} messages/s  {'█' * max(1, round(40 * rate / most))}")


async def _measure(
    one: MessageConnector[Any], other: MessageConnector[Any], topic: str, width: int, messages: int
) -> float:
    missing, all_there = messages, asyncio.Event()

    def listener(_: object) -> None:
        nonlocal missing
        missing -= 1
        if not missing:
            all_there.set()

    async def publish() -> None:
        for _ in range(messages // width):
            await one.publish(topic, MESSAGE)

    await other.subscribe(topic, listener)
    start = perf_counter()
    await asyncio.gather(*(publish() for _ in range(width)))
    async with asyncio.timeout(PATIENCE):
        await all_there.wait()
    return messages / (perf_counter() - start)
