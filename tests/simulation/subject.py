"""The baked package under test, and the transport that joins it to the simulated broker."""

import asyncio
import importlib
import sys
import types
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from .broker import REQUEST_BYTES, Broker, Line

NEVER = 1e9


class Subject:
    """One baked project; it is loaded from its folder, once in a process."""

    def __init__(self, project: Path) -> None:
        source = str(project / "src")
        if source not in sys.path:
            sys.path.insert(0, source)
        name = next(each.parent.name for each in sorted((project / "src").glob("*/contract")))
        self.package: Any = importlib.import_module(name)
        self.contract: Any = importlib.import_module(f"{name}.contract")
        self.errors: Any = importlib.import_module(f"{name}.contract.errors")
        self.name = name

    def refusal(self, what: str) -> Exception:
        """Return the error by which a transport says that the broker refused."""
        text = "the broker says no"
        if what == "connect":
            error: Exception = self.errors.ConnectError(text, refused=True)
        else:
            error = getattr(self.errors, f"{what.capitalize()}RefusedError")(text)
        return error

    def connector(self, settings: Any, broker: Broker, node: str, transports: list["SimTransport"]) -> Any:
        """Make a connector of `node` whose transports lead to `broker`, and are noted in `transports`."""
        facts = {"broker": broker, "node": node, "subject": self, "all": transports, "keeps_messages": broker.keeps}
        transport = types.new_class(
            "Simulated", (SimTransport, self.contract.Transport), exec_body=lambda space: space.update(facts)
        )
        connector = types.new_class(
            "Connector", (self.package.Connector,), exec_body=lambda space: space.update(transport_class=transport)
        )
        return connector(settings)


class SimTransport:
    """The blanks, filled in for the simulated broker."""

    broker: Broker
    node: str
    subject: Subject
    all: "list[SimTransport]"
    settings: Any
    inbox: Any

    def __init__(self, settings: Any, inbox: Any) -> None:
        super().__init__(settings, inbox)  # type: ignore[call-arg]
        self.line: Line | None = None
        self.closed = 0
        self.gone = False
        self._number = 0
        self._waiting: dict[int, asyncio.Future[object]] = {}
        self._kind = int(self.node[-1]) % 3
        self._receipts: dict[int, Any] = {}
        self.all.append(self)

    @property
    def _positions(self) -> dict[str, Any]:
        places: dict[str, Any] = self.inbox.topic_memory
        return places

    async def connect(self) -> None:
        broker, node = self.broker, self.node
        refused = broker.rule("refuse_connect", node)
        if refused and refused.how == "hang":
            await asyncio.sleep(NEVER)
        await asyncio.sleep(broker.chance.uniform(*broker.latency))
        if refused and refused.how == "refused":
            raise self.subject.refusal("connect")
        if refused or broker.is_down:
            raise ConnectionRefusedError("nobody listens there")
        self.line = broker.open(node, self)
        if limit := broker.rule("frame_limit", node):
            self.max_frame_bytes = int(limit.values["bytes"])
        await self._ask("ping", "")

    def publish(self, topic: str, payload: bytes) -> Awaitable[None]:
        """Publish as a coroutine, with a future, or with a receipt: by one in three nodes each."""
        if self._kind == 0:
            return self._publish(topic, payload)
        if self._kind == 2:
            return asyncio.ensure_future(self._publish(topic, payload))
        self._number += 1
        self._send("publish", topic, payload)
        receipt = self._receipts[self._number] = self.subject.contract.Receipt()
        return receipt  # type: ignore[no-any-return]

    async def _publish(self, topic: str, payload: bytes) -> None:
        await self._ask("publish", topic, payload)

    async def subscribe(self, topic: str) -> None:
        start = await self._ask("subscribe", topic, position=self._positions.get(topic, -1))
        if self.broker.keeps:
            self._positions.setdefault(topic, start)

    async def unsubscribe(self, topic: str) -> None:
        await self._ask("unsubscribe", topic)

    async def ping(self) -> None:
        await self._ask("ping", "")

    async def close(self) -> None:
        self.closed += 1
        if self.line is not None:
            self.gone = True
            self.line.up.send("", REQUEST_BYTES, self.broker.drop, self.line)
        if hanging := self.broker.rule("close_hangs", self.node):
            await asyncio.sleep(hanging.values["seconds"])

    async def _ask(self, what: str, topic: str, payload: bytes = b"", position: int = -1) -> object:
        self._number += 1
        number = self._number
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(what, topic, payload, position)
            result = await future
        finally:
            del self._waiting[number]
        if error := self._error(what, result):
            raise error
        return result

    def _send(self, what: str, topic: str, payload: bytes, position: int = -1) -> None:
        if self.line is None or self.gone:
            raise ConnectionError("the connection is gone")
        key, size = topic if what != "ping" else "", REQUEST_BYTES + len(payload)
        self.line.up.send(key, size, self.broker.ask, self.line, self._number, what, topic, payload, position)

    def _error(self, what: str, result: object) -> Exception | None:
        if result == "refused":
            return self.subject.refusal(what)
        return RuntimeError(result) if isinstance(result, str) else None

    def frame(self, topic: str, payload: bytes, position: int) -> None:
        if self.gone:
            return
        if position >= 0:
            self._positions[topic] = position + 1
        self.inbox.received(topic, payload)

    def answer(self, number: int, result: object) -> None:
        if receipt := self._receipts.pop(number, None):
            receipt.settle(self._error("publish", result))
            return
        future = self._waiting.get(number)
        if future is not None and not future.done():
            future.set_result(result)

    def lost(self, error: Exception) -> None:
        if self.gone:
            return
        self.gone = True
        self.inbox.lost(error)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error)
        receipts, self._receipts = self._receipts, {}
        for receipt in receipts.values():
            receipt.settle(error)
