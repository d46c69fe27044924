"""Connectors that are broken in one way each, and the clauses by which the pack finds out."""

from typing import NamedTuple


class Edit(NamedTuple):
    """A replacement in one module of the package; what is replaced occurs there once."""

    module: str
    old: str
    new: str


class Defect(NamedTuple):
    """What is wrong, how it is made, and the clauses of which one must fail; their chapters are run, in this order."""

    name: str
    clauses: str
    edits: tuple[Edit, ...]


def broken(name: str, clauses: str, module: str, old: str, new: str, *more: str) -> Defect:
    """Describe a defect that takes one replacement in a module, or several."""
    pairs = (old, new, *more)
    return Defect(name, clauses, tuple(Edit(module, *pair) for pair in zip(pairs[::2], pairs[1::2], strict=True)))


TRANSPORT = "transport.py"
CHANNELS = "contract/channels.py"
CODEC = "contract/codec.py"
CONNECTOR = "contract/connector.py"
ERRORS = "contract/errors.py"
EVENTS = "contract/events.py"
FRAME = "contract/frame.py"
INBOX = "contract/inbox.py"
LINK = "contract/link.py"
LISTENERS = "contract/listeners.py"
OUTBOX = "contract/outbox.py"
SETTINGS = "contract/settings.py"
TOPICS = "contract/topics.py"

IN_TRANSPORT = [
    broken(
        "each message goes to one node only",
        "M1",
        TRANSPORT,
        "class Dialogue(asyncio.Protocol):\n",
        "class Dialogue(asyncio.Protocol):\n    taken: set[bytes] = set()\n",
        "                self._inbox.received(said[1].decode(), said[2])",
        "                if said[2] not in self.taken:\n"
        "                    self.taken.add(said[2])\n"
        "                    self._inbox.received(said[1].decode(), said[2])",
    ),
    broken(
        "publish does not wait for the broker",
        "E3",
        TRANSPORT,
        'await self._ask("PUBLISH", topic, payload)',
        'asyncio.ensure_future(self._ask("PUBLISH", topic, payload)).add_done_callback(lambda done: done.exception())',
    ),
    broken(
        "publish returns when the message is written",
        "R4 R3",
        TRANSPORT,
        'await self._ask("PUBLISH", topic, payload)',
        'self._socket.write(hiredis.pack_command(("PUBLISH", topic, payload)))  # type: ignore[arg-type]\n'
        "            self._dialogue.answer().add_done_callback(lambda done: done.exception())",
    ),
    broken(
        "publish blocks the event loop",
        "T2",
        TRANSPORT,
        "    async def publish(self, topic: str, payload: bytes) -> None:\n",
        "    async def publish(self, topic: str, payload: bytes) -> None:\n        import time\n\n        time.sleep(0.1)\n",
    ),
    broken(
        "subscribe does not wait for the broker",
        "M3 M1",
        TRANSPORT,
        'await self._ask("SUBSCRIBE", topic)',
        "asyncio.get_running_loop().call_later(\n"
        '                0.01, lambda: asyncio.ensure_future(self._ask("SUBSCRIBE", topic))\n'
        "            )",
    ),
    broken(
        "unsubscribe does nothing",
        "M4",
        TRANSPORT,
        'await self._ask("UNSUBSCRIBE", topic)',
        "return",
    ),
    broken(
        "a topic is a pattern",
        "M6",
        TRANSPORT,
        '"SUBSCRIBE", topic)\n        except',
        '"PSUBSCRIBE", topic)\n        except',
        'and said[0] == b"message":',
        'and said[0] == b"pmessage":\n                del said[0]',
        '"UNSUBSCRIBE", topic',
        '"PUNSUBSCRIBE", topic',
    ),
    broken("topics are lower-cased", "M6 M2", TRANSPORT, "said[1].decode()", "said[1].decode().lower()"),
    broken("topics are stripped", "M6", TRANSPORT, "said[1].decode()", "said[1].decode().strip()"),
    broken("topics are cut at 100 characters", "M6", TRANSPORT, '("SUBSCRIBE", topic)', '("SUBSCRIBE", topic[:100])'),
    broken(
        "close leaves the connection open",
        "L4 L3 L2",
        TRANSPORT,
        "if self._connection:\n",
        "if not self._connection:\n",
    ),
    broken("there is no ping", "R1", TRANSPORT, 'await self._ask("PING")', "return"),
    broken(
        "a broken connection is not told",
        "R1 R2",
        TRANSPORT,
        'self._inbox.lost(error or ConnectionResetError("the server closed the connection"))',
        "pass",
    ),
    broken(
        "a refused publish is just an error",
        "E3",
        TRANSPORT,
        "raise PublishError(str(refusal)) from refusal",
        "raise OSError(str(refusal)) from refusal",
    ),
]

