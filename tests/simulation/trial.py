"""One seed, from its plan to its result."""

import asyncio
import gc
import hashlib
import logging
import traceback
from dataclasses import dataclass, field

from .clock import Deadlock, Hung, Livelock, VirtualLoop, seeded, watched
from .faults import draw
from .story import tell
from .subject import Subject
from .world import World

WATCHDOG = 60.0
"""Real seconds that one seed may take."""


@dataclass
class Result:
    """What one seed gave."""

    seed: int
    kind: str
    faults: list[str] = field(default_factory=list)
    story: str = ""
    planned: tuple[str, ...] = ()
    messages: int = 0
    deliveries: int = 0
    lost: int = 0
    repaired: int = 0
    seconds: float = 0.0
    digest: str = ""


class _Logged(logging.Handler):
    """Collects what a package logs as an error: nothing must be."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def run_seed(subject: Subject, seed: int, kind: str, *, full: bool = False) -> Result:
    """Run one seed; `full` puts the whole trace into the story."""
    plan = draw(seed, kind)
    logged = _Logged()
    logger = logging.getLogger(subject.name)
    logger.propagate, logger.handlers = False, [logged]
    with seeded(f"{kind}/{seed}"):
        loop = VirtualLoop()
        asyncio.set_event_loop(loop)
        world = World(subject, plan, loop)
        model = world.model
        loop.set_exception_handler(lambda _, context: model.fault("E2", f"the loop was told: {_words(context)}"))
        try:
            with watched(WATCHDOG):
                loop.run_until_complete(world.run())
        except Hung as error:
            where = "; ".join(f"{frame.name} in {frame.filename}:{frame.lineno}" for frame in _innermost(error))
            model.fault("?", f"{error}: {where}")
        except (Deadlock, Livelock) as error:
            model.fault("L7", f"the run came to a standstill: {error}")
        except Exception as error:
            model.fault("?", f"the simulation itself failed: {error!r}")
            if full:
                raise
        else:
            for timer in loop.pending_timers():
                model.fault("L4", f"left after close: a timer for {timer}")
        began, ended = world.began, loop.time()
        stats = [node.connector.stats() for node in world.nodes.values()]
        result = Result(seed, kind, planned=plan.faults, seconds=ended - began, deliveries=model.deliveries)
        remains = [left for node in world.nodes.values() for left in node.remains()]
        del world
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.set_exception_handler(lambda _, context: None)
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
        loop.timers.clear()
        asyncio.set_event_loop(None)
        gc.collect()
        alive = [left() for left in remains if left() is not None]
        if alive:
            model.fault("L4", f"not released after close: {', '.join(sorted({type(each).__name__ for each in alive}))}")
    for line in logged.lines:
        model.fault("E2", f"logged as an error: {line[:200]}")
    result.messages = sum(map(len, model.said.values()))
    result.lost = sum(model.reported.values())
    result.repaired = sum(each.get("repaired", 0) for each in stats)
    result.faults = [str(fault) for fault in model.faults]
    result.digest = hashlib.sha256(repr(model.trace).encode()).hexdigest()
    if model.faults or full:
        result.story = tell(plan, model, began, full=full)
    return result


def _innermost(error: BaseException) -> list[traceback.FrameSummary]:
    return list(reversed(traceback.extract_tb(error.__traceback__)))[1:6]


def _words(context: dict[str, object]) -> str:
    return f"{context.get('message')}: {context.get('exception')!r}"
