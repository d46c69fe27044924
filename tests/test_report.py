"""A run of the pack says what it has proved and no more, ends soon when all is lost, and says what is next."""

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from baking import FROM_SOURCE, bake, run, verdicts

TRANSPORT = '''
import asyncio

from .contract import Transport
from .settings import Settings

BUS: dict = {}


class BrokerTransport(Transport[Settings]):
    """Nodes of one process that call each other."""

    async def connect(self):
        pass

    async def publish(self, topic, payload):
        for other in BUS.get(topic, ()):
            asyncio.get_running_loop().call_soon(other.inbox.received, topic, payload)

    async def subscribe(self, topic):
        BUS.setdefault(topic, set()).add(self)

    async def unsubscribe(self, topic):
        BUS.get(topic, set()).discard(self)

    async def ping(self):
        pass

    async def close(self):
        for topic in BUS:
            BUS[topic].discard(self)
'''

BROKER = '''
from .contract.public import Missing, Server


class Broker(Server):
    """No process: nodes call each other."""

    not_applicable = {not_applicable}

    def command(self):
        raise Missing("hazel is not installed: apt-get install hazel")

    def start(self):
        {start}

    def version(self):
        return "hazel 1 | <2>"

    @property
    def url(self):
        return f"memory://127.0.0.1:{{self.port}}"
'''

SETTINGS = """
import pytest

from .broker import Broker
from .subject import Settings


@pytest.fixture(scope="session")
def settings(broker: Broker) -> Settings:
    return Settings(url=broker.url)
"""

MAKE = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> MAKE:
    """Makes a project with a broker of one process, and with these tests in place of the pack's, unless it is None."""

    def make(
        tests: str | None, exceptions: dict[str, str] | None = None, start: str = "pass", transport: str = TRANSPORT
    ) -> Path:
        project = bake(tmp_path, preset="blank", package_name="hazel_msg")
        (project / "src" / "hazel_msg" / "transport.py").write_text(transport)
        (project / "tests" / "broker.py").write_text(BROKER.format(not_applicable=exceptions or {}, start=start))
        (project / "tests" / "settings.py").write_text(SETTINGS)
        if tests is not None:
            for module in (project / "tests" / "contract").glob("test_*.py"):
                if module.name != "test_figures.py":
                    module.unlink()
            (project / "tests" / "test_some.py").write_text(f"import pytest\n\n{tests}")
        return project

    return make


def run_pack(project: Path, *words: str) -> Any:
    """Run a project's tests with this interpreter."""
    return run(sys.executable, "-m", "pytest", *words, cwd=project, environment=FROM_SOURCE, timeout=120)


def last_line(output: str) -> str:
    """The last line, which says what is next."""
    return output.rstrip().splitlines()[-1]


SOME = """
@pytest.mark.clause("M1")
def test_one(given): pass

@pytest.mark.clause("M1", "M2")
def test_two(): pytest.skip("not ours to set up")

@pytest.mark.clause("E3", "E1")
@pytest.mark.simulated("E3")
def test_three(): pass

@pytest.mark.clause("S1")
def test_four(): assert False, "root"

@pytest.mark.clause("S2")
def test_five(): pass

@pytest.mark.clause("S2")
def test_six(): pytest.skip("not applicable: too small")

@pytest.mark.clause("S3")
def test_seven(): assert False
"""
SAID = {
    "M1": "in part",
    "M2": "not run",
    "E3": "holds (simulated)",
    "E1": "holds",
    "S1": "FAILS",
    "S2": "in part",
    "S3": "not applicable",
    "M3": "not run",
}