IN_LIFECYCLE = [
    broken(
        "ready is emitted twice",
        "L2",
        CONNECTOR,
        'self._events.emit("ready")',
        'self._events.emit("ready")\n        self._events.emit("ready")',
    ),
    broken(
        "ready is emitted before it is so",
        "L2",
        LINK,
        "        self._connection = connection\n        self._changed.set()\n        self._on_up(connection)\n",
        "        self._on_up(connection)\n        self._connection = connection\n        self._changed.set()\n",
    ),
    broken("close is not emitted", "L4 L6", CONNECTOR, 'self._events.emit("close")', "pass"),
    broken("closing twice closes twice", "L4", CONNECTOR, "if self._closing is None:", "if True:"),
    broken(
        "connecting again makes another connection",
        "L2",
        CONNECTOR,
        "        if self._connections:\n",
        "        if self._connections and not self.is_ready:\n",
    ),
    broken(
        "connecting twice at once makes two connections",
        "L2",
        CONNECTOR,
        "        if self._opening is None:\n",
        "        if True:\n",
    ),
    broken("connecting has no time-out", "L3", LINK, "self._settings.connect_timeout)", "3600)"),
    broken(
        "a failed attempt is not closed",
        "L3 L4",
        LINK,
        "        except BaseException:\n            await connection.close()\n            raise\n",
        "        except BaseException:\n            raise\n",
    ),
    broken(
        "a loss while connecting is forgotten",
        "L3 R2",
        LINK,
        "if not self.gone.done():\n            self.gone.set_result(error)",
        "if self._watching and not self.gone.done():\n            self.gone.set_result(error)",
    ),
    broken(
        "cancelling connect leaves the attempt running",
        "L7",
        CONNECTOR,
        "                opening.cancel()\n                await asyncio.wait((opening,))\n",
        "                pass\n",
    ),
    broken(
        "what outlives a connection is left at the end",
        "L4",
        LINK,
        "            await self._connection.leave(self._settings.heartbeat)\n",
        "            pass\n",
    ),
    broken(
        "what outlives a connection is undone at a loss",
        "L4 R4",
        LINK,
        '        self.lost(ConnectionAbortedError("closed"))\n',
        '        await self.transport.leave()\n        self.lost(ConnectionAbortedError("closed"))\n',
    ),
    broken("close drops what was accepted", "L4", CONNECTOR, "await self._outbox.drain()", "pass"),
    broken(
        "close waits for what cannot be sent in an outage",
        "L4 R6",
        CONNECTOR,
        "        if self._link.is_up:\n            await self._outbox.drain()",
        "        await self._outbox.drain()",
    ),
    broken("close leaves publishers waiting", "L4", CONNECTOR, "await self._outbox.fail(self._closed)", "pass"),
    broken("a listener that closes waits for itself", "M9", LISTENERS, "if self.is_calling_us():", "if False:"),
    broken("operations before connect() wait", "L5", CONNECTOR, "if not self._connections:", "if False:"),
    broken(
        "an error in the body leaves it open",
        "L6",
        CONNECTOR,
        "    ) -> None:\n        await self.close()",
        "    ) -> None:\n        if error is None:\n            await self.close()",
    ),
    broken("the name is empty", "L8", CONNECTOR, "name = BROKER_NAME", 'name = ""'),
    broken(
        "an error is of no common kind",
        "L8 L4",
        ERRORS,
        "class ClosedError(ConnectorError)",
        "class ClosedError(Exception)",
    ),
    broken("once is for ever", "L2", CONNECTOR, "self._events.once(event, handler)", "self._events.on(event, handler)"),
    broken("the environment is not asked", "L1 L4", SETTINGS, "[0].upper()}_", "[0].upper()}"),
    broken("the password is part of the address", "L9", SETTINGS, ".rpartition('@')[2]}\"", '}"'),
    broken("secrets are not taken out of errors", "L9", SETTINGS, "text = text.replace(secret, HIDDEN)", "pass"),
    broken("a bad secret is shown", "L1", SETTINGS, 'fault["input"] if public else HIDDEN', 'fault["input"]'),
    broken("only the first bad field is named", "L1", SETTINGS, "in error.errors()]", "in error.errors()[:1]]"),
]

