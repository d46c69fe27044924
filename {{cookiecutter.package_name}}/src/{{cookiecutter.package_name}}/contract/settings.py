"""The settings that every connector has; a broker's own are added in the package's `settings.py`."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self
from urllib.parse import parse_qsl

from pydantic import Field, PrivateAttr, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from . import configuration, secrets
from .addresses import Address, Target, parse
from .errors import ConnectorError
from .wire import MOST_SHARDS

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]
SerializationName = Literal["json", "msgpack"]


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

    schemes_without_hosts: ClassVar[tuple[str, ...]] = ()
    """Schemes of urls that name no hosts: `unix` for `unix:///path`."""

    schemes_with_hosts_only: ClassVar[tuple[str, ...]] = ()
    """Schemes of urls that end after their hosts: a path or an option in them is refused."""

    secret_options: ClassVar[tuple[str, ...]] = ()
    """Names of options in the url whose values are secret."""

    user_may_be_token: ClassVar[bool] = False
    """Whether a user without a password in the url is a token, and so a secret."""

    of_one_node: ClassVar[tuple[str, ...]] = ("node_name",)
    """Settings that no two nodes may share."""

    url: SecretStr = Field(description="Where the broker is; may hold user and password, and several hosts.")
    username: str | None = Field(default=None, description="The user; overrides the one in the url.")
    password: SecretStr | None = Field(default=None, description="The password; overrides the one in the url.")
    password_file: Path | None = Field(
        default=None, description="A file with the password; read again at every connection."
    )
    node_name: str | None = Field(
        default=None,
        min_length=1,
        description="This node's name, which its private topic carries; by default random for each connector.",
    )
    serialization: SerializationName | None = Field(
        default=None,
        description="How messages are sent, json or msgpack; nodes of both kinds understand each other. By default the "
        "package's own.",
    )
    connect_timeout: Seconds = Field(default=5.0, description="Seconds that one attempt to connect may take.")
    publish_timeout: Seconds = Field(
        default=10.0, description="Seconds for the broker to accept a message or a subscription, outages included."
    )
    heartbeat: Seconds = Field(default=5.0, description="Seconds within which a dead connection is noticed.")
    max_message_bytes: Count = Field(default=1024 * 1024, description="The largest message, in bytes when serialised.")
    max_outbox_bytes: Count = Field(
        default=128 * 1024 * 1024, description="The most bytes that may wait to be sent; beyond it publishing raises."
    )
    max_pending_messages: Count = Field(
        default=100_000,
        description="The most messages that may wait for one listener; beyond it the oldest are dropped and counted.",
    )
    max_pending_bytes: Count = Field(
        default=128 * 1024 * 1024,
        description="The most bytes that may wait for one listener; beyond it the oldest are dropped and counted.",
    )
    max_history_bytes: Annotated[int, Field(ge=0)] = Field(
        default=16 * 1024 * 1024,
        description="The bytes of sent messages that are kept, to send them again to nodes that missed them; 0 turns "
        "that off.",
    )
    forget_after: Seconds = Field(
        default=600.0,
        description="Seconds of quiet after which a node with more than 1,024 topics forgets one: its messages are no "
        "longer sent again.",
    )
    control_topic: str = Field(
        default="CONTROL",
        min_length=1,
        description="The topic on which the nodes ask for what they missed; the same for all nodes of a cluster.",
    )
    shards: Annotated[int, Field(ge=1, le=MOST_SHARDS)] = Field(
        default=1,
        description="Over how many topics of the broker each topic is spread, by the keys of its messages; the same for "
        "all nodes of a cluster.",
    )
    cluster_key: Annotated[tuple[SecretStr, ...] | None, NoDecode] = Field(
        default=None,
        description="A key that signs all frames, the same for all nodes of a cluster; or several, as a,b or as a JSON "
        "list: the first signs, and all are accepted.",
    )
    reconnect_delay_min: Seconds = Field(default=0.1, description="Seconds before the first attempt to reconnect.")
    reconnect_delay_max: Seconds = Field(default=5.0, description="The longest time between two attempts, in seconds.")

    _target: Target | None = PrivateAttr(default=None)
    """The host that this copy is for, by its name."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
            return
        except ValidationError as error:
            clean = ValidationError.from_exception_data(
                error.title, [_without_secret(fault, type(self)) for fault in error.errors()]
            )
        raise clean

    @classmethod
    def from_config(cls, path: str | Path) -> Self:
        """Return the settings in a file; the others come from the environment.

        In YAML (`.yaml`, `.yml`) and JSON (`.json`) they are at `plugins: message: options`, as in deepstream's kind of
        hosts, and `${NAME}` in a text is replaced by a variable of the environment. A file of another name has lines
        for the environment.

        Raises:
            OSError: the file cannot be read.
            ValueError: the text names the file, the place in it and the rule; `pydantic.ValidationError` names the fields.
        """
        return cls(**configuration.options(Path(path), cls))

    if not TYPE_CHECKING:  # A type checker then goes on to refuse all assignments.

        def __setattr__(self, name: str, value: Any) -> None:
            if not name.startswith("_"):
                raise AttributeError(
                    f"{type(self).__name__}.{name} cannot be set: settings never change; make new ones"
                )
            super().__setattr__(name, value)

    @field_validator("url")
    @classmethod
    def _is_unambiguous(cls, url: SecretStr) -> SecretStr:
        address = parse(url.get_secret_value(), cls.schemes, cls.schemes_without_hosts)
        if address.scheme in cls.schemes_with_hosts_only and address.rest not in ("", "/"):
            raise ValueError(
                "must end after its hosts, without a path or options: TLS, login and the rest have settings of their own"
            )
        return url

    @field_validator("node_name", "control_topic")
    @classmethod
    def _is_text(cls, name: str | None) -> str | None:
        if name is not None:
            name.encode()
        return name

    @field_validator("password_file")
    @classmethod
    def _is_a_file(cls, path: Path | None) -> Path | None:
        if path == Path():
            raise ValueError("must be the name of a file, and not empty")
        return path

    @field_validator("cluster_key", mode="before")
    @classmethod
    def _takes_several(cls, keys: Any) -> Any:
        if isinstance(keys, str):
            keys = json.loads(keys) if keys.lstrip().startswith("[") else [key.strip() for key in keys.split(",")]
        return (keys,) if isinstance(keys, SecretStr) else keys

    @field_validator("cluster_key")
    @classmethod
    def _has_no_empty_key(cls, keys: tuple[SecretStr, ...] | None) -> tuple[SecretStr, ...] | None:
        if keys is not None and not (keys and all(key.get_secret_value() for key in keys)):
            raise ValueError("must not be empty or contain an empty key")
        return keys

    @field_validator("reconnect_delay_max")
    @classmethod
    def _not_less_than_min(cls, longest: float, info: ValidationInfo) -> float:
        if longest < info.data.get("reconnect_delay_min", 0):
            raise ValueError(f"must not be less than reconnect_delay_min = {info.data['reconnect_delay_min']:g}")
        return longest

    @property
    def address(self) -> Address:
        """The parts of the url."""
        return parse(self.url.get_secret_value(), self.schemes, self.schemes_without_hosts)

    @property
    def where(self) -> str:
        """The broker's address to show: scheme, host and port, without user, password and options."""
        address = self.address
        if self._target is None or (self._target,) == address.hosts:
            return address.where
        return f"{address.at(self._target).where} ({address.hosts[0].host})"

    @property
    def host_name(self) -> str:
        """The first host of the url as given, even where `at` has put an IP address there; "" if there is none."""
        hosts = (self._target,) if self._target else self.address.hosts
        return hosts[0].host if hosts else ""

    @property
    def login(self) -> tuple[str | None, str | None]:
        """User and password, from their settings or else from the url, where they are percent-decoded."""
        user, password = self.address.login
        if self.username is not None:
            user = self.username
        if self.password is not None:
            password = self.password.get_secret_value()
        return user, password

    @property
    def cluster_keys(self) -> tuple[bytes, ...]:
        """The keys of the cluster, of which the first one signs; none where frames are not signed."""
        return tuple(key.get_secret_value().encode(errors="surrogatepass") for key in self.cluster_key or ())

    def targets(self) -> list[Target]:
        """Return the hosts of the url; none for a url without hosts."""
        return list(self.address.hosts)

    def at(self, host: str, port: int | None, address: str | None = None) -> Self:
        """Return a copy whose url names this one host, or in its place the IP address to which its name resolves."""
        target = Target(host, port)
        url = self.address.at(target._replace(host=address or host)).url
        copy = self.model_copy(update={"url": SecretStr(url)})
        copy._target = target
        return copy

    def of_another_node(self) -> Self:
        """Return a copy for a node besides this one."""
        return self.model_copy(update=dict.fromkeys(self.of_one_node))

    def present(self) -> Self:
        """Return a copy with the password that `password_file` holds now, without one line break at its end.

        Raises `OSError` if the file cannot be read, and `ValueError` if it is empty or not in UTF-8.
        """
        if self.password_file is None:
            return self
        try:
            password = self.password_file.read_bytes().decode()
        except UnicodeDecodeError:
            password = ""
        password = password.removesuffix("\n").removesuffix("\r")
        if not password:
            raise ValueError(f"password_file = {self.password_file}: it is empty, or not in UTF-8")
        return self.model_copy(update={"password": SecretStr(password)})

    @property
    def _secrets(self) -> list[str]:
        address = self.address
        found = secrets.secrets_in({name: value for name, value in self.__dict__.items() if name != "url"})
        if address.password is not None:
            found.append(address.password)
        elif address.user is not None and self.user_may_be_token:
            found.append(address.user)
        options = parse_qsl(address.rest.partition("?")[2])
        return found + [value for name, value in options if name in self.secret_options]

    def describe(self, error: BaseException) -> str:
        """Put `error` in words that hold no secret: its type and its text, or the text alone if it is a connector's own."""
        text = str(error).rstrip(".") if isinstance(error, ConnectorError) else ""
        return secrets.tell(text, self._secrets) if text else secrets.describe(error, self._secrets)

    def cause(self, error: BaseException) -> BaseException | None:
        """Return `error` to be chained as a cause, or None if its traceback would show a secret."""
        return error if secrets.presentable(error, self._secrets) else None


def _without_secret(fault: Any, settings: type[ConnectorSettings]) -> InitErrorDetails:
    """Rebuild one fault of a `ValidationError`, in few words and with the value hidden, unless it can be no secret."""
    name = str(fault["loc"][0]) if fault["loc"] else ""
    field = settings.model_fields.get(name)
    value, text = fault["input"], fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        text = configuration.unknown(settings, name)
    elif fault["type"] == "path_not_file":
        text = "must be the name of an existing file"
    elif pydantics := re.fullmatch(r"\w+ should (.*?)(, unable to .*)?", text):
        text = f"must {pydantics[1]}"
    if field is None or secrets.is_secret(field.annotation):
        text = secrets.hide(text, [value] if isinstance(value, str) else secrets.secrets_in(value))
        value = secrets.HIDDEN
    return InitErrorDetails(
        type=PydanticCustomError(fault["type"], "{rule}", {"rule": text}), loc=fault["loc"], input=value
    )
