"""Programs without an event loop, which use a connector like scripts, web servers and task queues.

    python blocked.py PACKAGE PROGRAM TOPIC

The connector's settings come from the environment. `PROGRAMS` has what they do. They publish lists of a name and of a
number, from 0 on for each name, and then end as their kind does.
"""

import atexit
import importlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.util import Finalize
from pathlib import Path
from types import FrameType
from typing import Any

MESSAGES = 100


def speak(connector: Any, topic: str, name: str) -> None:
    """Publish all messages, without waiting for any."""
    for number in range(MESSAGES):
        connector.publish_nowait(topic, [name, number])


def end(connector: Any, topic: str) -> None:
    """End when all is accepted, with an exit handler that was registered earlier, and comes too late."""
    atexit.register(publish_late, connector, topic)
    speak(connector, topic, "parent")


def publish_late(connector: Any, topic: str) -> None:
    """Publish, or print that the connector is closed."""
    try:
        connector.publish_nowait(topic, ["late", 0])
    except connector.connector_class.errors.ClosedError:
        print("closed")


def end_while_closing(connector: Any, topic: str) -> None:
    """End as `end_closed` does when another thread has called `close`, and waits for it."""
    end_closed(connector, topic, lambda: threading.Thread(target=connector.close, daemon=True).start())


def end_while_closing_itself(connector: Any, topic: str) -> None:
    """End as `end_closed` does when the connector's own thread has called `close`."""
    end_closed(connector, topic, connector.close)


def end_closed(connector: Any, topic: str, close: Callable[[], object]) -> None:
    """Publish, call `close` on the connector's thread, which then waits for the exit, and end as soon as it is closed.

    Print how much was accepted, and, when the connector's exit handler has returned, how much is settled.
    """
    settled: list[object] = []
    is_ending = threading.Event()

    async def close_and_wait(_: object) -> None:
        close()
        is_ending.wait()

    atexit.register(lambda: print(len(settled)))
    with suppress(connector.connector_class.errors.ClosedError):
        for accepted in itertools.count():
            connector.publish_nowait(topic, ["parent", accepted], settled.append)
            if accepted == MESSAGES:
                atexit.register(is_ending.set)
                connector.submit(close_and_wait)
    print(accepted)


def drop(connector: Any, topic: str) -> None:
    """Forget connectors that have something to send."""
    for number in range(3):
        type(connector)(connector.connector_class.Settings()).publish_nowait(topic, ["dropped", number])


def speak_last(connector: Any, topic: str, name: str) -> None:
    """Publish all messages in a `multiprocessing` process, with a finalizer that comes too late."""
    Finalize(None, publish_late, (connector, topic), exitpriority=-1)
    speak(connector, topic, name)


def fork(connector: Any, topic: str) -> None:
    """Fork twice: with `os.fork`, and with `multiprocessing`."""
    child = os.fork()
    if not child:
        speak(connector, topic, "forked")
        sys.exit()
    process = multiprocessing.get_context("fork").Process(target=speak_last, args=(connector, topic, "multiprocessing"))
    process.start()
    process.join()
    _, status = os.waitpid(child, 0)
    assert (status, process.exitcode) == (0, 0)
    speak(connector, topic, "parent")


def fork_late(connector: Any, topic: str) -> None:
    """Fork when the connector is in use."""
    connector.publish(topic, ["early", 0])
    fork(connector, topic)


def begin_late(connector: Any, topic: str) -> None:
    """Publish for the first time when the target of a `multiprocessing` process has returned; print how much is accepted."""

    def publish() -> None:
        threading.main_thread().join()
        with suppress(connector.connector_class.errors.ClosedError):
            speak(connector, topic, "late")
            print(MESSAGES)

    def target() -> None:
        threading.Thread(target=publish).start()

    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    process.join()
    assert process.exitcode == 0


def interrupt(connector: Any, topic: str) -> None:
    """Publish while a signal interrupts each line once; print how many messages its handler has published.

    Then publish until another handler closes the connector.
    """
    ours = str(Path(sys.modules[type(connector).__module__].__file__ or "").parent)
    lines: set[tuple[object, int]] = set()
    published = itertools.count()
    is_running = False

    def handle(*_: object) -> None:
        connector.publish_nowait(topic, ["handler", next(published)])
        connector.publish(topic, ["handler", next(published)])

    def trace(frame: FrameType, *_: object) -> Any:
        line = frame.f_code, frame.f_lineno
        # At first, only in the package: whoever starts a thread holds a lock of the standard library for a moment.
        if line not in lines and (is_running or frame.f_code.co_filename.startswith(ours)):
            lines.add(line)
            signal.raise_signal(signal.SIGALRM)
        return trace

    signal.signal(signal.SIGALRM, handle)
    sys.settrace(trace)
    for number in range(MESSAGES):
        (connector.publish, connector.publish_nowait)[number % 2](topic, ["parent", number])
        is_running = True
    sys.settrace(None)
    print(next(published))

    signal.signal(signal.SIGALRM, lambda *_: connector.close())
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    with suppress(connector.connector_class.errors.ClosedError):
        for number in itertools.count(MESSAGES):
            connector.publish_nowait(topic, ["parent", number])


def interrupt_exit(connector: Any, topic: str) -> None:
    """Be interrupted, as by Ctrl-C, as soon as the exit waits until all is sent."""

    def interrupt_then() -> None:
        with suppress(connector.connector_class.errors.ClosedError):
            while True:
                connector.publish_nowait(topic, ["parent", 0])
                time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    atexit.register(os._exit, 0)  # after the connector's: native code may not survive that its thread is cut off
    connector.publish_nowait(topic, ["parent", 0])
    threading.Thread(target=interrupt_then, daemon=True).start()


PROGRAMS = {
    program.__name__: program
    for program in [
        begin_late,
        drop,
        end,
        end_while_closing,
        end_while_closing_itself,
        fork,
        fork_late,
        interrupt,
        interrupt_exit,
    ]
}


def main(package: str, program: str, topic: str) -> None:
    """Run until all processes have ended."""
    module = importlib.import_module(package)
    PROGRAMS[program](module.BlockingConnector(module.Settings()), topic)


if __name__ == "__main__":
    main(*sys.argv[1:])
