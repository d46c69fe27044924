"""How messages travel through AMQP 1.0: a link for each topic and direction."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any
from uuid import uuid4

from proton import Condition, Delivery, Message

from .client import NO_LOGIN, TOO_LARGE, Client, error_of, payload_of, verdict
from .contract import PublishRefusedError, Receipt, SubscribeRefusedError, Transport
from .settings import PREFIXES, Settings

CREDIT = 200  # messages of a topic that the broker may have in flight
UNANSWERED = 20  # messages of a topic that the broker may leave unanswered before it gets no more


def awaited(method: Callable[..., Receipt]) -> Callable[..., Coroutine[Any, Any, None]]:
    """Await the result of a method, in a frame without objects of proton's, which an error's traceback would keep."""

    async def ask(self: "BrokerTransport", *arguments: str) -> None:
        await method(self, *arguments)

    return ask


class BrokerTransport(Transport[Settings]):
    """One connection. Each link has a session of its own, since that is what RabbitMQ ends to refuse.

    Only the event loop's thread may use or free proton's objects. So they are kept out of exceptions, and out of all
    else that Python's garbage collector, which runs in any thread, may have to free.
    """

    _client: Any = None
    _pinging: Any = None

    async def connect(self) -> None:
        self.max_frame_bytes = self.settings.max_frame_bytes
        self._inlets, self._outlets, self._links = dict[str, Any](), dict[str, Any](), dict[Any, Any]()
        self._pings = list[Receipt]()
        self._client = Client(self.settings, self, self.inbox.lost)
        await self._client.open()
        await BrokerTransport.ping(self)  # since a broker may greet before it refuses

    def publish(self, topic: str, payload: bytes) -> Receipt:
        answer = Receipt()
        link = self._outlets.get(topic) or self._attach(topic, self._outlets)
        if 0 < link.remote_max_message_size < len(payload) + 64:  # with room for what is around it
            answer.settle(error_of(TOO_LARGE))
        elif len(link.sent) >= UNANSWERED:
            answer.settle(ConnectionError("the broker accepts no more messages, or does not answer"))
        else:
            link.sent[link.send(Message(payload, inferred=True)).tag] = answer
            self._client.flush_soon()
        return answer

    async def subscribe(self, topic: str) -> None:
        if self.settings.management:
            await asyncio.to_thread(self._client.make_subscription, topic)
        await self._subscribe(topic)

    async def unsubscribe(self, topic: str) -> None:
        await self._unsubscribe(topic)
        if self.settings.management:
            await asyncio.to_thread(self._client.delete_subscription, topic)

    async def leave(self) -> None:
        if self.settings.management:
            await asyncio.gather(*map(self.unsubscribe, list(self._inlets)))

    @awaited
    def _subscribe(self, topic: str) -> Receipt:
        answer = Receipt()
        link = self._inlets.get(topic) or self._attach(topic, self._inlets)
        link.asked.append(answer)
        settle(link.asked if link.is_open else ())
        self._client.flush_soon()
        return answer

    @awaited
    def _unsubscribe(self, topic: str) -> Receipt:
        answer = Receipt()
        self._inlets.pop(topic, None)
        if link := next((each for each in self._links.values() if each.is_receiver and each.topic == topic), None):
            link.asked = [answer]
            (link.session if self.settings.server == "rabbitmq" else link).close()
            self._client.flush_soon()
        else:
            answer.settle()
        return answer

    @awaited
    def ping(self) -> Receipt:
        """Begin a session, and have the broker say for each subscription that it has sent all there is.

        RabbitMQ's sessions break when they are drained, and it may forget a session that takes the number of one that
        has just ended. There, a link begins in a session that stays.
        """
        answer = Receipt()
        self._pings.append(answer)
        if self.settings.server == "rabbitmq":
            if self._pinging is None:
                self._pinging = self._client.connection.session()
                self._pinging.open()
            link = self._pinging.sender(uuid4().hex)
            link.target.address = f"{PREFIXES['rabbitmq']}ping"
            link.open()
        else:
            self._client.connection.session().open()
            for link in self._inlets.values():
                link.drain(0)
        self._client.flush_soon()
        return answer

    async def close(self) -> None:
        if self._client:
            await self._client.close()

    def _attach(self, topic: str, links: dict[str, Any]) -> Any:
        link: Any = self._client.link(topic, links is self._inlets)
        link.topic, link.asked, link.sent, link.is_open = topic, [], {}, False
        links[topic] = self._links[link.session] = link
        return link

    def _gone(self, link: Any, condition: Condition | None) -> None:
        """Note that a link has ended; if the broker ended it, report that to those who wait for it."""
        links = self._inlets if link.is_receiver else self._outlets
        refusal = SubscribeRefusedError if link.is_receiver else PublishRefusedError
        error = error_of(condition, refusal) if links.get(link.topic) == link else None
        if error:
            del links[link.topic]
            if (link.is_receiver and link.is_open) or NO_LOGIN in str(error):
                self.inbox.lost(error_of(condition))
        settle([*link.asked, *link.sent.values()], error)
        self._heard()

    def _heard(self) -> None:
        if self._pings and not any(link.drain_mode for link in self._inlets.values()):
            pings, self._pings = self._pings, []
            settle(pings)

    def on_connection_remote_close(self, event: Any) -> None:
        self.inbox.lost(error_of(event.connection.remote_condition))

    def on_session_remote_open(self, event: Any) -> None:
        if event.session not in self._links and event.session != self._pinging:
            self._heard()
            event.session.close()

    def on_session_remote_close(self, event: Any) -> None:
        if link := self._links.pop(event.session, None):
            self._gone(link, event.session.remote_condition)
        elif event.session == self._pinging:
            self._pinging = None
            self._heard()
        event.session.close()
        event.session.free()

    def on_link_remote_open(self, event: Any) -> None:
        link = event.link
        if link.session == self._pinging:
            self._heard()
            link.close()
        elif (link.remote_source if link.is_receiver else link.remote_target).address:  # else a refusal follows
            link.is_open = True
            settle(link.asked)
            self.on_link_flow(event)

    def on_link_remote_close(self, event: Any) -> None:
        if event.session == self._pinging:
            event.link.free()
        else:
            self._gone(event.link, event.link.remote_condition)
            event.session.close()  # not before: Artemis would forget to answer

    on_link_remote_detach = on_link_remote_close

    def on_link_flow(self, event: Any) -> None:
        if (link := event.link).is_receiver and link.is_open and not link.draining():
            if link.drain_mode or link.credit <= CREDIT // 2:
                link.drained()
                link.flow(CREDIT - link.credit)
            self._heard()

    def on_delivery(self, event: Any) -> None:
        link, delivery = event.link, event.delivery
        if link.is_sender and (delivery.settled or delivery.remote_state > Delivery.RECEIVED):
            link.sent.pop(delivery.tag).settle(verdict(delivery, self.settings.server))
            delivery.settle()
        elif link.is_receiver and delivery.readable and not delivery.partial:
            payload = payload_of(link.recv(delivery.pending))
            link.advance()
            delivery.settle()
            self.inbox.received(link.topic, payload)
            self.on_link_flow(event)


def settle(answers: Iterable[Receipt], error: Exception | None = None) -> None:
    for answer in answers:
        answer.settle(error)