@pytest.mark.parametrize("words", [(), ("-n", "2")])
def test_each_verdict_means_what_it_says_in_one_process_or_more(make: MAKE, words: tuple[str, ...]) -> None:
    project = make(SOME, {"S3": "it has no clock"})
    ended = run_pack(project, *words)
    assert {clause: word for clause, word in verdicts(ended.stdout).items() if clause in SAID} == SAID, ended.stdout
    assert "(1 of 2 tests; not ours to set up)" in ended.stdout
    assert "(it has no clock)" in ended.stdout
    assert "kept through My Broker on hazel 1" in ended.stdout
    assert ended.returncode == 1
    assert re.fullmatch(r"Next: .*root.*, in tests/test_some.py::test_four\.", last_line(ended.stdout)), ended.stdout


@pytest.mark.parametrize("where", ["marked", "test_broker.py"])
def test_a_real_refusal_ends_the_simulation(make: MAKE, where: str) -> None:
    tests = '@pytest.mark.clause("E3")\n@pytest.mark.simulated("E3")\ndef test_one(): pass\n'
    real = '@pytest.mark.clause("E3")\ndef test_real(): pass\n'
    project = make(tests + ("@pytest.mark.real\n" + real if where == "marked" else ""))
    if where != "marked":
        (project / "tests" / "test_broker.py").write_text(f"import pytest\n\n{real}")
    assert verdicts(run_pack(project).stdout)["E3"] == "holds"


def test_a_missing_broker_is_not_green_and_holds_nothing(make: MAKE) -> None:
    tests = '@pytest.mark.clause("M1")\ndef test_a(given): pass\n@pytest.mark.clause("M1")\ndef test_b(): pass\n'
    project = make(f'{tests}@pytest.mark.clause("M2")\ndef test_c(given): pass\n', start="self.command()")
    ended = run_pack(project)
    assert ended.returncode == 1, ended.stdout
    said = verdicts(ended.stdout)
    assert (said["M1"], said["M2"]) == ("in part", "not run"), ended.stdout
    assert last_line(ended.stdout) == (
        "Next: there is no broker to test with: hazel is not installed: apt-get install hazel; "
        "or set HAZEL_MSG_TEST_URL."
    )


@pytest.mark.parametrize("required", ["0", "1"])
def test_beside_a_broker_at_a_url_a_missing_server_is_red_only_where_brokers_are_required(
    make: MAKE, required: str
) -> None:
    tests = (
        '@pytest.mark.clause("M1")\ndef test_a(given): pass\n@pytest.mark.clause("M2")\ndef test_b(serve): serve()\n'
    )
    project = make(tests, start="self.command()")
    environment = FROM_SOURCE | {"HAZEL_MSG_TEST_URL": "memory://127.0.0.1:1", "REQUIRE_BROKERS": required}
    ended = run(sys.executable, "-m", "pytest", cwd=project, environment=environment, timeout=120)
    assert ended.returncode == int(required), ended.stdout
    assert "a server is missing for some tests: hazel is not installed" in last_line(ended.stdout)


def test_a_selection_says_that_it_is_a_part(make: MAKE) -> None:
    project = make(SOME)
    ended = run_pack(project, "--clause", "E3,S2")
    assert ended.returncode == 0, ended.stdout
    assert "2 passed, 1 skipped" in ended.stdout, ended.stdout
    assert "only a part of the pack ran (--clause E3,S2;" in last_line(ended.stdout)
    assert "only a part of the pack ran (-k five;" in last_line(run_pack(project, "-k", "five").stdout)
    assert "there is no clause M33" in run_pack(project, "--clause", "M33").stdout


NEVER_READY = """
import sys

from .contract import server
from .contract.public import Server

server.READY_WITHIN = 1.0


class Broker(Server):
    url = "memory://127.0.0.1:1"

    def command(self):
        return [sys.executable, "-u", "-c", "print('Loading the queues'); {program}"]

    def is_ready(self):
        while not (self.folder / "server.log").read_text():
            pass
        {is_ready}
"""
SLEEP = "import time; time.sleep(60)"


