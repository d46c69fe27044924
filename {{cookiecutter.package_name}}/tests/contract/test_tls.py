"""TLS: the server is checked, the client shows who it is, and nothing ever goes out in clear text instead (L3, L9)."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from ..broker import Broker
from ..subject import Settings, contract
from .certificates import Authority
from .nodes import Log, Node, somewhere
from .public import MakeNode, ProxyFor, Serve
from .server import at_port

WRONG = r"(?i)certificate|tls|ssl|handshake"

pytestmark = pytest.mark.needs("speaks_tls")


def on_a_server(test: Any) -> Any:
    """Mark a test that has the broker itself speak TLS."""
    return pytest.mark.real(pytest.mark.production("tls")(test))


@pytest.fixture
def tls_server(serve: Serve, authority: Authority) -> Broker:
    """A server whose certificate is for `localhost` and for 127.0.0.1."""
    server: Broker = serve(certificate=authority.issue("localhost", "127.0.0.1"))
    return server


def by_name(url: str) -> str:
    """Return a url in which the host of the tests has its name."""
    return url.replace("127.0.0.1", "localhost")


@pytest.mark.clause("L9")
@pytest.mark.parametrize("setting", ["tls", "tls_ca_file", "tls_cert_file", "tls_verify_hostname"])
def test_any_setting_of_tls_means_tls(authority: Authority, setting: str) -> None:
    files = authority.issue("localhost")
    values: dict[str, Any] = {"tls": True, "tls_ca_file": files.ca, "tls_verify_hostname": False}
    values["tls_cert_file"] = files.cert
    settings = somewhere(**{setting: values[setting]})
    assert isinstance(settings, contract.TlsSettings)
    assert settings.uses_tls
    if setting != "tls":
        with pytest.raises(ValidationError, match="tls = False"):
            somewhere(**{setting: values[setting], "tls": False})


@pytest.mark.clause("L1", "L9")
def test_bad_settings_of_tls_are_named_and_show_no_key(authority: Authority, tmp_path: Path) -> None:
    key = authority.issue("localhost").key.read_text()
    for wrong in ({"tls_ca_file": tmp_path / "nowhere"}, {"tls_key_file": key}, {"tls_cert_file": "nowhere"}):
        with pytest.raises(ValidationError) as raised:
            somewhere(**wrong)
        assert next(iter(wrong)) in str(raised.value)
        assert key.splitlines()[1] not in str(raised.value)
    settings = somewhere(tls_cert_file=authority.issue("localhost").cert, tls_key_file=key)
    assert key.splitlines()[1] not in repr(settings)


@on_a_server
@pytest.mark.clause("L3", "M1")
@pytest.mark.parametrize("host", ["by_name", "by_address"])
@pytest.mark.parametrize("given_as", ["file", "text"])
async def test_the_right_authority_lets_messages_pass(
    tls_server: Broker, authority: Authority, node: MakeNode, topic: str, host: str, given_as: str
) -> None:
    url = by_name(tls_server.url) if host == "by_name" else tls_server.url
    ca = authority.file if given_as == "file" else authority.file.read_text()
    one, other = [await node(url=url, tls_ca_file=ca) for _ in range(2)]
    mailbox = Log()
    await one.subscribe(topic, mailbox)
    for number in range(100):
        other.publish_nowait(topic, [number, "x" * 10_000])
    assert [number for number, _ in await mailbox.count(100)] == list(range(100))


async def refused(node: MakeNode, **settings: Any) -> contract.ConnectError:
    """Return the error of connecting with these settings."""
    stranger: Node = await node(connect=False, **settings)
    with pytest.raises(contract.ConnectError, match=WRONG) as raised:
        await stranger.connect()
    return raised.value


@on_a_server
@pytest.mark.clause("L3")
async def test_a_server_of_another_authority_is_refused(tls_server: Broker, node: MakeNode, tmp_path: Path) -> None:
    await refused(node, url=tls_server.url, tls=True)  # the system's authorities know nothing of it
    await refused(node, url=tls_server.url, tls_ca_file=Authority(tmp_path).file)


@on_a_server
@pytest.mark.clause("L3")
async def test_a_certificate_for_another_host_is_refused_unless_the_settings_allow_it(
    serve: Serve, authority: Authority, node: MakeNode
) -> None:
    url = serve(certificate=authority.issue("elsewhere.example")).url
    for each in (url, by_name(url)):
        await refused(node, url=each, tls_ca_file=authority.file)
    allowed: Node = await node(url=url, tls_ca_file=authority.file, tls_verify_hostname=False)
    assert allowed.is_ready


@on_a_server
@pytest.mark.clause("L3")
async def test_a_client_without_the_certificate_that_is_asked_for_is_refused(
    serve: Serve, authority: Authority, node: MakeNode, tmp_path: Path
) -> None:
    url = serve(certificate=authority.issue("localhost", "127.0.0.1"), asks_for_certificate=True).url
    mine, foreign = authority.issue("node"), Authority(tmp_path).issue("node")
    for files in ({"tls_cert_file": mine.cert, "tls_key_file": mine.key}, {"tls_cert_file": joined(mine)}):
        known: Node = await node(url=url, tls_ca_file=authority.file, **files)
        assert known.is_ready
    await refused(node, url=url, tls_ca_file=authority.file)
    await refused(node, url=url, tls_ca_file=authority.file, tls_cert_file=foreign.cert, tls_key_file=foreign.key)


def joined(files: Any) -> str:
    """Return certificate and key in one text."""
    return f"{files.cert.read_text()}{files.key.read_text()}"


@on_a_server
@pytest.mark.clause("L3")
async def test_a_server_that_takes_tls_alone_is_told_to_a_client_without_it(tls_server: Broker, node: MakeNode) -> None:
    url = f"{Settings.schemes[0]}://{tls_server.url.partition('://')[2]}"
    stranger: Node = await node(connect=False, url=url, connect_timeout=2)
    with pytest.raises(contract.ConnectError, match=f"{WRONG}|encryption"):
        await stranger.connect()


@on_a_server
@pytest.mark.clause("L9")
async def test_no_password_goes_to_a_server_without_tls(
    serve: Serve, proxy_for: ProxyFor, authority: Authority, node: MakeNode
) -> None:
    plain: Broker = serve()
    proxy = await proxy_for(plain)
    proxy.overheard = bytearray()
    url = at_port(plain.url, proxy.port)
    secret = SecretStr("s3cr3t-passw0rd")
    for setting in ({"tls": True}, {"tls_ca_file": authority.file}):
        stranger: Node = await node(
            connect=False, url=url, username="someb0dy", password=secret, connect_timeout=2, **setting
        )
        with pytest.raises(contract.ConnectError):
            await stranger.connect()
    assert proxy.accepted >= 2
    for word in (b"someb0dy", b"s3cr3t-passw0rd"):
        assert word not in proxy.overheard
