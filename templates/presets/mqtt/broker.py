"""The server for the tests: Mosquitto, from the machine."""

import getpass

from .contract.server import Server, find_program


class Broker(Server):
    """A Mosquitto server that keeps nothing on disk; `configuration` is what its file says besides."""

    configuration = "allow_anonymous true"

    def command(self) -> list[str]:
        program = find_program("mosquitto", "apt-get install mosquitto, or brew install mosquitto", "/usr/sbin")
        file = self.folder / "mosquitto.conf"
        file.write_text(f"user {getpass.getuser()}\nlistener {self.port} 127.0.0.1\n{self.configuration}\n")
        return [program, "-c", str(file)]

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"
