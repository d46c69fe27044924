"""How a broker is started for the tests. Optional: without it, the tests need one that is running already.

`Server` has more to fill in where a broker needs it: `is_ready`, `version`, `environment`; for several ports, name the
settings that lead to them in `addresses`, and take each from `self.ports`. `tests.contract.public` has all that may be
used of the pack, such as `find_program`, which finds a program on PATH.
"""

from .contract.public import Server


class Broker(Server):
    """A server on `self.port` of 127.0.0.1, with `self.folder` for its files; the tests start, restart and stop it.

    If it can be started with TLS, or with a password that changes, set `speaks_tls` or `changes_passwords` to True and
    do what `Server` says about them: the tests for that exist.

    If your broker cannot keep a clause of the contract, say so here, and why:
    `not_applicable = {"R4": "the reason"}`.
    """

    def command(self) -> list[str]:
        """Return the words of the command: ["my-broker", "--port", str(self.port)]."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """Return its url: f"scheme://127.0.0.1:{self.port}"."""
        raise NotImplementedError