IN_MESSAGING = [
    broken("own messages are not filtered", "M2 M1", INBOX, "if frame.is_from(self._own_id, payload):", "if False:"),
    broken("own messages are not counted", "R4", INBOX, "self.filtered += 1", "pass"),
    broken(
        "own messages are known by the node's name",
        "M2",
        CONNECTOR,
        "self._id = uuid4().bytes",
        "self._id = settings.node_name.encode()[:16].ljust(16)",
    ),
    broken(
        "own messages are filtered for the first listener only",
        "M2",
        INBOX,
        "            self.filtered += 1\n            return\n        subscriptions = self._subscriptions(topic)\n",
        "            self.filtered += 1\n            subscriptions = self._subscriptions(topic)[1:]\n"
        "        else:\n            subscriptions = self._subscriptions(topic)\n",
    ),
    broken("each listener subscribes at the broker", "M4", CHANNELS, "if wanted and not given:", "if wanted:"),
    broken(
        "the last listener does not unsubscribe at the broker",
        "M4",
        CHANNELS,
        "            await self._finish(self._release(channel))",
        "            self._tidy(channel)",
    ),
    broken(
        "unsubscribing one listener unsubscribes all",
        "M5 M4 M3",
        CHANNELS,
        "        self._remove(channel, subscription)\n        if not channel",
        "        for each in list(channel.subscriptions):\n            self._remove(channel, each)\n        if not channel",
    ),
    broken("what waits is delivered after unsubscribe", "M5", CHANNELS, "        subscription.stop()\n", ""),
    broken(
        "a second listener gets what was sent before",
        "M3",
        CHANNELS,
        "subscription.live = channel.is_idle",
        "subscription.live = True",
    ),
    broken("every private topic is the same", "M8", TOPICS, 'return f"PRIVATE/{node_name}"', 'return "PRIVATE"'),
    broken(
        "what waits leaves in the wrong order",
        "M7",
        OUTBOX,
        "messages.append(waiting.popleft())",
        "messages.append(waiting.pop())",
    ),
    broken(
        "a listener that raises gets nothing more",
        "M10",
        LISTENERS,
        "                except Exception as error:\n                    self._complain(error)\n",
        "                except Exception as error:\n                    self._complain(error)\n                    raise\n",
    ),
    broken(
        "a listener that cancels itself gets nothing more",
        "M10",
        LISTENERS,
        "if (task := asyncio.current_task()) and task.cancelling():",
        "if True:",
    ),
    broken(
        "listeners share one object",
        "M10",
        INBOX,
        "[decode(head.serialization, head.body)[known:] for _ in others]",
        "[list(messages) for _ in others]",
    ),
    broken(
        "a slow listener holds up the others",
        "M11",
        LISTENERS,
        "                        await result\n",
        "                        async with _lock:\n                            await result\n",
        '_call: ContextVar[object] = ContextVar("call", default=None)\n',
        '_lock = asyncio.Lock()\n_call: ContextVar[object] = ContextVar("call", default=None)\n',
    ),
    broken("what waits for a listener has no limit", "M11 T3", LISTENERS, "if excess <= 0:", "if True:"),
    broken("the newest are dropped", "M11", LISTENERS, "self._queue.popleft()", "self._queue.pop()"),
    broken("a slow listener's losses are miscounted", "M11", LISTENERS, "count=excess,", "count=1,"),
    broken("a large frame counts as a slow listener", "M11", LISTENERS, "loop.call_soon(self._trim)", "self._trim()"),
]

