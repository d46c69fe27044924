"""The settings that every connector has; a broker's own are added in the package's `settings.py`."""

import re
import traceback
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import parse_qsl, unquote
from uuid import uuid4

from pydantic import Field, SecretBytes, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ..about import SERIALIZATION

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]

HIDDEN = "**********"
_SECRET_NAME = re.compile("pass|pwd|token|secret|key", re.IGNORECASE)


class ConnectorSettings(BaseSettings):
    """What a connector needs to know; each field can come from the environment, prefixed and upper-case.

    Raises `pydantic.ValidationError` (a `ValueError`) that names every bad field, its value (never
    a secret) and the rule.
    """

    model_config = SettingsConfigDict(
        env_prefix=f"{__name__.partition('.')[0].upper()}_",
        extra="forbid",
        frozen=True,
    )

    schemes: ClassVar[tuple[str, ...]] = ()
    """What a url may begin with; none: anything."""

    url: SecretStr = Field(description="Where the broker is; may hold user and password.")
    node_name: str = Field(
        default_factory=lambda: uuid4().hex,
        min_length=1,
        description="This node's name, which its private topic carries; random when not given.",
    )
    serialization: Literal["json", "msgpack"] = Field(
        default=SERIALIZATION, description="How messages are sent; nodes of both kinds understand each other."
    )
    connect_timeout: Seconds = Field(default=5.0, description="Seconds that one attempt to connect may take.")
    publish_timeout: Seconds = Field(
        default=10.0, description="Seconds for the broker to accept a message, outages included."
    )
    heartbeat: Seconds = Field(default=5.0, description="Seconds within which a dead connection is noticed.")
    max_message_bytes: Count = Field(default=1024 * 1024, description="The largest message, in bytes when serialised.")
    max_outbox_bytes: Count = Field(
        default=128 * 1024 * 1024, description="What may wait to be sent, in bytes; beyond it publishing raises."
    )
    max_pending_messages: Count = Field(
        default=100_000, description="What may wait for one listener; beyond it the oldest are dropped and counted."
    )
    reconnect_delay_min: Seconds = Field(default=0.1, description="Seconds before the first new attempt to connect.")
    reconnect_delay_max: Seconds = Field(default=5.0, description="Seconds between attempts, at the most.")

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
            return
        except ValidationError as error:
            clean = ValidationError.from_exception_data(
                error.title, [_without_secret(fault, type(self)) for fault in error.errors()]
            )
        raise clean

    @field_validator("url")
    @classmethod
    def _has_scheme(cls, url: SecretStr) -> SecretStr:
        scheme, separator, rest = url.get_secret_value().partition("://")
        if not separator or not rest or (cls.schemes and scheme not in cls.schemes):
            rule = " or ".join(f"{scheme}://…" for scheme in cls.schemes) or "scheme://host:port"
            raise ValueError(f"must look like {rule}")
        authority, others = _split(rest)
        if authority and "@" in others.partition("=")[0]:
            raise ValueError("must have / ? # and @ in user and password percent-encoded")
        for host in authority.rpartition("@")[2].split(","):
            port = host.rpartition("]")[2].partition(":")[2]
            if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
                raise ValueError("must have a number from 1 to 65535 as port, and user and password percent-encoded")
        return url

    @field_validator("node_name")
    @classmethod
    def _is_text(cls, name: str) -> str:
        name.encode()
        return name

    @field_validator("reconnect_delay_max")
    @classmethod
    def _not_less_than_min(cls, longest: float, info: ValidationInfo) -> float:
        if longest < info.data.get("reconnect_delay_min", 0):
            raise ValueError(f"must not be less than reconnect_delay_min = {info.data['reconnect_delay_min']:g}")
        return longest

    @property
    def where(self) -> str:
        """The broker's address to show: scheme, host and port, without user, password and options."""
        scheme, _, rest = self.url.get_secret_value().partition("://")
        return f"{scheme}://{_split(rest)[0].rpartition('@')[2]}"

    @property
    def _secrets(self) -> list[str]:
        authority, _ = _split(self.url.get_secret_value().partition("://")[2])
        user, _, password = authority.rpartition("@")[0].partition(":")
        options = parse_qsl(self.url.get_secret_value().partition("?")[2])
        found = {password or user, *(value for name, value in options if _SECRET_NAME.search(name))}
        for name, value in self.__dict__.items():
            if isinstance(value, SecretStr) and name != "url":
                found.add(value.get_secret_value())
            elif isinstance(value, SecretBytes):
                found.add(value.get_secret_value().decode(errors="replace"))
        found |= {unquote(secret) for secret in found}
        return sorted(found - {""}, key=len, reverse=True)

    def redact(self, text: str) -> str:
        """Return `text` without the passwords and the other secrets of these settings."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text

    def describe(self, error: BaseException) -> str:
        """Put `error` in words that hold no secret."""
        text = str(error).rstrip(".")
        return self.redact(f"{type(error).__name__}: {text}" if text else type(error).__name__)

    def cause(self, error: BaseException) -> BaseException | None:
        """Return `error` to be chained as a cause, or None if its traceback would show a secret."""
        shown = "".join(traceback.format_exception(error)) + repr(error)
        return error if self.redact(shown) == shown else None


def _split(rest: str) -> tuple[str, str]:
    """Split what follows `://` in a url into user, password, hosts and ports, and what comes after those."""
    end = next((index for index, character in enumerate(rest) if character in "/?#"), len(rest))
    return rest[:end], rest[end:]


def _without_secret(fault: Any, settings: type[ConnectorSettings]) -> InitErrorDetails:
    """Rebuild one fault of a `ValidationError` with the value hidden where the field is a secret."""
    field = settings.model_fields.get(str(fault["loc"][0])) if fault["loc"] else None
    public = field is not None and "Secret" not in repr(field.annotation)
    return InitErrorDetails(
        type=PydanticCustomError(fault["type"], "{rule}", {"rule": fault["msg"]}),
        loc=fault["loc"],
        input=fault["input"] if public else HIDDEN,
    )
