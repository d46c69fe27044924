"""`python -m` with a package's name: what it prints, what it says when a broker does not work, and how it exits."""

import json
import os
import re
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any
from xml.etree import ElementTree

import pytest
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


# check


def test_check_says_where_it_is_and_how_long_a_message_takes(run: Run, broker: Any) -> None:
    ended = run("check", "--url", f"redis://localhost:{broker.port}")
    assert ended.returncode == 0, ended
    leads, connected, takes, well = ended.stdout.splitlines()
    assert leads.startswith("localhost leads to ")
    assert "127.0.0.1" in leads
    assert connected == f"connected to redis://localhost:{broker.port}"
    assert " ms (" in takes
    assert well == "all is well"
    assert ended.stderr == ""


def test_check_takes_the_url_from_the_environment(run: Run, broker: Any) -> None:
    assert run("check", URL=broker.url).returncode == 0


def test_check_of_a_port_where_nobody_listens(run: Run) -> None:
    line = failure(run("check", "--url", "redis://127.0.0.1:1"))
    assert line.startswith("Cannot connect to redis://127.0.0.1:1: ConnectionRefusedError")
    assert line.endswith("Nothing listens there: check host and port in the url, and that the broker runs.")


def test_check_of_a_name_that_is_not_known(run: Run) -> None:
    line = failure(run("check", "--url", "redis://broker.invalid", CONNECT_TIMEOUT="20"))
    assert line.endswith("No address is known for this host: check its name in the url.")


@pytest.mark.parametrize(
    ("scheme", "advice"), [("redis", "If it takes TLS alone, set tls."), ("rediss", "speaks TLS.")]
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
    lines = ended.stderr.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["url", "publish_timeout", "heartbeat"]
    assert "must look like redis://" in lines[0]
    assert "'soon'" in lines[1]
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
        ("config.json", '{"plugins": {"message": {"options": {"url": "${NOT_THERE}"}}}}', "no variable NOT_THERE"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_named(
    package: Package, tmp_path: Path, name: str, text: str, rule: str
) -> None:
    (tmp_path / name).write_text(text)
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
    assert sorted(line.split()[0].lower().removeprefix(f"{package.name}_") for line in ended.stderr.splitlines()) == [
        "colour",
        "heartbeat",
    ]
    assert "s3same" not in ended.stderr


def test_a_configuration_that_is_not_there_is_named(run: Run) -> None:
    assert "'nowhere.yml'" in failure(run("check", "--config", "nowhere.yml"))


# bench


def test_bench_shows_its_progress_and_writes_figures_and_a_picture(run: Run, broker: Any, tmp_path: Path) -> None:
    ended = run("bench", "--output", "found", URL=broker.url)
    assert ended.returncode == 0, ended
    assert [line.partition(":")[0] for line in ended.stderr.splitlines()] == [
        f"round {turn} of 5, {width:>3} in flight" for turn in range(1, 6) for width in (1, 10, 100)
    ]
    figures = json.loads((tmp_path / "found.json").read_text())
    rates = figures["messages_per_second"]
    assert {width: len(found) for width, found in rates.items()} == {"1": 5, "10": 5, "100": 5}
    assert figures["broker"] == broker.url
    shown = [f"{median(found):,.0f}" for found in rates.values()]
    picture = ElementTree.parse(tmp_path / "found.svg")
    texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    for rate in shown:
        assert rate in ended.stdout
        assert rate in texts


def test_bench_of_a_broker_that_is_not_there_writes_nothing(run: Run, tmp_path: Path) -> None:
    failure(run("bench", "--url", "redis://127.0.0.1:1"))
    assert [*tmp_path.iterdir()] == []