@pytest.mark.parametrize(
    ("program", "is_ready", "told"),
    [
        (SLEEP, "return False", "Broker did not start: after 1 s, `is_ready` still returned False\n"),
        (SLEEP, "raise OSError('no')", "after 1 s, `is_ready` still raised OSError: no (tests/broker.py:19)\n"),
        (
            SLEEP,
            "raise ValueError('no')",
            "tests/broker.py: Broker did not start: ValueError: no (tests/broker.py:19)\n",
        ),
        (SLEEP, "return [][0]", "an error in tests/broker.py:19: IndexError: list index out of range\n"),
        ("raise SystemExit(3)", "return False", "Broker did not start: its process has ended, with code 3\n"),
    ],
)
def test_a_broker_that_does_not_start_is_told_once_with_its_log_and_every_clause_waits(
    make: MAKE, program: str, is_ready: str, told: str
) -> None:
    project = make(None)
    (project / "tests" / "broker.py").write_text(NEVER_READY.format(program=program, is_ready=is_ready))
    started = time.monotonic()
    output = run_pack(project, "-n", "0").stdout
    assert time.monotonic() - started < 90
    failure = output.partition("short test summary")[0]
    assert failure.count(f"{told}  Its command: ") == 1, output
    assert failure.count("  The last lines of its log:\n    Loading the queues\n") == 1, output
    must_wait(output)
    assert last_line(output).endswith(told.rstrip()), output


def must_wait(output: str) -> None:
    """Fail unless each clause that needs the broker waits for it, and one test has said why."""
    said = verdicts(output)
    assert {said[clause] for clause in ("L2", "L4", "M1", "S1", "E1", "R1", "T1")} == {"waits"}, output
    assert said["L1"] == said["L5"] == "holds", output
    assert re.search(r"^  for the broker: L2 ", output, re.MULTILINE), output
    assert re.search(r" 1 error in ", output), output


@pytest.mark.parametrize(
    ("file", "right", "wrong", "told"),
    [
        (
            "src/hazel_msg/transport.py",
            "async def connect(self):\n        pass",
            "async def connect(self):\n        self.bus.open()",
            r"The tests cannot connect: an error in src/hazel_msg/transport.py:\d+: AttributeError: .* no attribute 'bus'",
        ),
        (
            "src/hazel_msg/transport.py",
            "async def connect(self):\n        pass",
            "async def connect(self):\n        raise OSError('no answer')",
            r"The tests cannot connect, .* no answer.* Raised at src/hazel_msg/transport.py:\d+\.",
        ),
        (
            "src/hazel_msg/transport.py",
            "async def connect(self):\n        pass",
            "async def connect(self):\n        self.file = open(__file__)",
            r"After `close`, something that `connect` has opened is still open: unclosed file .*",
        ),
        (
            "tests/settings.py",
            "broker.url",
            "broker.ulr",
            r"The settings of the tests cannot be made: an error in tests/settings.py:10: AttributeError: .*",
        ),
    ],
)
def test_a_connection_that_cannot_be_tried_is_told_once_and_every_clause_waits(
    make: MAKE, file: str, right: str, wrong: str, told: str
) -> None:
    project = make(None)
    text = (project / file).read_text()
    assert right in text
    (project / file).write_text(text.replace(right, wrong))
    output = run_pack(project, "-n", "0").stdout
    assert len(re.findall(f"^{told}$", output, re.MULTILINE)) == 1, output
    must_wait(output)
    assert re.fullmatch(f"Next: {told}", last_line(output)), output
    assert ("Check that" in output) == ("no answer" in wrong), output


def test_an_error_in_the_transports_code_is_told_first(make: MAKE) -> None:
    tests = """
@pytest.mark.clause("M1")
async def test_one(wire, topic):
    await wire.transport.publish(topic, b"1")
"""
    transport = TRANSPORT.replace("BUS.get(topic, ())", "BUS.gett(topic)")
    output = run_pack(make(tests, transport=transport), "-n", "0").stdout
    fault = r"an error in src/hazel_msg/transport.py:\d+: AttributeError: 'dict' object has no attribute 'gett'"
    assert re.fullmatch(f"Next: {fault}.*, in tests/test_some.py::test_one\\.", last_line(output)), output


