"""How messages travel through Zenoh, without a broker: a question behind each put confirms it."""

import asyncio
import os
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import zenoh
from zenoh.handlers import Callback

from .contract import Bridge, DaemonThreads, Inbox, Target, Transport, escape, ssl_context
from .settings import PORT, Settings

REMOTE = zenoh.Locality.REMOTE
TO_OTHERS: dict[str, Any] = {"congestion_control": zenoh.CongestionControl.BLOCK, "allowed_destination": REMOTE}
TO_ALL = {"target": zenoh.QueryTarget.ALL, "consolidation": zenoh.ConsolidationMode.NONE, **TO_OTHERS}
UNTOLD = "Zenoh does not distinguish an absent node from a refused login or certificate."
REMEMBERED = 8  # endpoints of others, in case those of the url are gone


class BrokerTransport(Transport[Settings]):
    """One session: that of a peer, linked to all other peers, or of a node behind one peer or router.

    Zenoh confirms neither a put nor a declaration. Since all is sent, and handled, in order on each link, the answer
    to a question that follows confirms both: a peer asks all other nodes, a node behind another asks that one.
    """

    takes_all_hosts = True
    _session: Any = None

    def __init__(self, settings: Settings, inbox: Inbox) -> None:
        super().__init__(settings, inbox)
        self._is_peer = settings.listen is not None
        self._may_be_alone = self._is_peer and settings.may_be_alone
        self._topics: dict[str, zenoh.Subscriber[None]] = {}
        self._links: dict[str, str] = {}  # by node: the endpoint from which it is linked
        self._endpoints: dict[str, str] = {}  # by node: where it listens
        self._mending: set[asyncio.Task[None]] = set()
        self._answering: set[str] = set()  # the nodes that have answered the last question to all
        self._is_one_silent = False  # then it waits only for those that have answered
        self._thread = DaemonThreads(1)  # for calls that may block, one after another

    async def connect(self) -> None:
        self._bridge = Bridge()
        if await self._call(self._open):
            await self.ping()
        elif not self._may_be_alone:
            raise ConnectionRefusedError("no other node is there, and may_be_alone is not set")

    async def publish(self, topic: str, payload: bytes) -> None:
        await self._call(self._session.put, f"topic/{escape(topic)}", payload, **TO_OTHERS)
        await self._ask(all_nodes=self._is_peer)

    async def subscribe(self, topic: str) -> None:
        if topic not in self._topics:
            declare = partial(self._session.declare_subscriber, allowed_origin=REMOTE)
            take = Callback(partial(self._bridge.call, self._take, topic), indirect=False)
            self._topics[topic] = await self._call(declare, f"topic/{escape(topic)}", take)
        if not self._is_peer:  # the node that we are behind does not say that a question to all had no answer in time
            await self._ask(all_nodes=False)
        await self._ask(all_nodes=True)

    async def unsubscribe(self, topic: str) -> None:
        if subscriber := self._topics.pop(topic, None):
            await self._call(subscriber.undeclare)

    async def ping(self) -> None:
        while True:
            with suppress(TimeoutError):
                return await self._ask(all_nodes=self._is_peer)

    async def close(self) -> None:
        for task in self._mending:
            task.cancel()
        loop = asyncio.get_running_loop()
        try:
            # A session that is still being opened is closed after that, even if nobody waits for it.
            await asyncio.shield(loop.run_in_executor(self._thread, lambda: self._session and self._session.close()))
            self._thread.shutdown()
        finally:
            self._thread.shutdown(wait=False)

    def _open(self) -> bool:
        # Closing the link to a node that is cut off keeps one of Zenoh's threads busy for 10 s: others need some, too.
        os.environ.setdefault("ZENOH_RUNTIME", "(rx: (worker_threads: 8))")
        if self.settings.uses_tls:
            ssl_context(self.settings)  # reports bad files, which Zenoh does not
        config = self.settings.for_zenoh([*self._addresses(), *self.inbox.memory.get("endpoints", ())])
        try:
            self._session = session = zenoh.open(zenoh.Config.from_json5(config))
        except zenoh.ZError as error:
            told = re.sub(r" +at \S+\.rs:\d+\.?", "", str(error))
            raise ConnectionError(f"{told} {UNTOLD}" if "Unable to connect" in told else told) from error
        self._zid = str(session.info.zid())
        answer = Callback(partial(_answer, key := f"node/{self._zid}", self.settings.port), indirect=False)
        session.declare_queryable(key, answer, allowed_origin=REMOTE)
        note = Callback(partial(self._bridge.call, self._note), indirect=False)
        session.info.declare_link_events_listener(note, history=True)
        return bool(session.info.links())

    def _addresses(self) -> list[str]:
        """Return an endpoint for each address of a host name that has several: Zenoh would wait for the first alone."""
        found: list[str] = []
        for target in () if self.settings.uses_tls else self.settings.targets():  # certificates are for names
            with suppress(OSError, UnicodeError):  # Zenoh says what is wrong with a name
                looked_up = socket.getaddrinfo(target.host, port := target.port or PORT, type=socket.SOCK_STREAM)
                addresses = {f"tcp/{Target(str(address[0]), port)}" for *_, address in looked_up}
                found += addresses if len(addresses) > 1 else ()
        return found

    async def _call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(function, *arguments, **options))

    async def _ask(self, all_nodes: bool) -> None:
        """Return when all other nodes have answered, or those that do so in time; or else the one that we are behind.

        Raises `TimeoutError` if there are others and none answers.
        """
        done, heard, silent = asyncio.Event(), set[str](), list[zenoh.Reply]()

        def hear(reply: zenoh.Reply) -> None:
            if reply.ok is None:
                return silent.append(reply)
            heard.add(zid := str(reply.ok.key_expr).rpartition("/")[2])
            self._learn(zid, reply.ok.payload.to_string())
            if self._is_one_silent and self._answering <= heard:
                done.set()

        def end() -> None:
            self._answering, self._is_one_silent = heard, bool(silent and heard)
            done.set()

        handler = Callback(partial(self._bridge.call, hear), partial(self._bridge.call, end), indirect=False)
        get = partial(self._session.get, **TO_ALL) if all_nodes else self._session.liveliness().get
        await self._call(get, "node/*", handler, timeout=self.settings.patience)
        await done.wait()
        if silent and not heard:
            raise TimeoutError(f"no answer within {self.settings.patience:.3g} s")
        if not (heard or self._links or self._may_be_alone):
            raise ConnectionResetError("there is no link to another node any more")

    def _take(self, topic: str, sample: zenoh.Sample) -> None:
        if topic in self._topics:
            self.inbox.received(topic, sample.payload.to_bytes())

    def _learn(self, zid: str, port: str) -> None:
        """Learn where a node that is linked to this one listens."""
        if port and zid in self._links and zid not in self._endpoints:
            self._endpoints[zid] = endpoint = f"{self._links[zid].rpartition(':')[0]}:{port}"
            remembered = [each for each in self.inbox.memory.get("endpoints", ()) if each != endpoint]
            self.inbox.memory["endpoints"] = [*remembered, endpoint][-REMEMBERED:]

    def _note(self, event: zenoh.LinkEvent) -> None:
        """Note that a link has come or gone. Without any, this node is isolated."""
        zid = str(event.link.zid)
        if event.kind == zenoh.SampleKind.PUT:
            self._links[zid] = event.link.dst
            return
        self._links.pop(zid, None)
        endpoint = self._endpoints.pop(zid, None)
        if not self._links and not self._may_be_alone:
            self.inbox.lost(ConnectionResetError("the last link to another node is gone"))
        elif self._is_peer and endpoint and self._zid < zid:
            task = asyncio.create_task(self._mend(zid, endpoint))
            self._mending.add(task)
            task.add_done_callback(self._mending.discard)

    async def _mend(self, zid: str, endpoint: str) -> None:
        """Begin a new session once a node that was cut off is within reach: Zenoh would not link to it again."""
        config, was_there = self.settings.for_zenoh(only=endpoint), False
        while zid not in self._links:
            await asyncio.sleep(self.settings.heartbeat)
            found = await asyncio.to_thread(_who_is_at, config)
            if found not in (zid, None):
                return
            if found and was_there and zid not in self._links:
                self.inbox.lost(ConnectionResetError("a node that was cut off is within reach again"))
            was_there = found == zid  # if it had only been frozen, it soon comes back by itself, as another


def _who_is_at(config: str) -> str | None:
    """Return which node answers; the empty text if nobody is there any more, None if that is unknown."""
    try:
        with zenoh.open(zenoh.Config.from_json5(config)) as session:
            return "".join(map(str, session.info.peers_zid()))
    except zenoh.ZError as error:
        return "" if "refused" in str(error) else None


def _answer(key: str, text: str, query: zenoh.Query) -> None:
    with query, suppress(zenoh.ZError):  # the asker may have gone
        query.reply(key, text)
