"""Who server and node are, in NATS's terms: the server's greeting, and a login, or a key that signs its challenge."""

import re
from base64 import urlsafe_b64encode
from typing import Annotated

import msgspec
import nkeys  # type: ignore[import-untyped]

from .settings import Settings


class Info(msgspec.Struct):
    """What a server says about itself, when it greets and whenever that changes."""

    max_payload: Annotated[int, msgspec.Meta(ge=1)]
    tls_required: bool = False
    tls_available: bool = False
    nonce: str | None = None
    connect_urls: list[str] | None = None
    ldm: bool = False


def credentials(settings: Settings, nonce: str | None) -> dict[str, str]:
    """Return who we are, in NATS's terms; a user with an NKey proves that by signing the server's `nonce`.

    Files are read again. Raises `OSError`, or `ValueError` if one is not what its setting says.
    """
    user, password = settings.login
    if settings.token:
        return {"auth_token": settings.token.get_secret_value()}
    if nonce and settings.credentials_file:
        found = re.findall(r"-BEGIN [^\n]*-\s+(\S+)\s+-+END", settings.credentials_file.read_text())
        jwt, seed = found if len(found) == 2 else ("", "")
        key = _key(seed, "credentials_file")
        return {"jwt": jwt, "sig": _signature(key, nonce)}
    if nonce and settings.nkey_seed_file:
        key = _key(settings.nkey_seed_file.read_text().strip(), "nkey_seed_file")
        return {"nkey": key.public_key.decode(), "sig": _signature(key, nonce)}
    if user and password is None and settings.username is None:
        return {"auth_token": user}
    return {"user": user or "", "pass": password or ""} if user or password else {}


def _key(seed: str, setting: str) -> nkeys.KeyPair:
    try:
        return nkeys.from_seed(seed.encode())
    except nkeys.NkeysError as error:
        raise ValueError(f"{setting} does not hold the seed of a user's NKey") from error


def _signature(key: nkeys.KeyPair, nonce: str) -> str:
    return urlsafe_b64encode(key.sign(nonce.encode())).rstrip(b"=").decode()
