"""A small broker, for the tests of the pack: it can do what brokers do, and what faulty transports ask for besides.

Each request is `{"id": number, "do": word, ...}` and each answer has its id, and `error` if the broker says no. What a
client gets without asking for it is `{"name": name, "position": number}` and the message. The words:

- login (user, password): comes first; the answer has `limit`, the size of the largest message
- publish (name): with `late`, the answer comes so many seconds later
- subscribe (name): with `poll`, messages wait until they are fetched; and what no sound transport asks for:
  `prefix` (all names that begin so), `group` (each message goes to one member), `retained` (the last message comes at
  once), `since` (all messages after this position come at once)
- unsubscribe (name), ping
- fetch: answers when there are messages, with the names and lengths of all of them
"""

import argparse
import asyncio
import re
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from framing import Frames, Header, pack

LONGEST_NAME = 64
KEPT = 1000
"""How many messages can be had again."""

BACKLOG = 64 * 1024 * 1024
"""Bytes that may wait for a client before it is cut off."""


class Refusal(Exception):
    """The broker says no; the text says why."""


@dataclass
class User:
    """Who may log in, and what the names begin with that are not for this user."""

    password: str
    forbidden: str | None = None


@dataclass
class Message:
    """What was published."""

    name: str
    body: bytes
    position: int


@dataclass
class Broker:
    """All that the connections share."""

    users: dict[str, User]
    limit: int
    clients: "dict[Client, None]" = field(default_factory=dict)
    kept: deque[Message] = field(default_factory=lambda: deque(maxlen=KEPT))
    position: int = 0

    def deliver(self, name: str, body: bytes) -> None:
        """Give a message to all who are subscribed, and to one member of each group."""
        self.position += 1
        message = Message(name, body, self.position)
        self.kept.append(message)
        groups: dict[str, list[Client]] = {}
        for client in list(self.clients):
            subscription = client.subscription(name)
            if subscription is None:
                continue
            if group := subscription.get("group"):
                groups.setdefault(group, []).append(client)
            else:
                client.give(message)
        for members in groups.values():
            members[self.position % len(members)].give(message)


class Client(asyncio.Protocol):
    """One connection of a client."""

    transport: asyncio.Transport

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._frames = Frames(2 * broker.limit)
        self._user: User | None = None
        self._subscriptions: dict[str, Header] = {}
        self._waiting: list[Message] = []
        self._fetches: deque[int] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._broker.clients[self] = None

    def connection_lost(self, error: Exception | None) -> None:
        del self._broker.clients[self]

    def data_received(self, data: bytes) -> None:
        try:
            for header, body in self._frames.feed(data):
                self._answer(header, body)
        except ValueError:  # no client of ours: cut it off
            self.transport.abort()

    def subscription(self, name: str) -> Header | None:
        """Return what was asked for when this name was subscribed to, or the beginning of it."""
        if found := self._subscriptions.get(name):
            return found
        prefixes = (each for each in self._subscriptions.values() if each.get("prefix"))
        return next((each for each in prefixes if name.startswith(each["name"])), None)

    def give(self, message: Message) -> None:
        """Send a message, or let it wait until it is fetched; cut off who does not read."""
        subscription = self.subscription(message.name) or {}
        if not subscription.get("poll"):
            self._say({"name": message.name, "position": message.position}, message.body)
            return
        self._waiting.append(message)
        self._hand_out()

    def _answer(self, header: Header, body: bytes) -> None:
        answer: dict[str, Any] = {"id": header["id"]}
        try:
            found = getattr(self, f"_do_{header['do']}")(header, body)
        except Refusal as refusal:
            answer["error"] = str(refusal)
        else:
            if found is None:
                return
            answer |= found
        if late := header.get("late"):
            asyncio.get_running_loop().call_later(late, self._say, answer)
        else:
            self._say(answer)

    def _do_login(self, header: Header, body: bytes) -> Header:
        user = self._broker.users.get(header["user"])
        if user is None or user.password != header["password"]:
            raise Refusal("wrong user or password")
        self._user = user
        return {"limit": self._broker.limit}

    def _do_publish(self, header: Header, body: bytes) -> Header:
        self._check(header["name"])
        if len(body) > self._broker.limit:
            raise Refusal(f"a message has at most {self._broker.limit} bytes")
        self._broker.deliver(header["name"], body)
        return {}

    def _do_subscribe(self, header: Header, body: bytes) -> None:
        name = header["name"]
        self._check(name)
        self._subscriptions[name] = header
        self._say({"id": header["id"], "position": self._broker.position})
        older = [message for message in self._broker.kept if message.name == name]
        if (since := header.get("since")) is not None:
            older = [message for message in older if message.position > since]
        else:
            older = older[-1:] if header.get("retained") else []
        for message in older:
            self.give(message)

    def _do_unsubscribe(self, header: Header, body: bytes) -> Header:
        self._check(header["name"])
        self._subscriptions.pop(header["name"], None)
        self._waiting = [message for message in self._waiting if message.name != header["name"]]
        return {}

    def _do_ping(self, header: Header, body: bytes) -> Header:
        self._check("ping")
        return {}

    def _do_fetch(self, header: Header, body: bytes) -> None:
        self._check("fetch")
        self._fetches.append(header["id"])
        self._hand_out()

    def _check(self, name: str) -> None:
        """Raise `Refusal` unless this user may use this name."""
        if self._user is None:
            raise Refusal("log in first")
        if not re.fullmatch(rf"[A-Za-z0-9._-]{{1,{LONGEST_NAME}}}", name):
            raise Refusal(f"no name: at most {LONGEST_NAME} letters, digits, dots, underscores and dashes")
        if self._user.forbidden is not None and name.startswith(self._user.forbidden):
            raise Refusal(f"no rights to {name}")

    def _hand_out(self) -> None:
        if self._fetches and self._waiting:
            messages, self._waiting = self._waiting, []
            told = [[message.name, len(message.body), message.position] for message in messages]
            self._say({"id": self._fetches.popleft(), "messages": told}, b"".join(each.body for each in messages))

    def _say(self, header: Header, body: bytes = b"") -> None:
        self.transport.write(pack(header, body))
        if self.transport.get_write_buffer_size() > BACKLOG:
            self.transport.abort()


def user(text: str) -> tuple[str, User]:
    """Read `name:password` or `name:password:forbidden`."""
    name, *rest = text.split(":")
    return name, User(*rest)


async def serve(ports: list[int], broker: Broker) -> None:
    """Serve the same on all ports, for ever."""
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(lambda: Client(broker), "127.0.0.1", port) for port in ports]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--second-port", type=int, required=True)
    parser.add_argument("--user", type=user, action="append", required=True, help="name:password[:forbidden beginning]")
    parser.add_argument("--limit", type=int, default=1_000_000, help="size of the largest message")
    given = parser.parse_args()
    asyncio.run(serve([given.port, given.second_port], Broker(dict(given.user), given.limit)))
