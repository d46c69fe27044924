"""A run: nodes with real connectors, the broker, and the steps of a plan."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

from .broker import Broker, Line, Rule
from .clock import VirtualLoop
from .model import Model
from .nodes import Node
from .plan import HISTORY, Plan
from .subject import NEVER, SimTransport, Subject
from .verdict import Verdict

NOTICE = 0.3
"""Seconds more than a heartbeat that the notice of a silence may take."""

QUIET = 20
"""Heartbeats after which a sender has told its numbers for the last time, and some more."""

PATIENCE = 30
"""Seconds for which no receiver waits longer for a sender that is away alone."""


class World:
    """Everything of one run."""

    def __init__(self, subject: Subject, plan: Plan, loop: VirtualLoop) -> None:
        shape = plan.shape
        self.subject = subject
        self.plan = plan
        self.shape = shape
        self.loop = loop
        self.began = loop.time()
        self.model = Model(
            loop,
            beginnings=shape.control and not shape.retention,
            asks=shape.control and shape.kind == "loses",
            publish_timeout=shape.publish_timeout,
        )
        self.broker = Broker(
            loop,
            random.Random(f"{shape.kind}/{plan.seed}/net"),
            self.model,
            latency=shape.latency,
            strict=shape.strict,
            keeps=shape.kind == "keeps",
            retention=shape.retention,
        )
        self.nodes: dict[str, Node] = {}
        self.jobs: list[asyncio.Task[None]] = []
        self.transports: list[SimTransport] = []
        self.healed = False

    async def run(self) -> None:
        """Follow the plan, heal everything, wait until it is quiet, judge, and close."""
        for step in self.plan.steps:
            await self.until(step.at)
            self.model.note("step", step.what, *map(str, step.values.values()))
            getattr(self, f"do_{step.what}")(**step.values)
        await self.settle()
        alive = [node.name for node in self.nodes.values() if node.is_there]
        shape = self.shape
        self.repairs = shape.kind == "keeps" or (shape.history == "ample" and shape.control)
        Verdict(
            self.model,
            present=[node.name for node in self.nodes.values() if not node.crashed],
            alive=alive,
            repairs=self.repairs and not shape.retention,
            tells=shape.control or shape.last_words,
            last_words=shape.last_words,
        ).judge()
        for name in alive:
            self.nodes[name].check_counters()
        if shape.watches_quiet:
            await asyncio.sleep(QUIET * shape.heartbeat)
            frames = self.broker.frames
            await asyncio.sleep(5 * shape.heartbeat)
            if self.broker.frames != frames:
                self.model.fault(
                    "T4", f"{self.broker.frames - frames} frames in 5 heartbeats, long after the last word"
                )
        await self.close()

    async def until(self, at: float) -> None:
        wait = self.began + at - self.loop.time()
        if wait > 0:
            await asyncio.sleep(wait)

    def later(self, seconds: float, call: Callable[..., object], *args: Any) -> None:
        self.loop.call_later(seconds, call, *args)

    def start(self, job: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.Task(job, loop=self.loop)
        self.jobs.append(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()):
            self.model.fault("?", f"the simulation itself failed: {error!r} in {task.get_coro()!r}")

    async def settle(self) -> None:
        """Wait until all nodes are ready, all publishes settled, and the last gaps have been told."""
        shape = self.shape
        there = [node for node in self.nodes.values() if node.is_there]
        patience = 2 * (shape.connect_timeout + shape.reconnect_delay_max + shape.heartbeat) + shape.publish_timeout + 5
        if not await self.wait_for(lambda: all(node.connector.is_ready for node in there if node.is_there), patience):
            for node in there:
                if node.is_there and not node.connector.is_ready:
                    self.model.fault(
                        "R2", f"{node.name} is not ready {patience:.1f} s after the healing", node=node.name
                    )
        talking = [job for job in self.jobs if not job.done()]
        if talking:
            await asyncio.wait(talking, timeout=60)
        if not await self.wait_for(
            lambda: not any(said.outcome == "waiting" for node in there if node.is_there for said in node.open),
            shape.publish_timeout + 1,
        ):
            self.model.note("some publishes are not settled")
        if shape.last_words:
            await asyncio.gather(*(node.last_words() for node in there if node.is_there))
        await asyncio.sleep(4 * shape.heartbeat + 2)
        for _ in range(200):
            heard = self.model.deliveries
            await asyncio.sleep(shape.heartbeat)
            if heard == self.model.deliveries:
                break

    async def wait_for(self, condition: Callable[[], bool], seconds: float) -> bool:
        end = self.loop.time() + seconds
        while not condition():
            if self.loop.time() > end:
                return False
            await asyncio.sleep(0.02)
        return True

    async def close(self) -> None:
        self.broker.rules.clear()
        for node in self.nodes.values():
            await node.close()
        for transport in self.transports:
            if transport.closed != 1:
                self.model.fault(
                    "L4", f"close() of a transport of {transport.node} was called {transport.closed} times"
                )
        own = {asyncio.current_task(), *self.jobs}
        await asyncio.sleep(0)
        for task in asyncio.all_tasks() - own:
            self.model.fault("L4", f"left after close: {task.get_coro()!r}".split(" at 0x")[0])
        for task in self.jobs:
            if not task.done():
                self.model.fault("L7", f"a call never returned: {task.get_coro()!r}".split(" at 0x")[0])

    def do_come(self, node: str, serialization: str, twin: str, how: str, shards: int) -> None:
        other = self.nodes.get(twin)
        shape = self.shape
        settings = (
            other.settings
            if other
            else self.subject.package.Settings(
                url=f"sim://10.0.0.1:{1000 + len(self.nodes)}",
                serialization=serialization,
                heartbeat=shape.heartbeat,
                publish_timeout=shape.publish_timeout,
                connect_timeout=shape.connect_timeout,
                reconnect_delay_min=shape.reconnect_delay_min,
                reconnect_delay_max=shape.reconnect_delay_max,
                max_pending_messages=shape.max_pending_messages,
                max_history_bytes=HISTORY[shape.history],
                shards=shards,
                **({"cluster_key": "a secret of the cluster"} if shape.cluster_key else {}),
            )
        )
        made = self.nodes[node] = Node(self, node, settings, how)
        if not shape.control:
            self.rule("refuse_publish", node, made.control, NEVER, "refused")
            self.rule("refuse_subscribe", node, made.control, NEVER, "refused")
        self.start(made.arrive())

    def do_listen(self, node: str, topic: str, ear: str, kind: str, cancel: float, key: str | None) -> None:
        if (there := self.nodes.get(node)) and there.is_there:
            self.start(there.listen(topic, ear, kind, cancel, key))

    def do_leave(self, ear: str, cancel: float) -> None:
        node = self.nodes.get(ear.partition(".")[0])
        if node and node.is_there:
            self.start(node.leave(ear, cancel))

    def do_say(
        self, node: str, topic: str, count: int, gap: float, size: int, how: str, keys: tuple[str | None, ...]
    ) -> None:
        if (there := self.nodes.get(node)) and there.is_there:
            self.start(there.say(topic, count, gap, size, how, keys))

    def do_go(self, node: str, cancel: float) -> None:
        if (there := self.nodes.get(node)) and there.is_there:
            self.start(there.go(cancel))

    def do_crash(self, node: str, notices: float) -> None:
        if (there := self.nodes.get(node)) and there.is_there:
            there.crashed = True
            self.rule("refuse_connect", node, None, NEVER, "hang")
            for line in self.broker.of(node):
                line.kill()
                self.later(notices, self.broker.drop, line)

    def do_cut(self, node: str | None, node_notices: float, broker_notices: float) -> None:
        for line in self.broker.of(node):
            self.broker.cut(line, node_notices, broker_notices)
            self.expect_notice(line)

    def expect_notice(self, line: Line) -> None:
        """Have it looked at a heartbeat later whether the node has noticed that a connection is silent."""
        self.later(self.shape.heartbeat + NOTICE, self.check_notice, line, self.loop.time(), self.loop.blocked)

    def check_notice(self, line: Line, since: float, blocked: float) -> None:
        node = self.nodes[line.node]
        left = self.loop.blocked - blocked
        if left > 0:
            self.later(left, self.check_notice, line, since, self.loop.blocked)
        elif not (line.peer.gone or line.spoke > since or node.closing or node.crashed) and node.connector.is_ready:
            took = self.loop.time() - since
            node.fault(
                "R1", f"a silent connection is not noticed after {took:.2f} s, heartbeat is {self.shape.heartbeat} s"
            )

    def do_silence(self, node: str | None, direction: str, span: float, ends: str) -> None:
        for line in self.broker.of(node):
            line.hush(direction, True)
            self.expect_notice(line)
            self.later(span, self.end_silence, line, direction, ends)

    def end_silence(self, line: Line, direction: str, ends: str) -> None:
        if ends == "reset":
            self.broker.cut(line, 0, 0)
        else:
            line.hush(direction, False)

    def do_refuse(self, request: str, node: str | None, topic: str | None, how: str, span: float) -> None:
        if node and request == "connect" and span > PATIENCE:
            self.model.limited.add(node)
        self.rule(f"refuse_{request}", node, topic, span, how)

    def do_restart(self, span: float, apart: float) -> None:
        self.broker.is_down = True
        self.do_cut(None, 0.001, 0)
        self.later(span, self.come_up, apart)

    def come_up(self, apart: float) -> None:
        self.broker.is_down = False
        for name in self.nodes:
            self.rule("refuse_connect", name, None, self.broker.chance.uniform(0, apart), "error")

    def do_slow(self, node: str, rate: float, limit: float, span: float) -> None:
        self.rule("slow", node, None, span, limit=limit, rate=rate)
        for line in self.broker.of(node):
            line.troubled = True
            line.down.slow_down(rate, self.loop.time() + span)

    def do_frames(self, node: str | None, topic: str | None, span: float, **shares: float) -> None:
        self.rule("frames", node, topic, span, "", **shares)

    def do_late(self, node: str, share: float, delay: float, span: float) -> None:
        self.rule("late", node, None, span, share=share, delay=delay)

    def do_block(self, seconds: float) -> None:
        self.loop.block(seconds)

    def do_frame_limit(self, node: str, bytes: float, span: float) -> None:
        self.model.limited.add(node)
        self.rule("frame_limit", node, None, span, bytes=bytes)

    def do_close_hangs(self, node: str | None, seconds: float, span: float) -> None:
        self.rule("close_hangs", node, None, span, seconds=seconds)

    def rule(self, what: str, node: str | None, topic: str | None, span: float, how: str = "", **values: float) -> None:
        self.broker.rules.append(Rule(what, node, topic, self.loop.time() + span, how, values))

    def do_heal(self) -> None:
        """End every fault that is in force; what is dead is noticed now."""
        self.healed = True
        self.broker.is_down = False
        self.broker.rules = [rule for rule in self.broker.rules if rule.until > self.loop.time() + NEVER / 2]
        for line in self.broker.of(None):
            if line.up.dead or line.up.silent or line.down.silent or line.down.slow_until > self.loop.time():
                self.broker.cut(line, 0, 0)
        for node in self.nodes.values():
            node.patient = False
