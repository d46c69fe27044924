"""The small broker for the tests."""

import sys
from pathlib import Path
from typing import ClassVar

from .contract.public import Server


class Broker(Server):
    """It has two ports; `limited` may not use names that begin with `forbidden`."""

    addresses: ClassVar = ("url", "subscribe_port")

    def command(self) -> list[str]:
        ports = ["--port", str(self.port), "--second-port", str(self.ports["subscribe_port"])]
        users = ["--user", "tester:s3cr3t-w0rd", "--user", "limited:s3cr3t-w0rd:forbidden"]
        return [sys.executable, str(Path(__file__).with_name("server.py")), *ports, *users]

    @property
    def url(self) -> str:
        return f"small://tester:s3cr3t-w0rd@127.0.0.1:{self.port}"
