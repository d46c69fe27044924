"""How messages travel through the broker: five blanks to fill in. `tox run -e py` says which is next.

Everything else is done for you: reconnecting, serialising, filtering, batching, counting, timeouts. If the client
library does any of that by itself, turn it off. The library goes into `dependencies` in pyproject.toml.
"""

from .contract import Bridge, ConnectError, PublishRefusedError, SubscribeRefusedError, Transport, escape  # noqa: F401
from .settings import Settings


class BrokerTransport(Transport[Settings]):
    """One connection to the broker, from `connect()` to `close()`. A lost one is thrown away and a new one is made.

    `self.settings` holds the settings; `self.settings.url.get_secret_value()` is the url, which names one host, and
    `self.settings.login` is (user, password), each of which may be None.
    `self.inbox.received(topic, payload)` hands in a payload; `self.inbox.lost(error)` reports that the connection is
    gone. Further calls, and those after `close` has begun, are ignored. Call both on the event loop's thread.

    If the client has no keepalive that notices a silent broker within `heartbeat`, add a sixth method,
    `async def ping(self) -> None`: a round trip to the broker, like that of `publish`, but without a message.
    It is called every third of a `heartbeat`.

    With several connections, call `lost` when one that brings messages ends; then all are closed, and opened
    again. `ping` makes a round trip on each. A pool that opens a new connection for its next request needs neither: let
    the request fail within `heartbeat`. Nothing can be asked on a stream that only brings messages: let each stream bring
    a topic of this node's own as well; `ping` publishes there, and waits until every stream has shown it.

    `publish`, `subscribe`, `unsubscribe` and `ping` may run at the same time, but never two `publish` for one topic:
    make sure that each gets its own answer, and that an answer which comes after its call was cancelled is not mistaken
    for another call's.
    What answers may not be the broker. Limit how much is read of one answer, and how much of it an error repeats.
    If the broker delivers later what a node missed while it was away, set `keeps_messages = True` in this class.
    If the broker remembers a node after its connection, add `async def leave(self) -> None`, which undoes that: it is
    called before the last `close`, and not after a loss.
    """

    async def connect(self) -> None:
        """Blank 1. Open the connection; return when the broker has accepted the login; let the client's errors pass.

        Raise `ConnectError(text, refused=True)` if the broker says no: a wrong password, no rights.

        From here on, make sure that `self.inbox.lost(error)` is called when the connection breaks, and that what
        arrives is handed in. If the broker limits the size of a message, set `self.max_frame_bytes`: the largest
        payload in bytes, without what the client adds.

        push: give the client a callback that calls `self.inbox.received(topic, payload)`.
        poll: start a task, `self.task = asyncio.create_task(...)`, that reads forever, and ends with `lost`.
        thread callbacks: create a `Bridge()` here, and call `bridge.call(self.inbox.received, topic, payload)`:
        it runs the function on the event loop's thread, and does nothing once the loop is closed.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Blank 2. Release the connection and every task and thread, even when `connect` failed half way.

        It may take up to a second. If the peer is silent, break the connection off.

        push: close the client. poll: cancel the task, and wait for its end. thread callbacks: join the thread with
        `await asyncio.to_thread(self.thread.join)`.
        """
        raise NotImplementedError

    async def publish(self, topic: str, payload: bytes) -> None:
        """Blank 3. Send `payload` to all subscribers of `topic`; return once the broker has accepted it.

        Raise `PublishRefusedError(text)` if the broker refuses it; any other exception means: try again.

        push: await the broker's confirmation (an acknowledgement, a reply), not only the writing.
        poll: as push; a client without confirmations needs a round trip after the message.
        thread callbacks: create a future, and set its result with `bridge.call(future.set_result, None)`.
        """
        raise NotImplementedError

    async def subscribe(self, topic: str) -> None:
        """Blank 4. Have the broker deliver `topic`, exactly that text; return once it will.

        Raise `SubscribeRefusedError(text)` if the broker refuses it. Every node gets every message: no shared queue, no
        group, and no earlier messages.

        If the broker does not take any text as a topic, `escape(topic, longest=...)` makes a plain name of it, without
        the characters of a pattern. It cuts a name that is too long, but keeps it unique. A name that was cut cannot
        be read back: keep a table from names to topics, for `received`. If the broker takes names as prefixes, so that
        "a" also delivers "ab", end each name with a character that `escape` never makes, such as "/".

        push: await the broker's confirmation of the subscription.
        poll: start at the end of the stream, and know where that is before you return.
        thread callbacks: as for `publish`, with a future.
        """
        raise NotImplementedError

    async def unsubscribe(self, topic: str) -> None:
        """Blank 5. End what `subscribe` began; return once nothing more of `topic` will arrive.

        It is also called after a `subscribe` that failed or took too long.

        push, poll, thread callbacks: as in `subscribe`.
        """
        raise NotImplementedError
