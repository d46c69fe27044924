"""The example runs in a browser: two tabs on two nodes, the broker killed in between, and nothing is lost."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from baking import ROOT
from hosting import PATIENCE, Package
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

EXAMPLE = ROOT / "examples" / "cluster"
NODES = ("node 1", "node 2", "node 3")

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


def free_ports(count: int) -> int:
    """Return the first of so many ports, one after another, that are free."""
    while True:
        first = random.randrange(10_000, 32_000)
        with ExitStack() as stack, suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


def begun(port: int | str, **how: Any) -> "subprocess.Popen[str]":
    """Return the process of the example, which begins."""
    command = [sys.executable, str(EXAMPLE / "cluster.py"), str(port)]
    return subprocess.Popen(command, stderr=subprocess.STDOUT, text=True, **how)


@pytest.fixture
def first_port(package: Package, tmp_path: Path) -> Iterator[int]:
    """Run the example; return the port of its first node."""
    port = free_ports(4)
    with (tmp_path / "log").open("wb") as log:
        process = begun(port, stdout=log, env={**os.environ, "PYTHONPATH": str(package.source)})
    try:
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


@pytest.fixture
def browser() -> Iterator[Chrome]:
    if not (BROWSER and DRIVER) and os.environ.get("REQUIRE_BROKERS") != "1":
        pytest.skip("there is no browser with its driver: Debian's are chromium and chromium-driver")
    assert BROWSER, "chromium is missing"
    options = ChromeOptions()
    options.binary_location = BROWSER
    for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1300,900"):
        options.add_argument(option)
    browser = Chrome(options, Service(DRIVER))
    try:
        yield browser
    finally:
        browser.quit()


class Tab:
    """A tab with the page of one node."""

    def __init__(self, browser: Chrome, url: str) -> None:
        self._browser = browser
        browser.switch_to.new_window("tab")
        self._handle = browser.current_window_handle
        self.until(lambda: self._opens(url), "the node serves its page")

    def _opens(self, url: str) -> bool:
        with suppress(Exception):  # the node has not started yet
            self._browser.get(url)
        return bool(self.all("#me"))

    def all(self, selector: str) -> list[str]:
        """Return the texts of all elements, scrolled out of sight or not."""
        self._browser.switch_to.window(self._handle)
        script = "return [...document.querySelectorAll(arguments[0])].map(each => each.textContent)"
        texts: list[str] = self._browser.execute_script(script, selector)
        return texts

    def of(self, node: str, selector: str) -> list[str]:
        """Return the texts of elements in a node's column."""
        return self.all(f'[data-node="{node}"] {selector}')

    def find(self, selector: str) -> Any:
        self._browser.switch_to.window(self._handle)
        return self._browser.find_element(By.CSS_SELECTOR, selector)

    def say(self, text: str) -> None:
        self.find("input[name=text]").send_keys(f"{text}\n")

    def write(self, value: str) -> None:
        """Write the record of the title."""
        self.find("[data-record=title]").clear()
        self.find("[data-record=title]").send_keys(value)
        self.find("input[name=text]").click()

    @property
    def title(self) -> str:
        value: str = self.find("[data-record=title]").get_property("value")
        return value

    def until_all_are(self, state: str) -> None:
        """Return when all nodes are `ready`, or `away` from the broker."""
        self.until(lambda: len(self.all(f"section.{state}")) == len(NODES), f"all nodes are {state}")

    def until_all_have_heard(self, *texts: str) -> None:
        """Return when the lists of all nodes are the same, and these texts are in them."""

        def have_heard() -> bool:
            first, *others = (sorted(self.of(node, "li")) for node in NODES)
            return all(other == first for other in others) and {*texts} <= {line.split(": ")[1] for line in first}

        self.until(have_heard, f"all nodes have heard the same, {texts} among it")

    def until(self, condition: Callable[[], object], wanted: str) -> None:
        WebDriverWait(self._browser, PATIENCE, 0.1).until(lambda _: condition(), wanted)


def test_two_tabs_on_two_nodes_miss_nothing_while_the_broker_is_killed(browser: Chrome, first_port: int) -> None:
    places = f"127.0.0.1:{first_port}", f"localhost:{first_port + 1}"
    tabs = [Tab(browser, f"http://{place}/") for place in places]
    here, there = tabs
    for tab, node in zip(tabs, NODES, strict=False):
        tab.until_all_are("ready")
        assert tab.all("#me") == [node]

    here.say("before")
    here.write("spring")
    there.until(lambda: "node 1 #1: before" in there.of("node 2", "li"), "the other node hears it")
    there.until(lambda: there.title == "spring", "the record is in step")
    people = [f"{tab.all('#person')[0]} ({node})" for tab, node in zip(tabs, NODES, strict=False)]
    here.until(lambda: here.of("node 1", ".people") == ["; ".join(people)], "both are here")

    there.find("#talk").click()
    here.until(lambda: any("node 3 #20: tick" in text for text in here.of("node 1", "li")), "all nodes talk")
    here.find("#kill").click()
    there.until_all_are("away")
    here.say("here, without the broker")
    there.say("there, without the broker")
    there.write("summer")
    assert not any("there, without" in text for text in here.of("node 1", "li"))
    here.until_all_are("ready")
    there.find("#talk").click()

    for tab in tabs:
        tab.until_all_have_heard("before", "here, without the broker", "there, without the broker")
        for node in NODES:
            assert tab.of(node, ".missing") == tab.of(node, ".twice") == ["0"]
            assert tab.of(node, "[data-counter=lost]") == ["lost0"]
            assert tab.of(node, "[data-counter=reconnects]") == ["reconnects1"]
            assert "title = summer" in tab.of(node, ".records")[0]
    assert here.title == there.title == "summer"


def test_a_port_that_is_taken_is_named() -> None:
    first = free_ports(4)
    with socket.create_server(("127.0.0.1", first + 2)):
        process = begun(first, stdout=subprocess.PIPE)
        printed, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert f"('127.0.0.1', {first + 2})" in printed
    assert "Open" not in printed
    assert "Traceback" not in printed


def test_a_broker_that_is_killed_again_while_it_is_away_comes_back() -> None:
    first = free_ports(4)
    process = begun(first, stdout=subprocess.PIPE)  # its nodes, which need the package, may end
    assert process.stdout

    def until_the_broker_runs() -> None:
        while True:
            assert process.poll() is None, "the example has ended"
            with suppress(ConnectionRefusedError):
                return socket.create_connection(("127.0.0.1", first + len(NODES))).close()
            time.sleep(0.05)

    try:
        until_the_broker_runs()
        process.send_signal(signal.SIGUSR1)
        assert any("The broker comes back" in line for line in process.stdout), "the example says so"
        process.send_signal(signal.SIGUSR1)
        until_the_broker_runs()
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


@pytest.mark.parametrize("port", ["here", "65534"])
def test_a_port_that_is_none_is_told(port: str) -> None:
    process = begun(port, stdout=subprocess.PIPE)
    printed, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "port" in printed or port in printed
    assert "Traceback" not in printed


def test_the_example_is_short() -> None:
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in EXAMPLE.glob("*.py")) < 200
