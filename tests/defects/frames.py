"""Defects in what travels: serialisation, frames, limits, digests."""

from typing import Any

from .patching import Machinery, defect, instead, nothing


@defect("what cannot round-trip is not refused", "S2/round_trip")
def _(m: Machinery) -> None:
    nothing(m.serialization, "_prove")


@defect("any depth is taken", "S1/deepest S4/can_have_sent")
def _(m: Machinery) -> None:
    m.serialization.MAX_DEPTH = 900


@defect("one level less is taken", "S1/deepest")
def _(m: Machinery) -> None:
    m.serialization.MAX_DEPTH -= 1


@defect("a part of a message is lost", "S1")
def _(m: Machinery) -> None:
    for kind in (m.serialization.Json, m.serialization.MessagePack):

        @instead(kind, "decode")
        def decode(original: Any, self: Any, body: bytes) -> Any:
            return [message if message != {} else None for message in original(self, body)]


@defect("both serialisations are taken for one", "S1/both")
def _(m: Machinery) -> None:
    instead(m.serialization, "by_code")(lambda original, code: original(1))


@defect("the message is taken when the coroutine runs", "S3")
def _(m: Machinery) -> None:
    @instead(m.connector.MessageConnector, "publish")
    async def publish(original: Any, self: Any, topic: str, message: Any) -> None:
        await original(self, topic, message)


@defect("a bad payload ends the receiving", "S4/no_frame")
def _(m: Machinery) -> None:
    @instead(m.node_inbox.NodeInbox, "_bad")
    def bad(original: Any, self: Any, *args: Any) -> None:
        raise ConnectionAbortedError("a bad payload")


@defect("a bad payload is ignored", "S4/no_frame")
def _(m: Machinery) -> None:
    nothing(m.node_inbox.NodeInbox, "_bad")


@defect("a flood of bad frames is told without a count", "S4/flood")
def _(m: Machinery) -> None:
    @instead(m.node_inbox.NodeInbox, "_bad_frame")
    def bad_frame(original: Any, self: Any, topic: str, count: int) -> Any:
        return original(self, topic, 1)


@defect("a frame of any version is read", "S4/no_frame")
def _(m: Machinery) -> None:
    @instead(m.wire, "unpack")
    def unpack(original: Any, payload: bytes) -> Any:
        return original(bytes([m.wire.VERSION]) + payload[1:])


@defect("a frame of any kind is read", "S4/can_have_sent S4/no_frame")
def _(m: Machinery) -> None:
    @instead(m.wire, "unpack")
    def unpack(original: Any, payload: bytes) -> Any:
        kind = payload[2:3] if payload[2:3] in (b"\1", b"\2", b"\3", b"\4") else b"\1"
        return original(payload[:2] + kind + payload[3:])


@defect("impossible numbers are read", "S4/can_have_sent")
def _(m: Machinery) -> None:
    m.wire.LARGEST_NUMBER = 2**70


@defect("what only MessagePack has is delivered", "S4/can_have_sent")
def _(m: Machinery) -> None:
    @instead(m.serialization.MessagePack, "decode")
    def decode(original: Any, self: Any, body: bytes) -> Any:
        return self.copy(body)


@defect("a large message is taken", "S5/before_it_is_sent")
def _(m: Machinery) -> None:
    for kind in (m.serialization.Json, m.serialization.MessagePack):
        instead(kind, "encode")(lambda original, self, message, most: original(self, message, 100 * most))


@defect("messages are joined beyond what the broker takes", "S5/never_exceeded")
def _(m: Machinery) -> None:
    @instead(m.sending.Sender, "resume")
    def resume(original: Any, self: Any, most: int | None, now: float) -> Any:
        found = original(self, most, now)
        self._room = m.sending.JOINED_BYTES
        return found


@defect("a frame of any size is decoded", "S5/receivers_limit")
def _(m: Machinery) -> None:
    @instead(m.node_inbox.NodeInbox, "__init__")
    def init(original: Any, self: Any, *args: Any) -> None:
        original(self, *args)
        self._largest = 2**40


@defect("the first of many refused together refuses all", "S5/one_by_one")
def _(m: Machinery) -> None:
    @instead(m.sending.Sender, "_refused")
    def refused(original: Any, self: Any, lane: Any, shipment: Any, why: Any, now: float) -> Any:
        lane.shipment = None
        return [self._settled(lane, shipment.messages, m.sending.Verdict.REFUSED, why)]


@defect("a wrong digest is taken", "S6/only_signed")
def _(m: Machinery) -> None:
    nothing(m.wire, "compare_digest", True)


@defect("a frame without a digest is taken", "S6/only_signed")
def _(m: Machinery) -> None:
    @instead(m.wire.Signer, "verify")
    def verify(original: Any, self: Any, topic: str, payload: bytes) -> bytes:
        is_signed = len(payload) >= 40 and payload[39] & m.wire.SIGNED
        return bytes(original(self, topic, payload)) if is_signed else payload


@defect("the digest leaves out the topic", "S6/only_signed")
def _(m: Machinery) -> None:
    instead(m.wire, "_digest")(lambda original, key, topic, content: original(key, "", content))


@defect("the digest leaves out the content", "S6/only_signed")
def _(m: Machinery) -> None:
    instead(m.wire, "_digest")(lambda original, key, topic, content: original(key, topic, content[:26]))


@defect("only the first key is right", "S6/key_can_be_changed")
def _(m: Machinery) -> None:
    instead(m.wire.Signer, "__init__")(lambda original, self, keys=(): original(self, keys[:1]))


@defect("the last key signs", "S6/key_can_be_changed")
def _(m: Machinery) -> None:
    @instead(m.wire.Signer, "sign")
    def sign(original: Any, self: Any, topic: str, payload: bytes) -> bytes:
        self._keys.reverse()
        try:
            return bytes(original(self, topic, payload))
        finally:
            self._keys.reverse()


@defect("forged messages make later ones vanish", "S6/forged_run")
def _(m: Machinery) -> None:
    nothing(m.receiving.Receiver, "_check", False)
