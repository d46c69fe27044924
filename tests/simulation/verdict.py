"""The sums at the end of a run: what was delivered and what was reported must be what was sent."""

from .model import NOTHING, Ear, Model, Said
from .plan import topic_of

FORGOTTEN = 590.0
"""Seconds of silence on a topic after which its sender may forget what it said there."""


class Verdict:
    """The sums at the end: at each node, of each sender, on each topic, delivered + reported = sent."""

    def __init__(
        self,
        model: Model,
        *,
        present: list[str],
        alive: list[str],
        repairs: bool,
        tells: bool,
        last_words: bool,
    ) -> None:
        self._model = model
        self._present = present
        self._alive = alive
        self._repairs = repairs
        self._tells = tells
        self._last_words = last_words
        self._end = model.loop.time()

    def judge(self) -> None:
        model = self._model
        for said in (said for line in model.said.values() for said in line):
            if said.outcome == "waiting" and said.sender in self._alive:
                model.fault("R3", f"{said.mark} was never settled", node=said.sender)
        for node in self._present:
            topics = list(dict.fromkeys(ear.topic for ear in model.ears if ear.node == node))
            for topic in topics:
                ears = [ear for ear in model.ears if (ear.node, ear.topic) == (node, topic)]
                if not any((node, lane) in model.exempt for ear in ears for lane in ear.lanes):
                    self._topic(node, topic, ears)

    def _topic(self, node: str, topic: str, ears: list[Ear]) -> None:
        slow = self._model.slow.get((node, topic), 0) + self._model.slow.get((node, ""), 0)
        lines: dict[str, list[list[Said]]] = {}
        for (sender, lane), line in self._model.said.items():
            if topic_of(lane) == topic and sender != node:
                lines.setdefault(sender, []).append(line)
        for sender in lines:
            slow -= self._pair(node, topic, sender, lines[sender], ears, slow)

    def _pair(self, node: str, topic: str, sender: str, lines: list[list[Said]], ears: list[Ear], slow: int) -> int:
        """Judge one receiver, sender and topic; returns how many of the messages must have been dropped as slow."""
        model = self._model
        missing: dict[Said, list[Ear]] = {}
        possible = 0
        for line in lines:
            listening = [ear for ear in ears if line[0].topic in ear.lanes]
            if listening:
                possible += self._line(node, sender, line, listening, missing)
            else:
                self._unheard(node, sender, line, ears)
        lost = [said for said, due in missing.items() if not due]
        partly = {said: due for said, due in missing.items() if due}
        reported = model.reported.get((node, sender, topic), 0)
        dropped = sum(len(due) for due in partly.values())
        if dropped > slow:
            said, due = next(iter(partly.items()))
            self._blame("M1", f"{due[0].name} did not get {said.mark}, another listener did", node, said)
        least = len(lost) - max(slow - dropped, 0)
        if not least <= reported <= len(lost) + possible:
            wrong = lost[0] if lost and reported < least else lines[0][-1]
            self._blame(
                "R4",
                f"{node} of {sender} on {topic}: {len(lost)} missing ({_ranges(lost)}), "
                f"{possible} that may be missing, but {reported} reported",
                node,
                wrong,
            )
        can_repair = self._repairs and {node, sender} <= set(self._alive) and sender not in model.limited
        if can_repair and lost and reported and not slow:
            text = f"{node} of {sender} on {topic}: {_ranges(lost)} lost (and reported), though the history is ample"
            self._blame("R4", text, node, lost[0])
        return max(dropped, 0)

    def _unheard(self, node: str, sender: str, line: list[Said], ears: list[Ear]) -> None:
        """Judge what was said where a node with fewer shards does not listen."""
        hears_all = any(ear.key is None and ear.live is not None and ear.left is None for ear in ears)
        was_said = line[-1].outcome == "ok" and {node, sender} <= set(self._alive)
        if self._last_words and hears_all and was_said and (node, sender) not in self._model.differing:
            self._blame("E2", f"{node} was not told that {sender} has more shards", node, line[-1])

    def _line(self, node: str, sender: str, line: list[Said], ears: list[Ear], missing: dict[Said, list[Ear]]) -> int:
        """Find what is missing of a sender on a topic of the broker; return how many more messages may be missing."""
        model = self._model
        key = sender, line[0].topic
        possible = 0
        first = min(ear.called for ear in ears)
        # A newcomer that can ask nobody takes the first of these for the first that is owed to it.
        ghosts = [] if model.asks else [said.index for said in line if said.ghost >= first]
        for said in line:
            got = [ear for ear in ears if said.index in ear.got.get(key, ())]
            if said.outcome in NOTHING:
                if got:
                    self._blame("R3", f"{got[0].name} got {said.mark}, whose publish was {said.outcome}", node, said)
                continue
            due = [ear for ear in ears if ear not in got and self._is_due(ear, said, line)]
            if due:
                missing[said] = due if got else []
            may_be_owed = said.routed is None or said.routed >= first or any(index < said.index for index in ghosts)
            if not got and not due and may_be_owed:
                possible += 1
        return possible

    def _is_due(self, ear: Ear, said: Said, line: list[Said]) -> bool:
        """Tell whether the listener must have got the message, or its node have reported it."""
        if said.outcome != "ok" or ear.live is None or said.called < ear.live:
            return False
        key = said.sender, said.topic
        last = ear.last.get(key, -1)
        overtaken = said.index < last
        if not overtaken and (ear.left is not None or said.sender not in self._alive or ear.node not in self._alive):
            return False
        if not overtaken and not self._tells:
            return False
        if ear.left is not None and said.called >= ear.left:
            return False
        if not self._model.beginnings and not any(index < said.index for index in ear.got.get(key, ())):
            return False
        return not self._is_forgotten(ear.node, said, line)

    def _is_forgotten(self, node: str, said: Said, line: list[Said]) -> bool:
        later = line[said.index + 1].called if said.index + 1 < len(line) else self._end
        if later - said.called < FORGOTTEN:
            return False
        return any(said.called - 5 <= time <= later for time in self._model.away.get(node, ()))

    def _blame(self, clause: str, text: str, node: str, said: Said) -> None:
        self._model.fault(clause, text, node=node, sender=said.sender, topic=said.topic, index=said.index)


def _ranges(messages: list[Said]) -> str:
    """Show the numbers of messages as `3-7, 9`."""
    parts: list[list[int]] = []
    for number in (said.index for said in messages):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    shown = ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in parts[:6])
    return shown + (" …" if len(parts) > 6 else "") or "none"
