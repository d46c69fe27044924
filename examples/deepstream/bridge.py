"""A bridge to deepstream servers of version 2 and their own connector, `deepstream.io-msg-redis`.

`python bridge.py OLD_REDIS_URL`; the settings of the connector say where the new cluster is. Events go both ways.
"""

import asyncio
import json
import logging
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Any
from uuid import uuid4

from deepstream_msg_redis import Connector, Settings, Topic
from node import EMIT, Code, Message, data_of, to_text
from redis import exceptions
from redis.asyncio import Redis

OLD_EVENTS = "E"
"""The channel of events, and their topic in the messages."""
OLD_EMIT = "EVT"

SILENCE = 5.0
"""Seconds within which a silent connection to Redis is noticed."""
PAUSE = 0.2
"""Seconds between two attempts."""

logger = logging.getLogger("bridge")


class OldWire:
    """The wire of the old connector: a message is a JSON object, in which `_s` names the sender. It has no numbers."""

    def __init__(self, url: str) -> None:
        self._id = f"bridge-{uuid4().hex}"
        self._redis = Redis.from_url(url, socket_timeout=SILENCE, socket_connect_timeout=SILENCE)

    async def aclose(self) -> None:
        await self._redis.aclose()

    async def publish(self, channel: str, message: Message) -> None:
        """Publish a message; while Redis is away, try again. What it refuses is logged."""
        text = json.dumps({**message, "_s": self._id})
        while True:
            try:
                await self._redis.publish(channel, text)
                return
            except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
                logger.warning("The old Redis accepts no messages: %s", error)
                await asyncio.sleep(PAUSE)
            except exceptions.RedisError as error:
                logger.warning("The old Redis refuses a message: %s", error)
                return

    async def messages(self, channel: str) -> AsyncGenerator[Message, None]:
        """Yield the messages of others, as long as the connection lasts, and on the next one."""
        while True:
            try:
                async with self._redis.pubsub() as subscription:
                    await subscription.subscribe(channel)
                    silences = 0
                    while silences < 2:
                        got = await subscription.get_message(timeout=SILENCE / 2)
                        if got is None:
                            silences += 1
                            await subscription.ping()
                            continue
                        silences = 0
                        if got["type"] == "subscribe":
                            logger.info("Listening to the channel %s.", channel)
                        if got["type"] == "message" and (message := self._read(got["data"])):
                            yield message
                    raise exceptions.TimeoutError("it does not answer")
            except exceptions.RedisError as error:
                logger.warning("The old Redis does not answer: %s", error)
                await asyncio.sleep(PAUSE)

    def _read(self, payload: bytes) -> Message | None:
        """Return the message without its sender, or None if it is our own or not a message."""
        try:
            message = json.loads(payload)
            return message if message.pop("_s", None) != self._id else None
        except (ValueError, TypeError, AttributeError, RecursionError):
            logger.warning("A payload of %d bytes is not a message of the old connector.", len(payload))
            return None


def to_new(old: Message) -> Message | None:
    """Return an old server's message as servers from version 5 on have it; None if it is no event."""
    if old.get("action") != OLD_EMIT:
        return None
    name, *values = old["data"]
    if not isinstance(name, str):
        raise TypeError(f"the name {name!r} is not a string")
    data = to_text(untyped(values[0]) if values else None)
    return {"topic": int(Code.EVENT), "action": EMIT, "name": name, "data": data}


def to_old(new: Message) -> Message | None:
    """Return a message as an old server has it; None if it is no event."""
    if new["action"] != EMIT:
        return None
    return {"topic": OLD_EVENTS, "action": OLD_EMIT, "data": [new["name"], typed(data_of(new))]}


def typed(value: Any) -> str:
    """Return a value as the old protocol has it: a letter for its type, and its text."""
    match value:
        case None:
            return "L"
        case bool():
            return "T" if value else "F"
        case str():
            return f"S{value}"
        case int() | float():
            return f"N{json.dumps(value)}"
        case _:
            return f"O{json.dumps(value)}"


def untyped(text: str) -> Any:
    """Return the value of such a text; JavaScript's undefined becomes None."""
    constants = {"L": None, "U": None, "T": True, "F": False}
    kind, rest = text[:1], text[1:]
    if kind in constants:
        return constants[kind]
    return rest if kind == "S" else json.loads(rest)


@contextmanager
def guarded(side: str) -> Iterator[None]:
    """Go on after an event that cannot be passed on, whatever is wrong with it."""
    try:
        yield
    except Exception as error:
        logger.warning("An event of %s was not passed on: %r", side, error)


async def bridge(connector: Connector, old: OldWire) -> None:
    """Carry events both ways, until cancelled. The old wire drops our own by `_s`, the connector by itself."""

    async def from_old() -> None:
        async with aclosing(old.messages(OLD_EVENTS)) as messages:
            async for message in messages:
                with guarded("an old server"):
                    if event := to_new(message):
                        await connector.publish(Topic.EVENT, {"fromServer": connector.node_name, "message": event})

    async def from_new(envelopes: AsyncIterator[Message]) -> None:
        async for envelope in envelopes:
            with guarded("a new server"):
                if event := to_old(envelope["message"]):
                    await old.publish(OLD_EVENTS, event)

    async with connector.messages(Topic.EVENT) as envelopes, asyncio.TaskGroup() as tasks:
        tasks.create_task(from_new(envelopes))
        tasks.create_task(from_old())


async def main(url: str) -> None:
    async with Connector(Settings()) as connector, aclosing(OldWire(url)) as old:
        await bridge(connector, old)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    with suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1]))
