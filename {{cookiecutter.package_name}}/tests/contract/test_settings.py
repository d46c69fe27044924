"""Chapter L: the settings of a connector, and the secrets among them."""

import gc
import logging
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ..subject import Connector, Settings, Topic, contract, private_topic
from .nodes import Node, SpiedNode, somewhere
from .public import Change, MakeNode
from .server import at_port, free_port

_audited: list[str] | None = None


def _audit(event: str, _: tuple[Any, ...]) -> None:
    if _audited is not None and event in ("socket.__new__", "socket.connect", "subprocess.Popen", "open"):
        _audited.append(event)


sys.addaudithook(_audit)


@pytest.mark.clause("L1")
def test_constructing_does_no_io() -> None:
    global _audited
    settings = somewhere()
    _audited = []
    connector = Connector(settings)
    audited, _audited = _audited, None
    assert audited == []
    assert connector.is_ready is False


@pytest.mark.clause("L1")
def test_bad_settings_are_all_named_and_no_secret_is_shown() -> None:
    with pytest.raises(ValidationError) as raised:
        somewhere(url="s3cr3t-and-no-url", heartbeat=-1, publish_timeout="soon", max_outbox_bytes=0, colour="red")
    text = str(raised.value)
    for field in ("url", "heartbeat", "publish_timeout", "max_outbox_bytes", "colour"):
        assert field in text
    assert "-1" in text
    assert "s3cr3t" not in text + repr(raised.value.errors())


@pytest.mark.clause("L1")
def test_delays_out_of_order_are_named_with_all_else() -> None:
    with pytest.raises(ValidationError, match="reconnect_delay_min") as raised:
        somewhere(reconnect_delay_min=2, reconnect_delay_max=1, heartbeat=0)
    assert "heartbeat" in str(raised.value)


@pytest.mark.clause("L1")
@pytest.mark.parametrize(
    "rest",
    [
        *(f"u:s3{mark}cr3t@host:1" for mark in "@:/?#[],%"),
        "host:s3cr3t",
        "host:70000",
        "host:0",
        "[::1",
        "u:s3cr3t@one,v:s3cr3t@other",
        "host,",
        ",host",
    ],
)
def test_a_url_that_could_be_misread_is_refused_and_not_shown(rest: str) -> None:
    with pytest.raises(ValidationError, match="percent-encoded") as raised:
        somewhere(url=f"{(Settings.schemes or ('broker',))[0]}://{rest}")
    assert "cr3t" not in str(raised.value)


@pytest.mark.clause("L1")
@pytest.mark.parametrize("rest", ["/path", "?option=s3cr3t", "/?password=s3cr3t"])
def test_a_url_that_goes_on_after_its_hosts_is_refused_where_a_scheme_has_hosts_only(rest: str) -> None:
    class Hosts(contract.ConnectorSettings):
        schemes_with_hosts_only = ("hosts",)

    assert len(Hosts(url="hosts://u:s3cr3t@one,other:1/").targets()) == 2
    assert Hosts(url=f"paths://one{rest}").address.rest == rest
    with pytest.raises(ValidationError, match="must end after its hosts") as raised:
        Hosts(url=f"hosts://u:s3cr3t@one{rest}", heartbeat=0)
    assert "heartbeat" in str(raised.value)
    assert "s3cr3t" not in str(raised.value)


@pytest.mark.clause("L1")
@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("node_name", "node one", "node one"),
        ("serialization", "msgpack", "msgpack"),
        ("connect_timeout", "7.5", 7.5),
        ("publish_timeout", "7.5", 7.5),
        ("heartbeat", "7.5", 7.5),
        ("max_message_bytes", "2000", 2000),
        ("max_outbox_bytes", "2000", 2000),
        ("max_pending_messages", "2000", 2000),
        ("max_pending_bytes", "2000", 2000),
        ("max_history_bytes", "2000", 2000),
        ("control_topic", "our cluster", "our cluster"),
        ("password_file", "a file", Path("a file")),
        ("reconnect_delay_min", "0.25", 0.25),
        ("reconnect_delay_max", "7.5", 7.5),
    ],
)
def test_the_environment_overrides_defaults(
    monkeypatch: pytest.MonkeyPatch, field: str, text: str, value: object
) -> None:
    package = Connector.__module__.partition(".")[0]
    default = getattr(somewhere(), field)
    monkeypatch.setenv(f"{package}_{field}".upper(), text)
    assert getattr(somewhere(), field) == value
    assert getattr(somewhere(**{field: default}), field) == default != value


