"""How messages travel through Google Cloud Pub/Sub: each topic is one of the service's, each node has subscriptions."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import uuid4

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # with it, 10 of 80 children of a connected process crashed

import google.auth
import grpc  # type: ignore[import-untyped]
from google.api_core import exceptions as errors
from google.pubsub_v1 import PublisherAsyncClient, SubscriberAsyncClient, types
from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcAsyncIOTransport

from .contract import ConnectError, PublishRefusedError, SubscribeRefusedError, Transport
from .settings import ACK_DEADLINE, Settings

State = grpc.ChannelConnectivity

OPTIONS = [
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # or else a new channel would reuse the connection of a lost one
]
ONCE: dict[str, Any] = {"retry": None, "timeout": None}
FORBIDDEN = (errors.FailedPrecondition, errors.InvalidArgument, errors.NotFound, errors.PermissionDenied)


class BrokerTransport(Transport[Settings]):
    """One channel, which carries a stream for each subscription, and all requests.

    `inbox.memory` has this node's name at the service, and the names of all subscriptions that it may have there, even
    to topics that were left in an outage. `inbox.topic_memory` has the name of the subscription to a topic.
    """

    takes_all_hosts = keeps_messages = True
    max_frame_bytes = 10_000_000 - 1_000  # the largest request, less its bytes besides the frame
    _channel: Any = None
    _watching: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        if self.settings.login != (None, None):
            raise ConnectError("Pub/Sub has no user and password: set credentials_file in their place", refused=True)
        self._node: str = self.inbox.memory.setdefault("node", uuid4().hex)
        self._names: set[str] = self.inbox.memory.setdefault("subscriptions", set())
        self._name_of: dict[str, str] = {}
        self._streams: dict[str, asyncio.Task[None]] = {}
        self._channel = await self._make_channel()
        self._publisher = PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=self._channel))
        self._subscriber = SubscriberAsyncClient(transport=SubscriberGrpcAsyncIOTransport(channel=self._channel))
        settled = asyncio.Event()
        self._watching = asyncio.create_task(self._watch(settled))
        await settled.wait()
        try:
            await self.ping()
        except errors.Unauthenticated as refusal:
            raise ConnectError(refusal.message, refused=True) from refusal
        await self._delete(self._names - set(self.inbox.topic_memory.values()))

    async def publish(self, topic: str, payload: bytes) -> None:
        name = self.settings.topic_name(topic)
        message = types.PubsubMessage(data=payload, attributes={"node": self._node}, ordering_key=self._node)
        try:
            await self._ask(name, self._publisher.publish, types.PublishRequest(topic=name, messages=[message]))
        except FORBIDDEN as refusal:
            raise PublishRefusedError(refusal.message) from refusal

    async def subscribe(self, topic: str) -> None:
        name = self.inbox.topic_memory.setdefault(topic, self.settings.subscription_name(topic, uuid4().hex))
        self._name_of[topic] = name
        self._names.add(name)
        try:
            request = self.settings.new_subscription(name, topic, self._node)
            with suppress(errors.AlreadyExists):  # ours, from before the loss
                await self._ask(request["topic"], self._subscriber.create_subscription, request)
            stream = await self._open(name)
        except FORBIDDEN as refusal:
            raise SubscribeRefusedError(refusal.message) from refusal
        self._streams[topic] = receiving = asyncio.create_task(self._receive(topic, name, stream))
        receiving.add_done_callback(lambda ended: self._ended(topic, ended))

    async def unsubscribe(self, topic: str) -> None:
        await self._stop([topic])
        self.inbox.topic_memory.pop(topic, None)
        await self._delete(filter(None, [self._name_of.pop(topic, None)]))

    async def ping(self) -> None:
        nothing = f"projects/{self.settings.project}/subscriptions/ping"
        with suppress(*FORBIDDEN):  # still an answer
            await self._subscriber.acknowledge(types.AcknowledgeRequest(subscription=nothing, ack_ids=["ping"]), **ONCE)

    async def leave(self) -> None:
        await self._stop(list(self._streams))
        await self._delete(self._names)

    async def close(self) -> None:
        if self._channel:
            await self._stop(list(self._streams))
            await self._channel.close()
            if self._watching:
                await asyncio.wait((self._watching,), timeout=0.2)  # or gRPC answers a loop that is closed by then
                self._watching.cancel()

    async def _make_channel(self) -> Any:
        settings = self.settings
        # An attempt is given up by then; otherwise it would outlive this transport.
        options = [*OPTIONS, ("grpc.min_reconnect_backoff_ms", int(1000 * settings.connect_timeout))]
        if settings.emulator:
            return grpc.aio.insecure_channel(settings.emulator, options=options)
        scopes = PublisherGrpcAsyncIOTransport.AUTH_SCOPES
        file = settings.credentials_file
        load: Any = partial(google.auth.load_credentials_from_file, str(file)) if file else google.auth.default
        credentials, _ = await asyncio.to_thread(load, scopes=scopes)
        return PublisherGrpcAsyncIOTransport.create_channel(settings.endpoint, credentials, options=options)

    async def _watch(self, settled: asyncio.Event) -> None:
        """Report the end of the first attempt to connect, successful or not, and later the connection's end.

        The channel would then open another one. Watch it until it is closed: it reports its last state, too.
        """
        state = self._channel.get_state(try_to_connect=True)
        while state in (State.IDLE, State.CONNECTING):
            await self._channel.wait_for_state_change(state)
            state = self._channel.get_state()
        settled.set()
        if state is State.READY:
            await self._channel.wait_for_state_change(state)
            self.inbox.lost(ConnectionResetError("the connection ended"))

    async def _ask(self, topic: str, method: Callable[..., Awaitable[Any]], request: Any) -> None:
        """Make a request that needs one of the service's topics; create that if it is not there."""
        try:
            await method(request, **ONCE)
        except errors.NotFound:
            with suppress(errors.AlreadyExists):
                await self._publisher.create_topic(types.Topic(name=topic), **ONCE)
            await method(request, **ONCE)

    async def _open(self, name: str) -> Any:
        """Return the stream of a subscription, once the service has had time to refuse it."""
        stream: Any = await self._subscriber.streaming_pull(**ONCE)
        first = {"subscription": name, "stream_ack_deadline_seconds": ACK_DEADLINE, "client_id": self._node}
        try:
            await stream.write(types.StreamingPullRequest(first))
            await self.ping()
            if stream.done():
                await stream.read()
        except BaseException:
            stream.cancel()  # or else it would take messages that nobody reads
            raise
        return stream

    async def _receive(self, topic: str, name: str, stream: Any) -> None:
        """Hand in what comes; the service ends a stream every now and then, and wants it opened again."""
        try:
            while True:
                is_of_use = False
                with suppress(errors.Aborted, errors.InternalServerError, errors.ServiceUnavailable):
                    while (response := await stream.read()) is not grpc.aio.EOF:
                        is_of_use = True
                        arrived = types.StreamingPullResponse.pb(response).received_messages
                        for each in arrived:
                            self.inbox.received(topic, each.message.data)
                            self.inbox.topic_memory[topic] = name
                            await asyncio.sleep(0)
                        await stream.write(types.StreamingPullRequest(ack_ids=[each.ack_id for each in arrived]))
                if not is_of_use:
                    raise ConnectionResetError("the service ended a stream that had brought nothing")
                await self.ping()  # perhaps more than the stream has ended
                if self._watching and self._watching.done():
                    return
                stream = await self._open(name)
        finally:
            stream.cancel()

    def _ended(self, topic: str, receiving: asyncio.Task[None]) -> None:
        error = None if receiving.cancelled() else receiving.exception()
        if self._streams.get(topic) is receiving:
            self.inbox.lost(error if isinstance(error, Exception) else ConnectionResetError("a stream was cancelled"))

    async def _stop(self, topics: Iterable[str]) -> None:
        tasks = [self._streams.pop(topic) for topic in topics if topic in self._streams]
        for receiving in tasks:
            receiving.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _delete(self, names: Iterable[str]) -> None:
        async def delete(name: str) -> None:
            with suppress(*FORBIDDEN):  # it is gone, or is left to expire
                await self._subscriber.delete_subscription(subscription=name, **ONCE)
            self._names.discard(name)

        await asyncio.gather(*map(delete, list(names)))
