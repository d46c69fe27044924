"""How messages travel through AMQP 1.0: a link for each topic and direction, in the thread of proton's reactor."""

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from threading import Semaphore, Thread
from typing import Any

from proton import Condition, Delivery, Endpoint, Message
from proton.reactor import ApplicationEvent, Container, EventInjector

from .contract import Bridge, PublishRefusedError, SubscribeRefusedError, Transport
from .settings import TOO_LARGE, Settings

CREDIT = 200  # messages of a topic that the broker may have on their way
BACKLOG = 1000  # messages that may wait for the event loop before the thread waits for it, too, and reads no more
UNANSWERED = 20  # messages of a topic that the broker may leave unanswered before it is given no more

Answer = asyncio.Future[None]


def in_thread(method: Callable[..., None]) -> Callable[..., Coroutine[Any, Any, None]]:
    """Have a method called in the thread, and wait until the answer that it is given is settled."""

    async def ask(self: "BrokerTransport", *arguments: Any) -> None:
        answer = Answer()
        self._call(method, self, answer, *arguments)
        await answer

    return ask


class BrokerTransport(Transport[Settings]):
    """One connection, in a thread; all that is not awaited runs there, but `_call` and `_end`.

    No object of proton's leaves that thread, since not even freeing one elsewhere is safe; nor does an exception, whose
    traceback would hold some. Each link has a session of its own, since that is what RabbitMQ ends to refuse.
    """

    _thread: Any = None
    _pinging: Any = None

    async def connect(self) -> None:
        self.max_frame_bytes = self.settings.max_frame_bytes
        self._inlets, self._outlets, self._links = dict[str, Any](), dict[str, Any](), dict[Any, Any]()
        self._pings, self._selectables, self._room = list[Answer](), list[Any](), Semaphore(BACKLOG)
        self._tell, self._calls, self._ended = Bridge().call, EventInjector(), Answer()
        self._thread = Thread(target=self._run, name="proton", daemon=True)
        self._thread.start()
        await BrokerTransport.ping(self)  # since a broker may greet before it refuses

    @in_thread
    def publish(self, answer: Answer, topic: str, payload: bytes) -> None:
        link = self._outlets.get(topic) or self._attach(topic, self._outlets)
        if 0 < link.remote_max_message_size < len(payload) + 64:  # with room for what is around it
            self._tell(settle, [answer], self.settings.error(TOO_LARGE))
        elif len(link.sent) >= UNANSWERED:
            self._tell(settle, [answer], ConnectionError("the broker takes no more, or answers nothing"))
        else:
            link.sent[link.send(Message(payload, inferred=True)).tag] = answer

    @in_thread
    def subscribe(self, answer: Answer, topic: str) -> None:
        link = self._inlets.get(topic) or self._attach(topic, self._inlets)
        link.asked.append(answer)
        self._tell(settle, link.asked if link.is_open else ())

    @in_thread
    def unsubscribe(self, answer: Answer, topic: str) -> None:
        self._inlets.pop(topic, None)
        if link := next((each for each in self._links.values() if each.is_receiver and each.topic == topic), None):
            link.asked = [answer]
            (link.session if self.settings.server == "rabbitmq" else link).close()
        else:
            self._tell(settle, [answer])

    @in_thread
    def ping(self, answer: Answer) -> None:
        """Begin a session, and have the broker say of each subscription that it has sent all there is.

        RabbitMQ's sessions break when they are drained, and a session that takes the number of one that has just ended
        may be forgotten. There, a link begins, in a session that stays.
        """
        self._pings.append(answer)
        if self.settings.server == "rabbitmq":
            if self._pinging is None:
                self._pinging = self._connection.session()
                self._pinging.open()
            self.settings.ping_link(self._pinging).open()
        else:
            self._connection.session().open()
            for link in self._inlets.values():
                link.drain(0)

    async def close(self) -> None:
        for _ in range(2 if self._thread else 0):  # the first time, the broker is told
            self._call(self._stop)
            await asyncio.wait((self._ended,), timeout=0.4)

    def _call(self, function: Callable[..., object], *arguments: Any) -> None:
        if not self._ended.done():
            self._calls.trigger(ApplicationEvent("call", subject=partial(function, *arguments)))

    def _end(self) -> None:
        self._thread.join()
        self._ended.set_result(None)
        for end in self._calls.pipe:  # proton leaves it open
            os.close(end)

    def _run(self) -> None:
        try:
            self._container = Container(self)
            self._container.selectable(self._calls)
            self._connection = self.settings.open(self._container)
            self._container.run()
        except Exception as error:
            self._tell(self.inbox.lost, ConnectionError(f"{type(error).__name__}: {error}"))
        for selectable in self._selectables:
            selectable.close()
        self._tell(self._end)

    def _stop(self, condition: Condition | None = None) -> None:
        self._tell(self.inbox.lost, self.settings.error(condition))
        if self._connection.state & Endpoint.LOCAL_ACTIVE:
            self._connection.close()
        else:
            self._container.stop()

    def _attach(self, topic: str, links: dict[str, Any]) -> Any:
        link = self.settings.link(self._connection, topic, links is self._inlets)
        link.topic, link.asked, link.sent, link.is_open = topic, [], {}, False
        links[topic] = self._links[link.session] = link
        return link

    def _gone(self, link: Any, condition: Condition | None) -> None:
        """Take note that a link has ended; if the broker did so by itself, tell those whom it concerns."""
        links = self._inlets if link.is_receiver else self._outlets
        refusal = SubscribeRefusedError if link.is_receiver else PublishRefusedError
        error = None
        if links.get(link.topic) == link:
            error = self.settings.error(condition, refusal)
            del links[link.topic]
            if link.is_receiver and link.is_open:
                self._stop(condition)
        self._tell(settle, [*link.asked, *link.sent.values()], error)
        self._heard()

    def _heard(self) -> None:
        if self._pings and not any(link.drain_mode for link in self._inlets.values()):
            self._tell(settle, self._pings)
            self._pings = []

    def on_call(self, event: Any) -> None:
        event.subject()

    def on_selectable_init(self, event: Any) -> None:
        self._selectables.append(event.selectable)

    def on_transport_closed(self, event: Any) -> None:
        self._stop(event.transport.condition or event.connection.remote_condition)

    on_connection_remote_close = on_transport_closed

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
            return
        end = link.remote_source if link.is_receiver else link.remote_target
        if end.address:  # else it is refused: why, follows
            link.is_open = True
            self._tell(settle, link.asked)
            self.on_link_flow(event)

    def on_link_remote_close(self, event: Any) -> None:
        if event.session == self._pinging:
            event.link.free()
            return
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
            self._tell(settle, [link.sent.pop(delivery.tag)], self.settings.verdict(delivery))
            delivery.settle()
        elif link.is_receiver and delivery.readable and not delivery.partial:
            payload = self.settings.payload(link.recv(delivery.pending))
            link.advance()
            delivery.settle()
            self._room.acquire()
            self._tell(self.inbox.received, link.topic, payload)
            self._tell(self._room.release)
            self.on_link_flow(event)


def settle(answers: Iterable[Answer], error: Exception | None = None) -> None:
    for answer in answers:
        if not answer.done():
            answer.set_exception(error) if error else answer.set_result(None)
