"""The story of a failing seed: its settings, its faults, and what concerns the first breach."""

from .model import Fault, Model
from .plan import Plan, topic_of

SHOWN = 40
"""Lines of the trace in a story."""


def tell(plan: Plan, model: Model, began: float, *, full: bool = False) -> str:
    """Tell the story of a seed: its settings, its faults, and what concerns the first breach."""
    lines = [f"seed {plan.seed} ({plan.shape.kind}): {plan.describe()}"]
    quiet = {"say", "listen", "leave", "come"}
    first = model.faults[0] if model.faults else Fault("", "", 0)
    lines += [f"  {step}" for step in plan.steps if step.what not in quiet or _concerns(step.values, first)]
    lines += [f"  ** {fault.at - began:9.3f}  {fault}" for fault in model.faults[:8]]
    if len(model.faults) > 8:
        lines.append(f"  ** and {len(model.faults) - 8} more")
    entries = [entry for entry in model.trace if full or _is_about(entry, first)]
    shown = entries if full else entries[-SHOWN:]
    lines += [f"     {float(str(entry[0])) - began:9.3f}  {' '.join(map(str, entry[1:]))}" for entry in shown]
    return "\n".join(lines)


def _concerns(values: dict[str, object], fault: Fault) -> bool:
    topic = values.get("topic")
    if topic is not None and topic_of(str(topic)) != topic_of(fault.topic):
        return False
    node = values.get("node") or str(values.get("ear", "")).partition(".")[0]
    return node in (fault.node, fault.sender)


def _is_about(entry: tuple[object, ...], fault: Fault) -> bool:
    """Tell whether a line of the trace concerns the sender, topic and message of a breach."""
    words = [str(word) for word in entry[1:]]
    if words[0] in ("event", "FAULT"):
        return words[1] in (fault.node, fault.sender) or words[0] == "FAULT"
    if words[0] == "got":
        return words[1].startswith(f"{fault.node}.") and words[2:] == [fault.sender, fault.topic, str(fault.index)]
    if words[0] == "settled":
        return words[1] == f"<{fault.sender}|{fault.topic}|{fault.index}>"
    if words[0] == "reported":
        return words[1:4] == [fault.node, fault.sender, topic_of(fault.topic)]
    return words[0] in ("listens", "subscribes", "unsubscribes") and words[1].startswith(f"{fault.node}.")
