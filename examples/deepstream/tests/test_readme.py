"""The commands of the example's page start a cluster, and its JavaScript hears Python."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
import yaml
from baking import blocks
from conftest import EXAMPLE, World

PAGE = EXAMPLE / "README.md"

pytestmark = pytest.mark.asyncio


async def test_the_commands_of_the_page_start_a_cluster(world: World, programs: Path) -> None:
    from tests.contract.server import free_port

    lines = blocks(PAGE, "console")[0].splitlines()
    servers = [line.split() for line in lines if line.startswith("node ")]
    [python] = [line.split() for line in lines if line.startswith("python node")]
    [configuration] = blocks(PAGE, "yaml")
    plugin = yaml.safe_load(configuration)["clusterNode"]
    assert (programs / plugin["path"]).is_file()
    options = json.dumps({**plugin["options"], "url": world.broker.url})
    ports = {}
    for node, program, name, port, _ in servers:
        ports[port] = str(free_port())
        server = await world.start(node, program, name, ports[port], options)
        await server.until_line("Deepstream started")
    place = {"DEEPSTREAM_MSG_REDIS_URL": world.broker.url, "PYTHONPATH": os.pathsep.join(sys.path)}
    await world.start(sys.executable, "-u", EXAMPLE / python[1], **place)

    [script] = blocks(PAGE, "js")
    probe = await world.start("node", "tests/client.js", ports["6020"])
    await probe.until_line("ready")
    while (await probe.call("shout", "there"))["is"] == "error":
        await asyncio.sleep(0.05)
    (programs / "printed.js").write_text(script.replace("6020", ports["6020"]), encoding="utf-8")
    client = await world.start("node", "printed.js")
    await client.until_line("HELLO!")
    await client.until_line("from Python")