IN_SERIALISATION = [
    broken("NaN becomes null", "S2", CODEC, "if not math.isfinite(value):", "if False:"),
    broken("keys become text", "S2", CODEC, "if not isinstance(key, str):", "if False:"),
    broken("bytes become text", "S2", CODEC, "isinstance(value, str | int)", "isinstance(value, str | int | bytes)"),
    broken(
        "integers may have any size",
        "S2",
        CODEC,
        "as_msgpack = _to_msgpack(message)",
        'as_msgpack = _to_msgpack(message) if serialization == "msgpack" else b""',
    ),
    broken("nothing is checked", "S2", CODEC, "if _from_json(as_json) != message:", "if False:"),
    broken("numbers are little-endian", "S1", FRAME, '">BBB16sQ"', '"<BBB16sQ"'),
    broken(
        "both serialisations are taken for one",
        "S1",
        FRAME,
        "return Frame(_NAMES[serialization],",
        'return Frame("json",',
    ),
    broken(
        "the message is taken when the coroutine runs",
        "S3 M7",
        CONNECTOR,
        "    def publish(self, topic: str, message: Any) -> Coroutine[Any, Any, None]:",
        "    async def publish(self, topic: str, message: Any) -> None:",
        "return _raise(error)",
        "raise error",
        "return receipt",
        "await receipt",
    ),
    broken(
        "a bad payload ends the receiving",
        "S4",
        INBOX,
        "except Exception as error:",
        "except ZeroDivisionError as error:",
    ),
    broken(
        "a bad payload is ignored",
        "S4",
        INBOX,
        "        except Exception as error:\n",
        "        except Exception as error:\n            return\n",
    ),
    broken("a frame of any version is read", "S4", FRAME, "if version != VERSION:", "if False:"),
    broken(
        "a large message is taken",
        "S5",
        OUTBOX,
        "        if len(data) > self._largest:\n            raise",
        "        if False:\n            raise",
    ),
    broken(
        "messages are joined beyond what the broker takes",
        "S5",
        OUTBOX,
        "if messages and size + frame.overhead(len(messages) + 1) > self._frame_limit:",
        "if False:",
    ),
]

IN_ERRORS = [
    broken(
        "a refusal is taken for success", "E3 E1", OUTBOX, "                refusal = error\n", "                pass\n"
    ),
    broken(
        "a refused publish is tried again", "E3", OUTBOX, "(PublishError, MessageTooLargeError)", "MessageTooLargeError"
    ),
    broken(
        "a refusal is an event too",
        "E1",
        CONNECTOR,
        "            callback(error)\n",
        "            callback(error)\n            self._report_failure(error)\n",
    ),
    broken(
        "a refused subscription is tried again",
        "E3",
        CHANNELS,
        "            except SubscribeError as refusal:\n",
        "            except ZeroDivisionError as refusal:\n",
    ),
    broken(
        "a refused subscription leaves its listener",
        "E3 E1",
        CHANNELS,
        "if is_new and subscription in channel.subscriptions:",
        "if False:",
    ),
    broken(
        "a refusal when restoring undoes the connection",
        "E3",
        CHANNELS,
        "if isinstance(result, SubscribeError):",
        "if False:",
    ),
    broken(
        "the client's own cancelling ends the sending", "E3", OUTBOX, "(Exception, asyncio.CancelledError)", "Exception"
    ),
    broken(
        "the client's own cancelling ends the subscribing",
        "E3",
        LINK,
        'raise ConnectionAbortedError("the client library cancelled the call")',
        "raise asyncio.CancelledError",
    ),
    broken(
        "a callback that raises ends the sending",
        "E2",
        CONNECTOR,
        "except (Exception, asyncio.CancelledError) as raised:",
        "except ZeroDivisionError as raised:",
    ),
    broken("an error to which nobody listens is raised", "E2", EVENTS, 'if self.listeners("error"):', "if True:"),
    broken(
        "an event without a listener is dropped",
        "E2",
        EVENTS,
        'logger.error("%s: %s", type(error)',
        'logger.debug("%s: %s", type(error)',
    ),
    broken(
        "an error does not say where",
        "E2",
        CONNECTOR,
        'f"The connection to {self.settings.where} was lost',
        'f"The connection was lost',
    ),
]

