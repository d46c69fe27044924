"""The identity of a node: drawn once for each process and event loop."""

import asyncio
import os


def draw() -> bytes:
    """Return 16 random bytes that no other node has."""
    return os.urandom(16)


class Identity:
    """The sender id of a node, and the process and the event loop that it belongs to."""

    def __init__(self) -> None:
        self.sender = draw()
        self.loop = asyncio.get_running_loop()
        self._process = os.getpid()

    def check(self) -> None:
        """Raise `RuntimeError` in any other process, event loop or thread."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is self.loop:  # which does not run in a child process
            return
        if os.getpid() != self._process:
            place = "the process that this one was forked from"
        elif loop is None:
            place = "an event loop, and was called from outside it"
        else:
            place = "another event loop"
        raise RuntimeError(
            f"This connector belongs to {place}. Create one connector per process and event loop, or use "
            "BlockingConnector, which may be called from anywhere; asyncio.run_coroutine_threadsafe also works."
        )


class NodeName:
    """A random node name, drawn at its first use, and again in a child process."""

    def __init__(self) -> None:
        self._process = 0
        self._name = ""

    def get(self) -> str:
        """Return the name."""
        if self._process != os.getpid():
            self._process, self._name = os.getpid(), draw().hex()
        return self._name
