"""How many messages a second go from node to node: measured in turns, and drawn."""

import asyncio
import json
import platform
import sys
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from .connector import MessageConnector
from .settings import ConnectorSettings
from .topics import private_topic

MESSAGE = {"action": "P", "topic": "RECORD", "data": ["a name", 12, {"key": "value"}]}
SIZE = len(json.dumps(MESSAGE, separators=(",", ":")))
"""Bytes of the message, in JSON."""

IN_FLIGHT = 1, 10, 100
"""How many publishes are in flight: begun, and not yet accepted by the broker."""

ROUNDS = 5
SECONDS = 1.0
"""For how long a round publishes."""

PATIENCE = 30.0
"""Seconds for published messages to arrive."""

Rates = dict[int, list[float]]
"""Messages a second in each round, by how many were in flight."""


async def bench(connector: type[MessageConnector[Any]], settings: ConnectorSettings, output: Path) -> None:
    """Print the rates, and write them to `output` with the suffixes `.json` and `.svg`; raise what goes wrong."""
    if not output.parent.is_dir():
        raise ValueError(f"--output {output}: there is no folder {output.parent}")
    figures, drawing = (output.with_name(f"{output.name}.{suffix}") for suffix in ("json", "svg"))
    rates: Rates = {width: [] for width in IN_FLIGHT}
    async with connector(settings) as one, connector(settings.of_another_node()) as other:
        print(f"messages of {SIZE} bytes (in JSON), from one node to another, both in this process", file=sys.stderr)
        print("in flight: published, and not yet accepted by the broker", file=sys.stderr)
        for turn in range(ROUNDS):
            for width in IN_FLIGHT:
                rate = await _measure(one, other, f"{private_topic(other.node_name)}/{turn}/{width}", width)
                rates[width].append(rate)
                print(f"round {turn + 1} of {ROUNDS}, {width:>3} in flight: {rate:>9,.0f} messages/s", file=sys.stderr)
    facts = {
        "connector": f"{connector.name} connector {connector.version}",
        "broker": settings.where,
        "python": platform.python_version(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": SECONDS,
        "message_bytes": SIZE,
        "messages_per_second": rates,
    }
    figures.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    drawing.write_text(picture(f"{facts['connector']} at {facts['broker']}", rates), encoding="utf-8")
    print("in flight  messages/s  (minimum to maximum)")
    for width, found in rates.items():
        print(f"{width:>9}  {median(found):>10,.0f}  ({min(found):,.0f} to {max(found):,.0f})")
    print(f"written: {figures}, {drawing}")


async def _measure(one: MessageConnector[Any], other: MessageConnector[Any], topic: str, width: int) -> float:
    """Return how many messages a second arrive, with `width` publishes in flight."""
    sent = received = 0
    arrived = asyncio.Event()

    def listener(_: object) -> None:
        nonlocal received
        received += 1
        arrived.set()

    async def publish(until: float) -> None:
        nonlocal sent
        while perf_counter() < until:
            await one.publish(topic, MESSAGE)
            sent += 1

    await other.subscribe(topic, listener)
    start = perf_counter()
    await asyncio.gather(*(publish(start + SECONDS) for _ in range(width)))
    try:
        async with asyncio.timeout(PATIENCE):
            while received < sent:
                arrived.clear()
                await arrived.wait()
    except TimeoutError:
        raise TimeoutError(f"Only {received} of {sent} messages arrived within {PATIENCE:g} s.") from None
    rate = received / (perf_counter() - start)
    await other.unsubscribe(topic, listener)
    return rate


def picture(title: str, rates: Rates) -> str:
    """Return a drawing, in SVG, of the medians as bars, and of the range as a line on each."""
    most = max(max(found) for found in rates.values())
    rows = []
    for row, (width, found) in enumerate(rates.items()):
        y = 50 + 40 * row
        least, middle, greatest = (round(420 * value / most) for value in (min(found), median(found), max(found)))
        rows.append(
            f'  <text x="110" y="{y + 17}" text-anchor="end">{width} in flight</text>\n'
            f'  <rect x="120" y="{y}" width="{middle}" height="24" fill="#4a7ebb"/>\n'
            f'  <path d="M{120 + least} {y + 12}H{120 + greatest}M{120 + least} {y + 7}v10M{120 + greatest} {y + 7}v10" '
            f'stroke="#1d2a3a" stroke-width="2"/>\n'
            f'  <text x="{130 + greatest}" y="{y + 17}">{median(found):,.0f}</text>'
        )
    height = 50 + 40 * len(rates) + 30
    drawn = "\n".join(rows)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {height}" width="640" height="{height}">
  <style>text {{ font-family: sans-serif; font-size: 14px; fill: #1d2a3a }}</style>
  <rect width="640" height="{height}" fill="#ffffff"/>
  <text x="20" y="28" font-weight="bold">{escape(title)}</text>
{drawn}
  <text x="20" y="{height - 12}">messages a second from node to node: median, minimum and maximum of {ROUNDS} rounds</text>
</svg>
"""
