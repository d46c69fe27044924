"""The settings of the connector without a broker."""

import json
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, FilePath, SecretStr

from .contract import TlsSettings

PORT = 7447
HOSTS = r"^[^\s/,@#?]+:[1-9]\d{0,4}(,[^\s/,@#?]+:[1-9]\d{0,4})*$"


class Settings(TlsSettings):
    """Zenoh 1.10 or later: peers that find each other, or a node that is behind one of them or a router."""

    schemes: ClassVar = ("zenoh", "zenohs")
    schemes_with_hosts_only: ClassVar = schemes
    tls_schemes: ClassVar = ("zenohs",)

    url: SecretStr = Field(
        default=SecretStr(f"zenoh://127.0.0.1:{PORT}"),
        description="zenoh://[user:password@]host[:port][,host[:port]...], or zenohs:// for TLS: one or a few of the "
        "other nodes, or routers; they announce the rest. It may name this node, too, so that all have the same.",
    )
    listen: str | None = Field(
        default=None,
        pattern=HOSTS,
        description="host:port[,host:port...] where this node takes connections, which makes it a peer, linked to all "
        "others; [::] is any address. Without it, all goes through one node or router of the url.",
    )
    may_be_alone: bool = Field(
        default=False, description="Whether a peer is ready while alone; the first peer must be."
    )
    namespace: str = Field(
        default="deepstream",
        pattern=r"^[\w.-]+(/[\w.-]+)*$",
        description="The prefix of all key expressions; nodes with another prefix are another cluster.",
    )
    users_file: FilePath | None = Field(
        default=None, description="A file with a line user:password for each user that may connect to this node."
    )

    @property
    def patience(self) -> float:
        """Seconds that the other nodes have to answer."""
        return self.heartbeat / 3

    @property
    def port(self) -> str:
        """The port at which others reach this node; "" if they do not."""
        return (self.listen or "").partition(",")[0].rpartition(":")[2]

    def for_zenoh(self, known: Iterable[str] = (), only: str | None = None) -> str:
        """Return Zenoh's own settings, in JSON, with the known endpoints of others; or to visit `only` one."""
        user, password = self.login
        kind = "tls" if self.uses_tls else "tcp"
        is_peer = self.listen is not None and only is None
        told = [f"{kind}/{target._replace(port=target.port or PORT)}" for target in self.targets()]
        endpoints = [only] if only else list(dict.fromkeys([*told, *known]))
        # A node that may not be alone must first notice that it is isolated.
        first_pause = self.reconnect_delay_min if self.may_be_alone else self.heartbeat / 2
        opening = max(1, int(1000 * self.connect_timeout / (len(endpoints) + 1)))
        options: dict[str, Any] = {
            "mode": "peer" if is_peer else "client",
            "namespace": self.namespace,
            "connect/endpoints": endpoints,
            "connect/timeout_ms": -1 if is_peer and self.may_be_alone else 0,
            "connect/exit_on_failure": not is_peer,
            "connect/retry": {
                "period_init_ms": max(1, int(1000 * first_pause)),
                "period_max_ms": max(1, int(1000 * max(first_pause, self.reconnect_delay_max))),
                "period_increase_factor": 2,
            },
            "listen/endpoints": [f"{kind}/{host}" for host in (self.listen or "").split(",")] if is_peer else [],
            "scouting/multicast/enabled": False,
            "scouting/gossip/enabled": True,
            "scouting/delay": 1000,  # the longest wait for links to nodes that others announce
            "transport/unicast/open_timeout": opening,
            "transport/unicast/accept_timeout": opening,
            "transport/unicast/qos/enabled": False,  # one queue: a question never overtakes a message
            "transport/shared_memory/enabled": False,
            "transport/link/tx/lease": int(1000 * max(self.heartbeat, 1)),
            "transport/link/tx/queue/congestion_control/block/wait_before_close": int(1e6 * self.patience),
            "transport/auth/usrpwd/user": user or None,
            "transport/auth/usrpwd/password": password or None,
            "transport/auth/usrpwd/dictionary_file": str(self.users_file) if self.users_file else None,
            "transport/link/tls/enable_mtls": self.tls_cert_file is not None,
            "transport/link/tls/verify_name_on_connect": self.tls_verify_hostname,
        }
        cert, key = self.tls_cert_file, self.tls_key_file or self.tls_cert_file
        files: dict[str, Path | SecretStr | str | None] = {"root_ca_certificate": self.tls_ca_file}
        for side in ("listen", "connect"):
            files |= {f"{side}_certificate": cert, f"{side}_private_key": key}
        for name, value in files.items():
            if isinstance(value, Path):
                options[f"transport/link/tls/{name}"] = str(value)
            elif value is not None:
                text = value if isinstance(value, str) else value.get_secret_value()
                options[f"transport/link/tls/{name}_base64"] = b64encode(text.encode()).decode()
        nested: dict[str, Any] = {}
        for path, value in options.items():
            *groups, name = path.split("/")
            group = nested
            for each in groups:
                group = group.setdefault(each, {})
            if value is not None:
                group[name] = value
        return json.dumps(nested)