def test_a_long_name_does_not_hide_what_was_wrong(make: MAKE) -> None:
    tests = """
from .subject import contract

@pytest.mark.clause("M6")
def test_one():
    raise contract.UnsubscribeError(f"topic {291 * 'x'!r} was refused")
"""
    output = run_pack(make(tests), "-n", "0").stdout
    told = f"UnsubscribeError: topic '{20 * 'x'}…' (291 characters) was refused"
    assert f".{told}\n" in output, output
    assert last_line(output) == f"Next: {told}, in tests/test_some.py::test_one."


def test_next_is_the_open_blank_even_where_a_test_fails(make: MAKE) -> None:
    transport = TRANSPORT.replace("BUS.get(topic, set()).discard(self)", "raise NotImplementedError")
    project = make('@pytest.mark.clause("M1")\ndef test_one(given): assert False\n', transport=transport)
    ended = run_pack(project, "-n", "0")
    assert re.fullmatch(
        r"Next: unsubscribe, at src/hazel_msg/transport.py:\d+\. Then run this again\. "
        r"So far tests/test_some.py::test_one fails, see above\.",
        last_line(ended.stdout),
    ), ended.stdout


@pytest.mark.parametrize("wrong", ["for other in ():", "for other in [await asyncio.sleep(1000)]:"])
def test_a_wrong_transport_is_told_soon_and_the_cause_comes_first(make: MAKE, wrong: str) -> None:
    mute = TRANSPORT.replace("for other in BUS.get(topic, ()):", wrong)
    project = make(None, transport=mute)
    started = time.monotonic()
    ended = run_pack(project)
    assert time.monotonic() - started < 90
    assert ended.returncode != 0
    failed = re.findall(r"^_+ (test_\w+)", ended.stdout, re.MULTILINE)
    assert failed[0] == "test_every_other_subscribed_node_gets_each_message_once", ended.stdout
    assert 1 <= len(failed) <= 10, ended.stdout
    assert "test_every_other_subscribed_node" in last_line(ended.stdout)


HANG = """
import ctypes

def test_hung():
    mutex = ctypes.create_string_buffer(64)
    for _ in range(2):
        ctypes.PyDLL(None).pthread_mutex_lock(mutex)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the mutex of this test is that of Linux")
def test_a_hang_that_keeps_the_interpreter_to_itself_ends_and_is_shown(make: MAKE) -> None:
    project = make(HANG)
    started = time.monotonic()
    ended = run_pack(project, "--timeout", "1")
    assert time.monotonic() - started < 60
    assert ended.returncode != 0
    assert re.search(r'tests/test_some.py", line \d+ in test_hung', ended.stdout), ended.stdout


@pytest.mark.parametrize("order", ["node, serve", "serve, node"])
def test_nodes_close_before_servers_in_any_order_of_fixtures(make: MAKE, order: str) -> None:
    tests = f"""
from .broker import Broker
from .subject import BrokerTransport

TOLD = []

class Telling(Broker):
    def stop(self): TOLD.append("stopped")

async def test_one(monkeypatch, {order}):
    serve(Telling)
    async def close(self): TOLD.append("closed")
    monkeypatch.setattr(BrokerTransport, "close", close)
    await node()

def test_two():
    assert TOLD == ["closed", "stopped"]
"""
    ended = run_pack(make(tests), "-n", "0")
    assert ended.returncode == 0, ended.stdout


def test_a_server_does_not_start_on_the_port_of_another(make: MAKE) -> None:
    tests = """
import socket, sys
from .broker import Broker
from .contract.public import Server

class Real(Broker):
    start = Server.start
    def command(self): return [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(self.port)]

