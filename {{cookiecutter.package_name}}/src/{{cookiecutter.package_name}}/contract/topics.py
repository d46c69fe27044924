"""The coarse topics on which the nodes of a cluster keep in step."""

from enum import StrEnum


class Topic(StrEnum):
    """The topics that every node shares."""

    RECORD = "RECORD"
    RPC = "RPC"
    EVENT = "EVENT"


def private_topic(node_name: str) -> str:
    """Name the topic on which only the node `node_name` listens."""
    return f"PRIVATE/{node_name}"


def is_private(topic: str) -> bool:
    """Tell whether a topic is some node's private one."""
    return topic.startswith("PRIVATE/")


def text_of(topic: str) -> str:
    """Return the text of a topic that is an instance of a subclass of `str`, such as a member of an enumeration."""
    return str.__str__(topic)


def topic_fault(topic: object) -> str | None:
    """Say what keeps `topic` from being a topic, or None: any non-empty text will do."""
    if not isinstance(topic, str):
        return f"topic = {topic!r}: must be a str"
    if not topic:
        return "topic = '': must not be empty"
    try:
        topic.encode()
    except UnicodeEncodeError:
        return f"topic = {topic!r}: must be text that UTF-8 can carry (it has a lone surrogate)"
    return None
