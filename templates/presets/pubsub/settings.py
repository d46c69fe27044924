"""The settings of the Google Cloud Pub/Sub connector."""

import os
from datetime import timedelta
from typing import Annotated, Any, ClassVar
from urllib.parse import unquote

from pydantic import Field, FilePath, SecretStr, field_validator

from .contract import ConnectorSettings, escape

LONGEST_NAME = 255
EMULATOR_PORT = 8085
SHORTEST_EXPIRY = timedelta(days=1)
ACK_DEADLINE = 10  # seconds, the least: a node's loss may hold up messages in flight for so long


class Settings(ConnectorSettings):
    """Google Cloud Pub/Sub, or Google's emulator of it."""

    schemes: ClassVar = ("pubsub",)

    url: SecretStr = Field(
        default=SecretStr(f"pubsub://127.0.0.1:{EMULATOR_PORT}/deepstream"),
        description="pubsub://PROJECT for the service, or for an emulator if PUBSUB_EMULATOR_HOST says where one is; "
        "pubsub://host:port/PROJECT for an emulator there.",
    )
    credentials_file: FilePath | None = Field(
        default=None, description="The key of a service account (JSON), instead of Google's default credentials."
    )
    endpoint: str = Field(
        default="pubsub.googleapis.com",
        min_length=1,
        description="Where the service is: a region's own, as in us-east1-pubsub.googleapis.com, keeps the order of "
        "messages of nodes that run elsewhere.",
    )
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9._~+-]{2,99}$")] = Field(
        default="deepstream.",
        description="The prefix of the names of all topics and subscriptions, to tell them from others of the project; "
        "all nodes of a cluster have the same.",
    )
    retention: Annotated[int, Field(ge=600, le=86_400)] = Field(
        default=600, description="Seconds for which the service keeps what a node has missed, from 600 to 86400."
    )

    @field_validator("url")
    @classmethod
    def _names_one_place(cls, url: SecretStr) -> SecretStr:
        if "," in url.get_secret_value().rpartition("@")[2]:
            raise ValueError("must name one project or one emulator: the service has one address")
        if "?" in url.get_secret_value():
            raise ValueError("must have no options: all that can be set is a setting of its own")
        return url

    @property
    def emulator(self) -> str | None:
        """Host and port of the emulator, if the url means one."""
        place, is_path, _ = self._place
        if is_path or ":" in place:
            return place if ":" in place else f"{place}:{EMULATOR_PORT}"
        return os.environ.get("PUBSUB_EMULATOR_HOST") or None

    @property
    def project(self) -> str:
        """The project that the names of topics and subscriptions are in."""
        place, is_path, path = self._place
        return unquote(path.strip("/") or "deepstream" if is_path or ":" in place else place)

    @property
    def _place(self) -> tuple[str, str, str]:
        return self.url.get_secret_value().partition("://")[2].rpartition("@")[2].partition("/")

    def topic_name(self, topic: str) -> str:
        """Return the service's name of a topic."""
        name = escape(topic, longest=LONGEST_NAME - len(self.prefix))
        return f"projects/{self.project}/topics/{self.prefix}{name}"

    def subscription_name(self, topic: str, node: str) -> str:
        """Return the service's name of a node's subscription to a topic."""
        name = escape(topic, longest=LONGEST_NAME - len(self.prefix) - len(node) - 1)
        return f"projects/{self.project}/subscriptions/{self.prefix}{name}.{node}"

    def new_subscription(self, name: str, topic: str, node: str) -> dict[str, Any]:
        """Return the request for a node's new subscription to a topic."""
        return {
            "name": name,
            "topic": self.topic_name(topic),
            "ack_deadline_seconds": ACK_DEADLINE,
            "enable_message_ordering": True,
            "expiration_policy": {"ttl": SHORTEST_EXPIRY},
            "filter": f'attributes.node != "{node}"',
            "message_retention_duration": timedelta(seconds=self.retention),
        }
