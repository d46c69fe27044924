"""`python -m` with a package's name: what it prints, what it says when a broker does not work, and how it exits."""

import asyncio
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any
from xml.etree import ElementTree

import pytest
import trustme
from baking import bake
from hosting import Package

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def broker(package: Package, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with package.broker(tmp_path_factory.mktemp("cli") / "broker") as broker:
        yield broker


def run_in(
    folder: Path, source: Path, name: str, *words: object, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Run a package; the environment has no settings but these."""
    command = [sys.executable, "-m", name, *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(source), **variables}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def run(package: Package, tmp_path: Path) -> Run:
    """Run the redis package; variables are those of its settings, without their prefix."""

    def run(*words: object, **variables: str) -> "subprocess.CompletedProcess[str]":
        prefix = f"{package.name.upper()}_"
        return run_in(
            tmp_path, package.source, package.name, *words, **{prefix + name: variables[name] for name in variables}
        )

    return run


def failure(ended: "subprocess.CompletedProcess[str]") -> str:
    """Return the one line of a command that failed, and says why without a traceback."""
    assert ended.returncode == 1, ended
    (line,) = ended.stderr.splitlines()
    return line


def on_a_terminal(source: Path, name: str, *words: object) -> list[str]:
    """Return the lines that a command prints on a terminal of 60 columns."""
    pty = pytest.importorskip("pty")
    own, its = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(source), "COLUMNS": "60"}
    command = [sys.executable, "-m", name, *map(str, words)]
    with subprocess.Popen(command, env=environment, stdout=its, stderr=its) as process:
        os.close(its)
        said = b""
        with suppress(OSError):  # that a terminal is at its end
            while part := os.read(own, 10_000):
                said += part
    os.close(own)
    assert process.returncode in (0, 1)
    return said.decode().splitlines()


# check


def test_check_says_where_it_is_and_how_long_a_message_takes(run: Run, broker: Any) -> None:
    ended = run("check", "--url", f"redis://localhost:{broker.port}")
    assert ended.returncode == 0, ended
    connecting, resolves, connected, takes, well = ended.stdout.splitlines()
    assert connecting == f"connecting to redis://localhost:{broker.port}"
    assert resolves.startswith("localhost resolves to ")
    assert "127.0.0.1" in resolves
    assert connected == f"connected to redis://localhost:{broker.port}"
    assert takes.startswith("round trip between two nodes that this command opened: ")
    assert " ms (" in takes
    assert well == "all is well (not tried: the rights to other topics, such as RECORD or fanout)"
    assert ended.stderr == ""


def test_check_takes_the_url_from_the_environment(run: Run, broker: Any) -> None:
    ended = run("check", URL=broker.url)
    assert ended.returncode == 0
    assert ended.stdout.splitlines()[0] == f"connecting to {broker.url}"


def test_check_says_that_it_tries_the_default_url(tmp_path: Path) -> None:
    project = bake(tmp_path, preset="nats", package_name="conn_nats")
    settings = project / "src" / "conn_nats" / "settings.py"
    settings.write_text(settings.read_text().replace(":4222", ":1", 1))
    ended = run_in(tmp_path, project / "src", "conn_nats", "check")
    assert "Nothing listens there" in failure(ended)
    assert ended.stdout == (
        "connecting to nats://127.0.0.1:1, the default; for another, give --url or set CONN_NATS_URL\n"
    )


def test_check_says_that_it_speaks_tls(run: Run, broker: Any, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(100_000):
            sink.write(data)
        sink.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_broker, to_broker = await asyncio.open_connection("127.0.0.1", broker.port)
        await asyncio.gather(copy(reader, to_broker), copy(from_broker, writer))

    async def checked() -> None:
        async with await asyncio.start_server(forward, "127.0.0.1", 0, ssl=context) as server:
            url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            ended = await asyncio.to_thread(run, "check", "--url", url, TLS_CA_FILE=str(tmp_path / "ca.pem"))
        assert f"connected to {url} with TLS" in ended.stdout.splitlines()

    asyncio.run(checked())


def test_check_names_each_variable_of_the_environment_that_is_no_setting(run: Run, broker: Any) -> None:
    ended = run("check", URL=broker.url, ULR="redis://s3same@host", COLOUR="red")
    assert ended.returncode == 0
    prefix = "DEEPSTREAM_MSG_REDIS_"
    assert ended.stdout.splitlines()[:2] == [
        f"{prefix}COLOUR in the environment: there is no setting '{prefix}COLOUR'",
        f"{prefix}ULR in the environment: there is no setting '{prefix}ULR'. Did you mean '{prefix}URL'?",
    ]
    assert "s3same" not in ended.stdout


def test_check_of_a_port_where_nobody_listens(run: Run) -> None:
    line = failure(run("check", "--url", "redis://127.0.0.1:1"))
    assert line.startswith("Cannot connect to redis://127.0.0.1:1: ConnectionRefusedError")
    assert line.endswith("Nothing listens there: check host and port in the url, and that the broker runs.")


def test_check_of_a_name_that_is_not_known(run: Run) -> None:
    line = failure(run("check", "--url", "redis://broker.invalid", CONNECT_TIMEOUT="20"))
    assert line.endswith("This host name has no address: check it in the url.")


@pytest.mark.parametrize(
    ("scheme", "advice"), [("redis", "If it accepts only TLS, set tls."), ("rediss", "speaks TLS.")]
)
def test_check_of_a_server_that_says_nothing(run: Run, scheme: str, advice: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"{scheme}://127.0.0.1:{server.getsockname()[1]}"
        line = failure(run("check", "--url", place, CONNECT_TIMEOUT="0.5"))
    assert line.startswith(
        f"Cannot connect to {place} within connect_timeout = 0.5 s: TimeoutError: no answer in time."
    )
    assert advice in line


def test_check_with_a_wrong_password(run: Run, broker: Any) -> None:
    broker.ask("ACL SETUSER", "someone", "on", ">right", "~*", "&*", "+@all")
    line = failure(run("check", "--url", f"redis://someone:guessed@127.0.0.1:{broker.port}"))
    assert line.endswith("The broker refuses: check user, password and rights.")
    assert "guessed" not in line


def test_check_of_a_replica(run: Run, package: Package, broker: Any, tmp_path: Path) -> None:
    with package.broker(tmp_path / "replica") as replica:
        replica.ask("REPLICAOF", "127.0.0.1", broker.port)
        line = failure(run("check", "--url", replica.url))
    assert line.endswith("is a replica: what is published there reaches no clients of its primary.")


def test_check_without_the_right_to_the_control_topic(run: Run, broker: Any) -> None:
    broker.ask("ACL SETUSER", "private", "on", ">right", "resetchannels", "&PRIVATE/*", "+@all")
    ended = run("check", "--url", f"redis://private:right@127.0.0.1:{broker.port}")
    assert "'CONTROL'" in failure(ended)
    assert "give the user the right to publish and subscribe there" in failure(ended)
    assert "all is well" not in ended.stdout


def test_check_names_each_setting_that_is_wrong(run: Run) -> None:
    ended = run("check", "--url", "http://s3same@host", HEARTBEAT="0", PUBLISH_TIMEOUT="soon")
    assert ended.returncode == 1
    url, timeout, heartbeat = ended.stderr.splitlines()
    assert url.startswith("url = '**********': its scheme is unknown; it must look like redis://")
    assert timeout == "publish_timeout = 'soon': must be a valid number"
    assert heartbeat == "heartbeat = '0': must be greater than 0"
    assert "s3same" not in ended.stderr


def test_check_names_the_variable_of_a_url_that_is_not_set(tmp_path: Path) -> None:
    project = bake(tmp_path, preset="blank", package_name="conn_blank")
    line = failure(run_in(tmp_path, project / "src", "conn_blank", "check"))
    assert line == "url is not set: set CONN_BLANK_URL in the environment, or give --url or --config."


# Configurations


@pytest.mark.parametrize("form", ["yaml", "json", "env"])
def test_a_configuration_that_was_printed_is_taken_and_its_settings_go_before_the_environment(
    run: Run, package: Package, broker: Any, tmp_path: Path, form: str
) -> None:
    printed = run("example-config", "--format", form).stdout
    name = f"{package.name.upper()}_URL" if form == "env" else "url"
    assert f"#{name}" in printed
    for setting in package.module().Settings.model_fields:
        assert re.search(rf"#({package.name.upper()}_)?{setting}\b", printed, re.IGNORECASE), setting
    file = tmp_path / f"printed.{form}"
    file.write_text(printed)
    assert run("check", "--config", file, URL=broker.url).returncode == 0
    file.write_text(printed.replace(f"#{name}", name).replace(":6379", f":{broker.port}", 1))
    assert run("check", "--config", file, URL="redis://127.0.0.1:1").returncode == 0


def test_a_setting_that_has_to_be_given_comes_from_the_environment(tmp_path: Path) -> None:
    project = bake(tmp_path, preset="blank", package_name="conn_blank")
    for form in ("yaml", "json"):
        printed = run_in(tmp_path, project / "src", "conn_blank", "example-config", "--format", form).stdout
        (tmp_path / f"printed.{form}").write_text(printed)
        line = failure(run_in(tmp_path, project / "src", "conn_blank", "check", "--config", f"printed.{form}"))
        assert line == f"printed.{form}: url: the environment has no variable CONN_BLANK_URL"


def test_a_host_reads_its_settings_from_its_own_configuration(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_HOST", "broker-7")
    monkeypatch.setenv("KEYS", "new,old")
    file = tmp_path / "config.yml"
    file.write_text(
        "port: 6020\n"
        "plugins:\n"
        "  logger: {name: winston}\n"
        "  message:\n"
        "    name: redis\n"
        "    options:\n"
        "      url: redis://${REDIS_HOST}:7000\n"
        "      heartbeat: 3\n"
        "      cluster_key: ['${KEYS}', plain]\n"
    )
    settings = package.module().Settings.from_config(file)
    assert settings.where == "redis://broker-7:7000"
    assert settings.heartbeat == 3
    assert settings.cluster_keys == (b"new,old", b"plain")


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("config.yml", "plugins: {message: {name: redis}}", "must have the settings at plugins > message > options"),
        ("config.yml", "url: redis://s3same@host", "must have the settings at plugins > message > options"),
        ("config.yml", "", "must have the settings at plugins > message > options"),
        ("config.json", '{"plugins": {"message": {"options": ["s3same"]}}}', "must have names and values"),
        ("config.yml", "plugins:\n  message: {options: {url: s3same]}}", "line 2: "),
        ("config.yml", "plugins: s3same\x00", "line 1: a character that YAML does not allow"),
        ("config.json", '{"plugins": s3same}', "line 1: Expecting value"),
        ("config.yml", b"plugins: s3same \xff", "is not in UTF-8"),
        ("config.json", '{"plugins": {"message": {"options": {"url": "${NOT_THERE}"}}}}', "no variable NOT_THERE"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_named(
    package: Package, tmp_path: Path, name: str, text: str | bytes, rule: str
) -> None:
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ValueError, match=re.escape(rule)) as raised:
        package.module().Settings.from_config(tmp_path / name)
    assert str(raised.value).startswith(str(tmp_path / name))
    assert "s3same" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.yml", "plugins: {message: {options: {colour: s3same, heartbeat: 0}}}"),
        ("config.json", '{"plugins": {"message": {"options": {"colour": "s3same", "heartbeat": 0}}}}'),
        ("config.env", "{prefix}COLOUR=s3same\n{prefix}HEARTBEAT=0\nSOMETHING_ELSE=1\n"),
    ],
)
def test_each_setting_of_a_configuration_that_is_wrong_is_named(
    run: Run, package: Package, tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text.replace("{prefix}", f"{package.name.upper()}_"))
    ended = run("check", "--config", name)
    assert ended.returncode == 1
    is_env = name.endswith(".env")
    colour = f"{package.name.upper()}_COLOUR" if is_env else "colour"
    assert sorted(ended.stderr.splitlines()) == [
        f"{name}: there is no setting {colour!r}",
        f"heartbeat = {'0' if is_env else 0!r}: must be greater than 0",
    ]
    assert "s3same" not in ended.stderr


def test_a_configuration_that_is_not_there_is_named(run: Run) -> None:
    assert failure(run("check", "--config", "nowhere.yml")) == "nowhere.yml: No such file or directory"


@pytest.mark.parametrize("form", ["yaml", "env"])
def test_each_line_of_an_example_fits_on_a_terminal_unless_a_value_is_longer(run: Run, form: str) -> None:
    lines = run("example-config", "--format", form).stdout.splitlines()
    assert [line for line in lines if len(line) > 79 and line.lstrip().startswith("# ")] == []


def test_an_example_of_which_only_the_beginning_is_read_ends_without_a_complaint(package: Package) -> None:
    command = [sys.executable, "-m", package.name, "example-config"]
    environment = {**os.environ, "PYTHONPATH": str(package.source)}
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(command, env=environment, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, b"")


def test_lines_are_broken_between_words_on_a_terminal(package: Package, tmp_path: Path) -> None:
    url = f"redis://{'a' * 70}.invalid:1"
    lines = on_a_terminal(package.source, package.name, "check", "--url", url)
    assert all(len(line) <= 60 or len(line.split()) == 1 for line in lines)
    assert " ".join(lines).count(f"connect to {url}: ") == 1


# bench


def test_bench_shows_its_progress_and_writes_figures_and_a_picture(run: Run, broker: Any, tmp_path: Path) -> None:
    ended = run("bench", "--output", "found.v2", URL=broker.url)
    assert ended.returncode == 0, ended
    size, meaning, *rounds = ended.stderr.splitlines()
    assert re.fullmatch(r"messages of \d+ bytes \(in JSON\), from one node to another, both in this process", size)
    assert meaning == "in flight: published, and not yet accepted by the broker"
    assert [line.partition(":")[0] for line in rounds] == [
        f"round {turn} of 5, {width:>3} in flight" for turn in range(1, 6) for width in (1, 10, 100)
    ]
    figures = json.loads((tmp_path / "found.v2.json").read_text())
    rates = figures["messages_per_second"]
    assert {width: len(found) for width, found in rates.items()} == {"1": 5, "10": 5, "100": 5}
    assert figures["broker"] == broker.url
    shown = [f"{median(found):,.0f}" for found in rates.values()]
    picture = ElementTree.parse(tmp_path / "found.v2.svg")
    texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    for rate in shown:
        assert rate in ended.stdout
        assert rate in texts


def test_bench_looks_for_the_folder_before_it_measures(run: Run) -> None:
    line = failure(run("bench", "--output", "nowhere/found", "--url", "redis://127.0.0.1:1"))
    assert line == "--output nowhere/found: there is no folder nowhere"


def test_bench_of_a_broker_that_is_not_there_writes_nothing(run: Run, tmp_path: Path) -> None:
    failure(run("bench", "--url", "redis://127.0.0.1:1"))
    assert [*tmp_path.iterdir()] == []
