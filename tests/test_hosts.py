"""What a client of one server sends, the clients of all servers hear: each message once and in order, also after an outage."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hosting import (
    BROKERS,
    CONNECTOR,
    COUNT,
    HOSTS,
    OWN,
    Package,
    check_that_both_hear,
    client_class,
    name_of,
    shown,
    through_an_outage,
)


@pytest.mark.parametrize("preset", BROKERS)
@pytest.mark.parametrize("host", HOSTS)
def test_an_outage_of_the_broker_costs_no_message(
    host: str,
    preset: str,
    packages: Mapping[str, Package],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    package = packages[preset]
    with ExitStack() as stack:
        broker = stack.enter_context(package.broker(tmp_path / "broker"))
        back_ends = (CONNECTOR, *(OWN[host] if preset == "redis" else ()))
        programs = {each: stack.enter_context(package.programs(tmp_path, host, each, broker)) for each in back_ends}
        found = asyncio.run(through_an_outage(host, broker, programs))
        logs = [program.log for program in programs[CONNECTOR]]
    for back_end, clients in found.items():
        row = (host, BROKERS[preset], name_of(host, back_end), *(shown(client.numbers) for client in clients))
        record_property("outage", (*row, sum(client.missed for client in clients)))
    for client in found[CONNECTOR]:
        assert client.numbers == list(range(COUNT)), "\n".join(logs)
        assert not client.missed
    for log in logs:
        assert "Cannot connect" in log
        assert "Traceback" not in log


@pytest.mark.parametrize("host", HOSTS)
def test_servers_start_before_their_broker(host: str, package: Package, own_broker: Any, tmp_path: Path) -> None:
    own_broker.stop()
    with package.programs(tmp_path, host, CONNECTOR, own_broker) as programs:
        own_broker.spawn()
        own_broker.wait_until_ready()
        asyncio.run(check_that_both_hear(programs, client_class(host)))
