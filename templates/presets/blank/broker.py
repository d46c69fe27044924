"""How a broker is started for the tests. Optional: without it, the tests need one that is running already.

`Server` has more methods that can be written where a broker needs them:

    def is_ready(self) -> bool: ...  # may nodes connect? asked until it returns True; OSError means no, too
    def version(self) -> str: ...  # which server it is, if its program does not answer to `--version`
    def environment(self) -> dict[str, str]: ...  # variables for its process, besides those of the tests

Are users made by commands? Run these in `is_ready`, once the server answers, and let their exceptions pass: they end the
run, and are shown. The tests also restart the server. Its folder stays then, and with it the users in most brokers.

For several ports, name the settings that lead to them in `addresses`, and take each from `self.ports`.
`tests.contract.public` has all that may be used of the pack, such as `find_program`, which finds a program on PATH, and
`RabbitMQ`, which starts that server with the `plugins` that a subclass names.
"""

from .contract.public import Server


class Broker(Server):
    """A server on `self.port` of 127.0.0.1, with `self.folder` for its files; the tests start, restart and stop it.

    The tests for TLS and for a password that changes exist already; they run where this class says so:
    `speaks_tls = True`: where `self.certificate` is set, the server speaks only TLS, with the files
    `self.certificate.cert` and `self.certificate.key`, and `url` has the scheme for TLS. Where
    `self.asks_for_certificate` is set, it lets in only clients whose certificate `self.certificate.ca` has signed.
    `changes_passwords = True`: where `self.login` is set, the server lets in only that user, with that password, and
    `url` has neither. `set_password(self, password: str) -> None` changes the password while the server runs.

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