IN_RECOVERY = [
    broken(
        "it is ready during an outage",
        "R1",
        CONNECTOR,
        "return self._link.is_up and",
        "return self._connections > 0 and",
    ),
    broken("silence is noticed too late", "R1", LINK, "third = heartbeat / 3", "third = heartbeat * 2"),
    broken(
        "a healthy, idle connection is given up",
        "R5 R1 R2",
        LINK,
        "self.call(self.transport.ping(),",
        "self.call(asyncio.sleep(heartbeat),",
    ),
    broken(
        "a blocked event loop is taken for a loss",
        "R5",
        LINK,
        "patience = self._loop.time() - began - patience",
        "patience = 0.0",
    ),
    broken(
        "an error at every failed attempt",
        "R2",
        LINK,
        '                logger.warning(\n                    "Attempt',
        '                self._on_down(error)\n                logger.warning(\n                    "Attempt',
    ),
    broken(
        "ready is not emitted again",
        "R2 R1",
        CONNECTOR,
        '        self._events.emit("ready")',
        '        if self._connections == 1:\n            self._events.emit("ready")',
    ),
    broken(
        "subscriptions are not restored",
        "R2 R1",
        CHANNELS,
        "channels = list(self._channels.values())",
        "channels: list[Channel[S]] = []",
    ),
    broken(
        "it tries again without a pause",
        "R2",
        LINK,
        "asyncio.sleep(longest * random.uniform(0.5, 1))",
        "asyncio.sleep(0)",
    ),
    broken(
        "pauses between attempts do not grow",
        "R2",
        LINK,
        "longest = min(settings.reconnect_delay_min *",
        "longest = min(settings.reconnect_delay_min, 0 *",
    ),
    broken("pauses between attempts have no jitter", "R2", LINK, "random.uniform(0.5, 1)", "1"),
    broken(
        "a lost transport is not closed",
        "R2 R1",
        LINK,
        "            finally:\n                await connection.close()\n            connection =",
        "            finally:\n                pass\n            connection =",
    ),
    broken(
        "a late loss of an abandoned transport counts",
        "R2",
        LINK,
        "        self.memory = memory\n",
        '        self.memory = memory\n        memory.setdefault("newest", [self])[0] = self\n',
        "        if not self.gone.done():\n            self.gone.set_result(error)",
        '        self = self.memory["newest"][0]\n        if not self.gone.done():\n            self.gone.set_result(error)',
    ),
    broken(
        "what an abandoned transport receives counts",
        "R2",
        LINK,
        "        if not self.gone.done():\n            self.heard",
        "        if True:\n            self.heard",
    ),
    broken(
        "silence while restoring goes unnoticed",
        "R1 R2",
        LINK,
        "            connection.watch(self._settings.heartbeat)\n            await self._restore(connection)\n",
        "            await self._restore(connection)\n            connection.watch(self._settings.heartbeat)\n",
    ),
    broken(
        "an outage makes a publish hang",
        "R3",
        OUTBOX,
        "        if self._expiry is None:\n            self._expire_at",
        "        if False:\n            self._expire_at",
    ),
    broken(
        "what waits is dropped at a loss",
        "R3",
        OUTBOX,
        "            self._stop(lane)\n            if lane.shipment",
        "            self._stop(lane)\n            lane.waiting.clear()\n            if lane.shipment",
    ),
    broken(
        "what was on its way is dropped at a loss",
        "R4 R3",
        OUTBOX,
        "if lane.shipment and not lane.shipment.messages:",
        "if lane.shipment:",
    ),
    broken(
        "what is sent again gets new numbers",
        "R4",
        OUTBOX,
        "            if lane.shipment and not lane.shipment.messages:\n",
        "            if lane.shipment:\n                lane.waiting.extendleft(reversed(lane.shipment.messages))\n",
    ),
    broken(
        "what is split keeps no number",
        "R4",
        OUTBOX,
        "        lane.number = shipment.number\n        lane.shipment = None",
        "        lane.shipment = None",
    ),
    broken("duplicates are delivered", "R4", INBOX, "if known:", "if False:"),
    broken("losses are not reported", "R4", INBOX, "if number > due:", "if False:"),
    broken(
        "losses are counted in frames",
        "R4",
        INBOX,
        "self._missed(topic, sender, number - due)",
        "self._missed(topic, sender, 1)",
    ),
    broken(
        "losses are counted twice",
        "R4",
        INBOX,
        "self._missed(topic, sender, number - due)",
        "self._missed(topic, sender, 2 * (number - due))",
    ),
    broken(
        "a silent node does not tell its number", "R4 R3", OUTBOX, "lane.owes_number = True", "lane.owes_number = False"
    ),
    broken(
        "an empty frame counts what is on its way",
        "R4",
        OUTBOX,
        "if lane.is_known and lane.sender is None and lane.spoke",
        "if lane.is_known and lane.sender and self._connection:\n"
        '                told = frame.pack("json", self._sender_id, lane.number, [])\n'
        "                loop.create_task(self._connection.transport.publish(lane.topic, told))\n"
        "            if lane.is_known and lane.sender is None and lane.spoke",
    ),
    broken(
        "a message that is given up takes no number",
        "R4",
        OUTBOX,
        "                left -= 1\n                lane.number += 1\n",
        "                left -= 1\n",
    ),
    broken("who has left is not forgotten", "R4", CONNECTOR, "        self._intake.forget(topic)", "        pass"),
    broken(
        "who comes back is told of what came meanwhile",
        "R4",
        CHANNELS,
        "                        self.forget(self.topic)",
        "                        pass",
    ),
    broken(
        "unsubscribing waits for the end of the outage",
        "R6",
        CHANNELS,
        "            if self._link.is_up:\n",
        "            if True:\n",
    ),
    broken(
        "cancelling subscribe cuts it short",
        "L7",
        CHANNELS,
        "        task = self._start(work)\n        await asyncio.wait((task,))\n        if",
        "        await work\n        task = self._start(asyncio.sleep(0))\n        await task\n        if",
    ),
    broken(
        "a cancelled subscription leaves its listener",
        "L7",
        CHANNELS,
        "        except BaseException:\n",
        "        except Exception:\n",
    ),
]

