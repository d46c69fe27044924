"""How messages travel through AMQP 1.0: a link for each topic and direction, in the thread of proton's reactor."""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from functools import partial, wraps
from threading import Semaphore, Thread
from typing import Any, Concatenate, ParamSpec

from proton import Condition, Connection, Delivery, Endpoint, Event, Link, Message, Session
from proton.reactor import ApplicationEvent, Container, EventInjector

from .contract import Bridge, PublishError, SubscribeError, Transport
from .settings import TOO_LARGE, Settings

CREDIT = 200
"""How many messages of a topic the broker may have on their way."""

BACKLOG = 1000
"""How many messages may wait for the event loop, before the thread waits for it, too, and reads no more."""

P = ParamSpec("P")
Answer = asyncio.Future[None]


def in_thread(
    method: Callable[Concatenate["BrokerTransport", Answer, P], None],
) -> Callable[Concatenate["BrokerTransport", P], Coroutine[Any, Any, None]]:
    """Have a method called in the thread, and wait until the answer that it is given is settled."""

    @wraps(method)
    async def ask(self: "BrokerTransport", *arguments: P.args, **options: P.kwargs) -> None:
        answer: Answer = asyncio.get_running_loop().create_future()
        self._call(method, self, answer, *arguments, **options)
        await answer

    return ask


