"""How messages travel through Zenoh, without a broker: a topic is a key that its subscribers answer."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import zenoh
from zenoh.handlers import Callback

from .contract import Bridge, Inbox, Transport, escape
from .settings import Settings

T = TypeVar("T")

REMOTE = zenoh.Locality.REMOTE
TO_ALL: dict[str, Any] = {
    "target": zenoh.QueryTarget.ALL,
    "consolidation": zenoh.ConsolidationMode.NONE,
    "congestion_control": zenoh.CongestionControl.BLOCK,
    "allowed_destination": REMOTE,
}


class BrokerTransport(Transport[Settings]):
    """One session. A frame is a query to all who are subscribed, so that each confirms it; nobody confirms a put.

    Zenoh sends in order and each node handles a link in order: an answer confirms all that was sent before, too.
    """

    _session: zenoh.Session | None = None

    def __init__(self, settings: Settings, inbox: Inbox) -> None:
        super().__init__(settings, inbox)
        self._is_peer = settings.listen is not None
        self._topics: dict[str, zenoh.Queryable[None]] = {}
        self._links: dict[str, str] = {}  # by node: the address at the other end
        self._mending: set[asyncio.Task[None]] = set()
        self._thread = ThreadPoolExecutor(1, "zenoh")  # what may block is done there, one after another

    async def connect(self) -> None:
        self._bridge = Bridge()
        await self._call(self._open)
        await self.ping()
        assert self._session
        if not await self._call(self._session.info.links) and not self.settings.may_be_alone:
            raise ConnectionRefusedError("no other node is there, and may_be_alone is not set")

    async def publish(self, topic: str, payload: bytes) -> None:
        await self._ask_nodes(f"topic/{escape(topic)}", payload=payload)

    async def subscribe(self, topic: str) -> None:
        assert self._session
        key = f"topic/{escape(topic)}"
        if topic not in self._topics:
            take = Callback(partial(self._take, topic, key), indirect=False)
            self._topics[topic] = await self._call(self._session.declare_queryable, key, take, allowed_origin=REMOTE)
        await self._ask_nodes("node/*")

    async def unsubscribe(self, topic: str) -> None:
        await self._call(self._topics.pop(topic).undeclare)

    async def ping(self) -> None:
        while True:
            with suppress(TimeoutError):
                return await (self._ask_nodes("node/*") if self._is_peer else self._ask_upstream())

    async def close(self) -> None:
        for task in self._mending:
            task.cancel()
        try:
            await self._call(self._close)
            self._thread.shutdown()
        finally:
            self._thread.shutdown(wait=False)

    def _open(self) -> None:
        self._session = session = zenoh.open(self.settings.for_zenoh())
        key = f"node/{session.info.zid()}"
        answer = Callback(partial(_answer, key), indirect=False)
        session.declare_queryable(key, answer, allowed_origin=REMOTE)
        note = Callback(partial(self._bridge.call, self._note), indirect=False)
        session.info.declare_link_events_listener(note, history=True)

    def _close(self) -> None:
        if self._session:
            self._session.close()

    async def _call(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        call = partial(function, *arguments, **options)
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def _ask_nodes(self, key: str, **options: Any) -> None:
        """Return when all nodes that have `key` have answered, or those that do in time; raise if none of them did."""
        assert self._session
        await self._ask(self._session.get, key, **TO_ALL, **options)

    async def _ask_upstream(self) -> None:
        """Return when the node or router to which we are connected has answered."""
        assert self._session
        await self._ask(self._session.liveliness().get, "node/*")

    async def _ask(self, get: Callable[..., None], key: str, **options: Any) -> None:
        replies: list[zenoh.Reply] = []
        done = asyncio.get_running_loop().create_future()
        handler = Callback(replies.append, partial(self._bridge.call, _finish, done), indirect=False)
        await self._call(get, key, handler, timeout=self.settings.patience, **options)
        await done
        if replies and not any(reply.ok for reply in replies):
            raise TimeoutError(f"no other node answered within {self.settings.patience:.3g} s")

    def _take(self, topic: str, key: str, query: zenoh.Query) -> None:
        """Take a frame, on a thread of Zenoh's, and confirm it."""
        if query.payload is not None:
            self._bridge.call(self._hand_in, topic, query.payload.to_bytes())
        _answer(key, query)

    def _hand_in(self, topic: str, payload: bytes) -> None:
        if topic in self._topics:
            self.inbox.received(topic, payload)

    def _note(self, event: zenoh.LinkEvent) -> None:
        """Note that a link has come or gone. Without any, this node is isolated."""
        zid = str(event.link.zid)
        if event.kind == zenoh.SampleKind.PUT:
            self._links[zid] = event.link.dst
            return
        address = self._links.pop(zid, None)
        if not self._links and not (self._is_peer and self.settings.may_be_alone):
            self.inbox.lost(ConnectionResetError("the last link to another node is gone"))
        elif self._is_peer and address is not None:
            task = asyncio.create_task(self._mend(zid, address))
            self._mending.add(task)
            task.add_done_callback(self._mending.discard)

    async def _mend(self, zid: str, address: str) -> None:
        """Come back with a new session once a node that was cut off from us is within reach: Zenoh would not link again.

        Of two nodes, that one finds the other which has opened the link, for it has the address.
        """
        while zid not in self._links:
            await asyncio.sleep(self.settings.heartbeat)
            found = await asyncio.to_thread(_who_is_at, self.settings.for_zenoh([address]))
            if found == zid and zid not in self._links:
                self.inbox.lost(ConnectionResetError("a node that was cut off is within reach again"))
            if found is not None:
                return


def _who_is_at(config: zenoh.Config) -> str | None:
    """Return which node answers; the empty text if nobody is there any more, None if there is no telling."""
    try:
        with zenoh.open(config) as session:
            return "".join(map(str, session.info.peers_zid()))
    except zenoh.ZError as error:
        return "" if "refused" in str(error) else None


def _answer(key: str, query: zenoh.Query) -> None:
    with query, suppress(zenoh.ZError):  # who asks may have gone
        query.reply(key, b"")


def _finish(done: "asyncio.Future[None]") -> None:
    if not done.done():
        done.set_result(None)