@pytest.mark.clause("L8")
def test_attributes() -> None:
    connector = Connector(somewhere(node_name="node one"))
    assert connector.node_name == "node one"
    assert all(isinstance(each, str) and each for each in (connector.name, connector.version))
    assert Connector(somewhere()).node_name != Connector(somewhere()).node_name


@pytest.mark.clause("L8")
def test_names_on_which_hosts_rely() -> None:
    assert issubclass(Topic, StrEnum)
    assert [topic.value for topic in Topic] == ["RECORD", "RPC", "EVENT"]
    assert private_topic("a") != private_topic("b")
    raised = "Connect NotReady Closed Publish Subscribe Unsubscribe Serialization MessageTooLarge OutboxFull"
    emitted = "ConnectionLost Reconnect BadFrame Listener SlowListener MessagesLost"
    for name in (*raised.split(), *emitted.split()):
        assert issubclass(getattr(Connector.errors, f"{name}Error"), Connector.errors.ConnectorError)
    for operation in ("Publish", "Subscribe"):
        for outcome in ("Refused", "Unconfirmed"):
            error = getattr(Connector.errors, f"{operation}{outcome}Error")
            assert issubclass(error, getattr(Connector.errors, f"{operation}Error"))
    counters = "published delivered filtered lost repaired duplicates reconnects pending"
    assert Connector(somewhere()).stats() == dict.fromkeys(counters.split(), 0)


@pytest.mark.clause("L8")
def test_a_host_needs_nothing_but_the_class() -> None:
    assert Connector.Settings is Settings
    assert Connector.errors.ConnectorError is contract.ConnectorError
    assert all(
        isinstance(each, str) and each for each in (Connector.name, Connector.version, Connector.contract_version)
    )


@pytest.mark.clause("L9")
async def test_no_secret_is_shown(given: Settings, change: Change, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = "s3cr3t%2Fp4ss", "s3cr3t/p4ss"
    open_url = at_port(given.url.get_secret_value(), free_port()).partition("://")
    connector = Node(change(url=f"{open_url[0]}://somebody:{secrets[0]}@{open_url[2].rpartition('@')[2]}"))
    with pytest.raises(contract.ConnectError) as raised:
        await connector.connect()
    await connector.close()
    shown = [repr(connector), repr(connector.settings.address), repr(connector.settings), str(connector.settings)]
    shown += [repr(raised.value), str(raised.value)]
    shown += [repr(raised.value.__cause__), repr(connector.errors.items), caplog.text]
    shown += [repr(record.__dict__) for record in caplog.records]
    assert [text for text in shown for secret in secrets if secret in text] == []
    gc.collect()


@pytest.mark.clause("L9")
async def test_what_a_client_library_tells_of_a_secret_is_not_passed_on(
    node: MakeNode, change: Change, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    start, middle, end = change().url.get_secret_value().partition("://")
    secret_url = f"{start}{middle}somebody:s3cr3t@{end.rpartition('@')[2]}"
    connector: SpiedNode = await node(SpiedNode, connect=False, noisy=True, url=secret_url)

    async def tell(*_: object) -> None:
        raise OSError(f"no luck at {secret_url}")

    connector.trouble["connect"] = tell
    with pytest.raises(contract.ConnectError, match="no luck") as raised:
        await connector.connect()
    shown = "".join(traceback.format_exception(raised.value)) + caplog.text
    assert "s3cr3t" not in shown
