"""The settings of the NATS connector."""

import re
from base64 import urlsafe_b64encode
from typing import ClassVar

import nkeys  # type: ignore[import-untyped]
from pydantic import Field, FilePath, SecretStr, field_validator

from .contract import TlsSettings


class Settings(TlsSettings):
    """A NATS server 2.2 or later, or a cluster of them; core NATS, without JetStream."""

    schemes: ClassVar = ("nats", "tls")
    tls_schemes: ClassVar = ("tls",)
    user_may_be_token: ClassVar = True

    url: SecretStr = Field(
        default=SecretStr("nats://127.0.0.1:4222"),
        description="nats://[user:password@]host[:port], or tls:// to insist on TLS; of a cluster name several "
        "servers, as in nats://user:password@a:4222,b:4222. A user without a password is a token.",
    )
    token: SecretStr | None = Field(default=None, description="A token, for a server that asks for one.")
    credentials_file: FilePath | None = Field(
        default=None, description="A .creds file, with the JWT and the seed of a user of a decentralised set-up."
    )
    nkey_seed_file: FilePath | None = Field(default=None, description="A file with the seed of a user's NKey.")
    tls_handshake_first: bool = Field(
        default=False, description="Whether TLS begins before the server's greeting, as its handshake_first says."
    )

    @field_validator("url")
    @classmethod
    def _ends_with_the_hosts(cls, url: SecretStr) -> SecretStr:
        if re.search("[/?]", re.sub(r"\w+://", "", url.get_secret_value()).rstrip("/")):
            raise ValueError("must end with the hosts: NATS's options, such as those of TLS, are settings of their own")
        return url

    def credentials(self, nonce: str | None) -> dict[str, str]:
        """Return who we are, in NATS's words; a user with an NKey proves that by signing the server's `nonce`.

        Files are read anew. Raises `OSError`, or `ValueError` if one is not what its setting says.
        """
        user, password = self.login
        if self.token:
            return {"auth_token": self.token.get_secret_value()}
        if nonce and self.credentials_file:
            found = re.findall(r"-BEGIN [^\n]*-\s+(\S+)\s+-+END", self.credentials_file.read_text())
            jwt, seed = found if len(found) == 2 else ("", "")
            key = _key(seed, "credentials_file")
            return {"jwt": jwt, "sig": _signature(key, nonce)}
        if nonce and self.nkey_seed_file:
            key = _key(self.nkey_seed_file.read_text().strip(), "nkey_seed_file")
            return {"nkey": key.public_key.decode(), "sig": _signature(key, nonce)}
        if user and password is None and self.username is None:
            return {"auth_token": user}
        return {"user": user or "", "pass": password or ""} if user or password else {}


def _key(seed: str, setting: str) -> nkeys.KeyPair:
    try:
        return nkeys.from_seed(seed.encode())
    except nkeys.NkeysError as error:
        raise ValueError(f"{setting} is not what it should be: it holds no seed of a user's NKey") from error


def _signature(key: nkeys.KeyPair, nonce: str) -> str:
    return urlsafe_b64encode(key.sign(nonce.encode())).rstrip(b"=").decode()