def test_one(tmp_path):
    server = Real(tmp_path)
    with socket.create_server(("127.0.0.1", server.port)):
        with pytest.raises(RuntimeError, match="another program has port"):
            server.start()
    server.start()
    server.stop()
"""
    ended = run_pack(make(tests))
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize(
    ("says", "version"),
    [
        ("etcd Version: 3.4.30\\nGit SHA: 5a1b2c3", "etcd Version: 3.4.30"),
        ("hazel 1.2-rc+3 sha=00:0 bits=64", "hazel 1.2-rc+3"),
        ("hazel of the year", "hazel of the year"),
        ("", "hazel"),
    ],
)
def test_the_version_of_a_server_is_what_its_program_says_up_to_the_number(make: MAKE, says: str, version: str) -> None:
    tests = f"""
from .contract.public import Server

def test_one(tmp_path):
    program = tmp_path / "hazel"
    program.write_text("#!/bin/sh\\nprintf '{says}'\\n")
    program.chmod(0o755)

    class Real(Server):
        url = "memory://127.0.0.1:1"
        def command(self): return [str(program)]

    assert Real(tmp_path).version() == "{version}"
"""
    ended = run_pack(make(tests), "-n", "0")
    assert ended.returncode == 0, ended.stdout


def test_hypothesis_leaves_nothing_in_the_project(make: MAKE) -> None:
    tests = """
from hypothesis import given as each, strategies as st

@each(st.text())
def test_one(text): assert len(text) < 3
"""
    project = make(tests)
    before = {path.name for path in project.iterdir()}
    assert run_pack(project).returncode == 1
    assert {path.name for path in project.iterdir()} == before


def test_the_report_says_it_in_every_form(make: MAKE, tmp_path: Path) -> None:
    tests = SOME.replace("assert False", "pass #") + '\n@pytest.mark.clause("R1")\ndef test_r(): assert False\n'
    project = make(tests, {"S3": "it has no <clock> | *none*", "R1": "never", "E3": "it tells nobody"})
    installed = project / "src" / "hazel_msg-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: hazel_msg\nVersion: 1\nRequires-Dist: pyee>=12\n")
    (installed / "entry_points.txt").write_text("[deepstream.msg]\nhazel = hazel_msg:Connector\n")
    needs_a_proxy = "--deselect=tests/contract/test_figures.py::test_recovery_after_a_cut"
    ended = run_pack(project, "--report", "--junit-xml=junit.xml", needs_a_proxy)
    assert ended.returncode == 0, ended.stdout
    report = json.loads((project / "conformance.json").read_text())
    schema = ("--schemafile", "tests/contract/conformance.schema.json")
    checked = run(sys.executable, "-m", "check_jsonschema", *schema, "conformance.json", cwd=project)
    assert checked.returncode == 0, checked.stdout
    assert report["needless_exceptions"] == ["S3"]
    assert report["simulated"] == []
    assert list(report["clients"]) == ["pyee"]
    said = {clause["id"]: clause for clause in report["clauses"]}
    assert (said["S3"]["verdict"], said["R1"]["verdict"]) == ("in part", "not applicable")
    assert (said["E3"]["verdict"], said["E3"]["remark"]) == ("not applicable", "it tells nobody")
    assert "it worked: remove it from Broker.not_applicable" in said["S3"]["remark"]
    assert all(figure["value"] for figure in report["figures"] if figure["name"] != "recovery_s"), report["figures"]
    page = (project / "CONFORMANCE.md").read_text()
    assert r"hazel 1 \| &lt;2>" in page
    assert r"`S3`: it has no &lt;clock> \| \*none\* **In this run it worked all the same.**" in page
    badge = ElementTree.fromstring((project / "conformance.svg").read_text())
    assert badge.get("height") == "20"
    assert ElementTree.parse(project / "junit.xml").getroot().tag == "testsuites"