IN_THROUGHPUT = [
    broken(
        "messages never share a frame",
        "T1",
        OUTBOX,
        "while waiting and len(messages) < (1 if lane.alone else JOINED_MESSAGES):",
        "while waiting and not messages:",
    ),
    broken(
        "a lone message waits for others",
        "T1",
        OUTBOX,
        "        me = asyncio.current_task()\n",
        "        me = asyncio.current_task()\n        await asyncio.sleep(0.005)\n",
    ),
    broken(
        "topics wait for each other",
        "T1",
        OUTBOX,
        "await connection.transport.publish(lane.topic, shipment.payload)",
        "async with self._lock:\n                    await connection.transport.publish(lane.topic, shipment.payload)",
        "        self.pending = 0\n",
        "        self.pending = 0\n        self._lock = asyncio.Lock()\n",
    ),
    broken("a listener's queue is worked on at one go", "T2", LISTENERS, "if time() > pause:", "if False:"),
    broken(
        "sending blocks the event loop",
        "T2",
        OUTBOX,
        "        me = asyncio.current_task()\n",
        "        me = asyncio.current_task()\n        sum(range(5_000_000))\n",
    ),
    broken(
        "the outbox has no limit",
        "T3",
        OUTBOX,
        "if self._bytes + len(data) > self._settings.max_outbox_bytes:",
        "if False:",
    ),
    broken("what has left still counts", "T3", OUTBOX, "self._bytes -= len(message.data)", "pass"),
    broken("senders are never forgotten", "T3", INBOX, "if len(self._next) > KNOWN_SENDERS:", "if False:"),
]

DEFECTS = [
    *IN_TRANSPORT,
    *IN_LIFECYCLE,
    *IN_MESSAGING,
    *IN_SERIALISATION,
    *IN_ERRORS,
    *IN_RECOVERY,
    *IN_THROUGHPUT,
]
