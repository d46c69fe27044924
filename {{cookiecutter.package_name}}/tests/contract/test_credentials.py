"""Passwords that change while nodes are connected: a file or a function has the new one (L12, R9)."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr

from ..subject import Settings, contract
from .nodes import Node
from .public import Change, MakeNode, ProxyFor, Serve
from .server import at_port

pytestmark = [
    pytest.mark.real,
    pytest.mark.production("rotation"),
    pytest.mark.needs("changes_passwords"),
]

USER = "node"


def draw() -> str:
    """Return a password that nobody has had yet."""
    return f"s3cr3t-{uuid4().hex}"


@pytest.mark.clause("L12", "R9")
@pytest.mark.parametrize("source", ["file", "function"])
async def test_a_password_that_was_changed_is_refused_until_the_new_one_is_there(
    serve: Serve, proxy_for: ProxyFor, node: MakeNode, change: Change, tmp_path: Path, source: str
) -> None:
    old, new = draw(), draw()
    server = serve(login=(USER, old))
    proxy = await proxy_for(server)
    place: dict[str, Any] = {"url": at_port(server.url, proxy.port), "username": USER, **server.settings_of_login}
    file = tmp_path / "password"
    file.write_text(f"{old}\n")

    def present() -> Settings:
        return change(**place, password=SecretStr(file.read_text().strip()))

    if source == "file":
        one: Node = await node(**place, password_file=file, noisy=True)
    else:
        one = await node(lambda _: Node(present), noisy=True)
    await asyncio.to_thread(server.set_password, new)
    await proxy.cut()
    errors = await one.errors.until(
        lambda errors: any(isinstance(error, contract.ReconnectError) and error.refused for error in errors),
        "a refusal",  # not always first: the cut may hit a node that is coming back, because the server has cut it as well
    )
    assert old not in str(errors)
    file.write_text(f"{new}\n")
    await one.until_ready(2)
