"""The server for the tests: Mosquitto, from the machine."""

import getpass
from collections.abc import Sequence

from .contract.server import Server, find_program


class Broker(Server):
    """A Mosquitto server that keeps nothing on disk; `configuration` has the other lines of its file."""

    configuration: Sequence[str] = ("allow_anonymous true",)

    def command(self) -> list[str]:
        program = find_program("mosquitto", "apt-get install mosquitto, or brew install mosquitto", "/usr/sbin")
        file = self.folder / "mosquitto.conf"
        lines = [f"user {getpass.getuser()}", f"listener {self.port} 127.0.0.1", *self.configuration]
        file.write_text("".join(f"{line}\n" for line in lines))
        return [program, "-c", str(file)]

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"
