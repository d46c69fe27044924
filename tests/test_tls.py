"""The context of TLS, against a server of asyncio: which certificates and keys it takes, and for which name."""

import asyncio
import importlib
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from pure import load, of_the_pack

load("secured")
TLS: Any = importlib.import_module("secured.tls")


AUTHORITY: Any = of_the_pack("certificates").Authority


def handshake(settings: Any, shown: Any, **options: Any) -> str:
    """Connect to 127.0.0.1 with the context of these settings; return "ok", or why it was refused."""

    async def connect() -> str:
        server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server_side.load_cert_chain(shown.cert, shown.key)

        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_side) as server:
            place = server.sockets[0].getsockname()
            try:
                _, writer = await asyncio.open_connection(*place, ssl=TLS.ssl_context(settings, **options))
            except ssl.SSLCertVerificationError as error:
                return str(error.verify_message)
            writer.transport.abort()
        return "ok"

    return asyncio.run(connect())


def of(url: str, **values: Any) -> Any:
    """Return the settings of one attempt at this url."""
    return TLS.TlsSettings(url=url, **values)


def test_the_name_in_the_url_is_checked_also_at_an_address(tmp_path: Path) -> None:
    authority = AUTHORITY(tmp_path)
    named = authority.issue("broker.example")
    settings = of("b://broker.example:1", tls_ca_file=authority.file)
    assert handshake(settings.at("broker.example", 1, "127.0.0.1"), named) == "ok"
    assert "mismatch" in handshake(settings.at("other.example", 1, "127.0.0.1"), named)
    assert handshake(settings.at("other.example", 1, "127.0.0.1"), named, host_name="broker.example") == "ok"
    assert "mismatch" in handshake(settings, named, host_name="")  # of the host to which it connects
    assert handshake(settings, authority.issue("127.0.0.1"), host_name="") == "ok"


def test_without_the_check_of_the_name_the_authority_is_still_checked(tmp_path: Path) -> None:
    authority = AUTHORITY(tmp_path)
    named = authority.issue("elsewhere.example")
    assert handshake(of("b://127.0.0.1", tls_ca_file=authority.file, tls_verify_hostname=False), named) == "ok"
    assert handshake(of("b://127.0.0.1", tls_verify_hostname=False), named) != "ok"


def test_what_is_wrong_with_a_file_is_said_with_the_setting(tmp_path: Path) -> None:
    authority = AUTHORITY(tmp_path)
    mine, other = authority.issue("mine"), authority.issue("other")
    read = load_pem_private_key(mine.key.read_bytes(), None)
    locked = read.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"s3cr3t")).decode()
    garbage = tmp_path / "garbage"
    garbage.write_text("no certificate")
    for values, rule in (
        ({"tls_ca_file": garbage}, "tls_ca_file holds no certificates"),
        ({"tls_cert_file": garbage, "tls_key_file": mine.key}, "tls_cert_file and tls_key_file"),
        ({"tls_cert_file": mine.cert, "tls_key_file": other.key}, "KEY_VALUES_MISMATCH"),
        ({"tls_cert_file": mine.cert, "tls_key_file": locked}, "store the key without one"),
    ):
        with pytest.raises(ValueError, match=rule):
            TLS.ssl_context(of("b://127.0.0.1", **values))


def test_texts_are_lent_as_files_that_are_gone_afterwards(tmp_path: Path) -> None:
    mine = AUTHORITY(tmp_path).issue("mine")
    values = {"tls_ca_file": mine.ca.read_text(), "tls_cert_file": mine.cert.read_text(), "tls_key_file": mine.key}
    with TLS.tls_files(of("b://127.0.0.1", **values)) as files:
        assert (files.ca.read_text(), files.cert.read_text()) == (mine.ca.read_text(), mine.cert.read_text())
        assert files.key == mine.key
        assert files.cert.parent.stat().st_mode & 0o077 == 0
    assert not files.ca.exists()
    assert not files.cert.exists()