class BrokerTransport(Transport[Settings]):
    """One connection, in a thread; all that is not awaited runs there, but `_call`, `_received` and `_end`.

    No object of proton's leaves that thread, since not even freeing one elsewhere is safe; nor does an exception, whose
    traceback would hold some. Each link has a session of its own, since that is what RabbitMQ ends to refuse.
    """

    _thread: Thread | None = None
    _connection: Connection | None = None

    async def connect(self) -> None:
        self.max_frame_bytes = self.settings.max_frame_bytes
        self._inlets, self._outlets, self._links = dict[str, Link](), dict[str, Link](), dict[Session, Link]()
        self._pings, self._pinged = list[Answer](), set[Link]()
        self._tell, self._calls, self._selectables = Bridge().call, EventInjector(), list[Any]()
        self._room = Semaphore(BACKLOG)
        self._ended: Answer = asyncio.get_running_loop().create_future()
        self._thread = Thread(target=self._run, name="proton", daemon=True)
        self._thread.start()
        await self.ping()  # a broker may greet before it refuses

    @in_thread
    def publish(self, answer: Answer, topic: str, payload: bytes) -> None:
        link = self._outlets.get(topic) or self._attach(topic, self._outlets)
        link.waiting.append((answer, Message(payload, inferred=True).encode()))
        self._go_on(link)

    @in_thread
    def subscribe(self, answer: Answer, topic: str) -> None:
        link = self._inlets.get(topic) or self._attach(topic, self._inlets)
        link.asked.append(answer)
        if link.is_open:
            self._tell(settle, link.asked)

    @in_thread
    def unsubscribe(self, answer: Answer, topic: str) -> None:
        link = self._inlets[topic]
        link.asked = [answer]
        self._detach(link)

    @in_thread
    def ping(self, answer: Answer) -> None:
        """Have the broker say of each subscription that it has sent what there is; without any, begin a session."""
        self._pings.append(answer)
        self._pinged |= {link for link in self._inlets.values() if link.is_open}
        for link in self._pinged:
            link.drain(0)
        if not self._pinged:
            self._connection = self._connection or self.settings.open(self._container)
            self._connection.session().open()

    async def close(self) -> None:
        for _ in range(2 if self._thread else 0):  # first politely
            self._call(self._stop)
            await asyncio.wait((self._ended,), timeout=0.4)

    def _call(self, function: Callable[..., object], *arguments: Any, **options: Any) -> None:
        if not self._ended.done():
            self._calls.trigger(ApplicationEvent("call", subject=partial(function, *arguments, **options)))

    def _received(self, topic: str, payload: bytes) -> None:
        self._room.release()
        self.inbox.received(topic, payload)

    def _end(self) -> None:
        self._ended.set_result(None)
        for end in self._calls.pipe:  # proton leaves it open
            os.close(end)

    def _run(self) -> None:
        try:
            self._container = Container(self)
            self._container.selectable(self._calls)
            self._container.start()
            while self._container.do_work(3600):
                pass
        except Exception as error:
            self._tell(self.inbox.lost, ConnectionError(f"{type(error).__name__}: {error}"))
        for selectable in self._selectables:
            selectable.close()
        self._tell(self._end)

    def _stop(self, condition: Condition | None = None) -> None:
        self._tell(self.inbox.lost, self.settings.error(condition))
        if self._connection and self._connection.state & Endpoint.LOCAL_ACTIVE:
            self._connection.close()
        else:
            self._container.stop()

    def _attach(self, topic: str, links: dict[str, Link]) -> Link:
        assert self._connection
        session = self._connection.session()
        session.open()
        link = (self.settings.receiver if links is self._inlets else self.settings.sender)(session, topic)
        link.topic, link.asked, link.waiting, link.sent = topic, [], deque[tuple[Answer, bytes]](), {}
        link.is_open = link.is_leaving = False
        link.open()
        links[topic] = self._links[session] = link
        return link

    def _detach(self, link: Link) -> None:
        link.is_leaving = True
        del (self._inlets if link.is_receiver else self._outlets)[link.topic]
        link.close()
        link.session.close()
        self._heard(link)

    def _fail(self, link: Link, condition: Condition | None) -> None:
        """End what the broker has ended, a link or its session, and tell those whom it concerns."""
        if not link.is_leaving:
            self._detach(link)
            if link.is_receiver and link.is_open:
                self._stop(condition)
            answers = [*link.asked, *link.sent.values(), *(answer for answer, _ in link.waiting)]
            self._tell(settle, answers, self.settings.error(condition, SubscribeError if link.asked else PublishError))

    def _heard(self, link: Link | None = None) -> None:
        self._pinged.discard(link)
        if not self._pinged:
            self._tell(settle, self._pings)
            self._pings = []

    def _go_on(self, link: Link) -> None:
        """Send what waits, as far as the broker permits; or permit the broker more."""
        while link.is_sender and link.waiting and link.credit > 0:
            answer, data = link.waiting.popleft()
            if 0 < link.remote_max_message_size < len(data):
                self._tell(settle, [answer], self.settings.error(TOO_LARGE))
            elif not answer.done():
                delivery = link.delivery(link.delivery_tag())
                link.sent[delivery.tag] = answer
                link.stream(data)
                link.advance()
        if link.is_receiver and link.is_open and not link.draining():
            if link.drain_mode:
                link.drained()
                self._heard(link)
            if link.drain_mode or link.credit <= CREDIT // 2:
                link.flow(CREDIT - link.credit)

    def on_call(self, event: ApplicationEvent) -> None:
        event.subject()

    def on_selectable_init(self, event: Event) -> None:
        self._selectables.append(event.selectable)

    def on_transport_closed(self, event: Event) -> None:
        self._stop(event.transport.condition or event.connection.remote_condition)

    on_connection_remote_close = on_transport_closed

    def on_session_remote_open(self, event: Event) -> None:
        if event.session not in self._links:  # a ping's
            self._heard()
            event.session.close()

    def on_session_remote_close(self, event: Event) -> None:
        if link := self._links.pop(event.session, None):
            if link.is_leaving:
                self._tell(settle, link.asked)
            self._fail(link, event.session.remote_condition)
        event.session.free()

    def on_link_remote_open(self, event: Event) -> None:
        link = event.link
        # Without an address it is refused; why, is told by the detaching that follows.
        if not link.is_leaving and (link.remote_source if link.is_receiver else link.remote_target).address:
            link.is_open = True
            self._tell(settle, link.asked)
            self._go_on(link)

    def on_link_remote_close(self, event: Event) -> None:
        self._fail(event.link, event.link.remote_condition)

    on_link_remote_detach = on_link_remote_close

    def on_link_flow(self, event: Event) -> None:
        self._go_on(event.link)

    def on_delivery(self, event: Event) -> None:
        link, delivery = event.link, event.delivery
        if link.is_sender and (delivery.settled or delivery.remote_state > Delivery.RECEIVED):
            self._tell(settle, [link.sent.pop(delivery.tag, None)], self.settings.verdict(delivery))
            delivery.settle()
        elif link.is_receiver and delivery.readable and not delivery.partial:
            message = Message()
            message.decode(link.recv(delivery.pending))
            link.advance()
            delivery.settle()
            self._room.acquire()
            self._tell(self._received, link.topic, bytes(message.body))  # copied, since its memory is freed
            self._go_on(link)


def settle(answers: Iterable[Answer], error: Exception | None = None) -> None:
    for answer in answers:
        if answer and not answer.done():
            answer.set_exception(error) if error else answer.set_result(None)
