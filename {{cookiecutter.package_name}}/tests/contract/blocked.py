"""Programs without an event loop, which use a connector as scripts, web servers and task queues do.

    python blocked.py PACKAGE ends TOPIC
    python blocked.py PACKAGE forks TOPIC
    python blocked.py PACKAGE forks-late TOPIC

The connector's settings come from the environment. With `ends`, the program is over as soon as all is accepted. With
`forks`, it forks twice: by `os.fork`, and by `multiprocessing`; with `forks-late`, it does so when the connector is in
use. Each process publishes lists of its name and of a number, from 0 on, and then ends as its kind does.
"""

import importlib
import multiprocessing
import os
import sys
from typing import Any

MESSAGES = 100


def speak(connector: Any, topic: str, name: str) -> None:
    """Publish all messages, without waiting for any."""
    for number in range(MESSAGES):
        connector.publish_nowait(topic, [name, number])


def main(package: str, what: str, topic: str) -> None:
    """Run until all processes have ended."""
    module = importlib.import_module(package)
    connector = module.BlockingConnector(module.Settings())
    if what == "ends":
        speak(connector, topic, "parent")
        return
    if what == "forks-late":
        connector.publish(topic, ["early", 0])
    child = os.fork()
    if not child:
        speak(connector, topic, "forked")
        sys.exit()
    process = multiprocessing.get_context("fork").Process(target=speak, args=(connector, topic, "multiprocessing"))
    process.start()
    process.join()
    _, status = os.waitpid(child, 0)
    assert (status, process.exitcode) == (0, 0)
    speak(connector, topic, "parent")


if __name__ == "__main__":
    main(*sys.argv[1:])
