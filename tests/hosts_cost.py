"""A message costs no more through the connector than through the host's own back end; `tox run -e hosts` runs this."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from hosting import CONNECTOR, HOSTS, OWN, Package, costs, name_of


@pytest.mark.parametrize("host", HOSTS)
def test_a_message_costs_no_more_than_through_the_hosts_own_back_end(
    host: str, packages: Mapping[str, Package], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    package = packages["redis"]
    with ExitStack() as stack:
        broker = stack.enter_context(package.broker(tmp_path / "broker"))
        programs = {
            each: stack.enter_context(package.programs(tmp_path, host, each, broker))
            for each in (CONNECTOR, *OWN[host])
        }
        found = asyncio.run(costs(host, programs))
    ours = found.pop(CONNECTOR)
    record_property("cost", (host, CONNECTOR, f"{ours.milliseconds:.3f}", "", ours.connections))
    for back_end, cost in found.items():
        ratio = f"{cost.milliseconds / ours.milliseconds:.2f}"
        record_property("cost", (host, name_of(host, back_end), f"{cost.milliseconds:.3f}", ratio, cost.connections))
    for cost in found.values():
        assert ours.milliseconds <= 1.1 * cost.milliseconds
        assert ours.connections <= cost.connections
