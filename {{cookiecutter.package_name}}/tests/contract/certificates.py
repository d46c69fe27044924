"""Certificates of the tests' own, so that a server can speak TLS."""

from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)


@dataclass(frozen=True)
class Certificate:
    """A certificate with its key, and that of the authority that has signed it: files in PEM."""

    ca: Path
    cert: Path
    key: Path
    """In the format PKCS #8, which all servers read."""


class Authority:
    """An authority that signs certificates; `folder` takes the files."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self._folder = folder
        self.file = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(self.file)

    def issue(self, *names: str) -> Certificate:
        """Return a new certificate for these names of hosts and IP addresses; the first one is its common name."""
        made = self._authority.issue_cert(*names, common_name=names[0])
        path = self._folder / "-".join(names).replace(":", "_").replace("*", "any")
        cert, key = path.with_suffix(".cert.pem"), path.with_suffix(".key.pem")
        cert.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        read = load_pem_private_key(made.private_key_pem.bytes(), None)
        key.write_bytes(read.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        key.chmod(0o600)
        return Certificate(self.file, cert, key)
