"""The settings of the Redis connector."""

from typing import ClassVar, Self
from urllib.parse import unquote

from pydantic import Field, SecretStr, model_validator

from .contract import TlsSettings

SENTINELS = ("redis+sentinel", "rediss+sentinel")
FOR_SENTINELS = ("sentinel_username", "sentinel_password")


class Settings(TlsSettings):
    """Redis 6 or later, Valkey, and what speaks their protocol: one server, a set with Sentinel, or a cluster."""

    schemes: ClassVar = ("redis", "rediss", *SENTINELS, "unix")
    schemes_without_hosts: ClassVar = ("unix",)
    tls_schemes: ClassVar = ("rediss", "rediss+sentinel")

    url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379"),
        description="redis://[user:password@]host[:port][,host[:port]...], redis+sentinel://...host[:port].../NAME for "
        "the sentinels of the primary NAME, or unix://[user:password@]/path; rediss:// and rediss+sentinel:// for TLS. "
        "The ports are 6379 and, of sentinels, 26379 if not given.",
    )
    sentinel_username: str | None = Field(default=None, description="The user at the sentinels, if they ask for one.")
    sentinel_password: SecretStr | None = Field(
        default=None, description="The password at the sentinels, if they ask for one."
    )

    @model_validator(mode="after")
    def _heeds_all_of_the_url(self) -> Self:
        scheme, path = self.address.scheme, self.address.rest
        if "?" in path:
            raise ValueError(
                "url: takes no options; TLS is set by tls_ca_file and its like, and the login by username and password"
            )
        if scheme in SENTINELS and not self.primary_name:
            raise ValueError(f"url: must end with the name of the primary, as in {scheme}://host:26379/NAME")
        if scheme in ("redis", "rediss") and path not in ("", "/"):
            database = repr(path) if path[1:].isdecimal() else "the path"
            raise ValueError(
                f"url: must end after its hosts: leave out {database}, since publish/subscribe is the same in all databases"
            )
        if scheme not in SENTINELS and (vain := [name for name in FOR_SENTINELS if getattr(self, name) is not None]):
            raise ValueError(f"{' and '.join(vain)}: only for the sentinels of redis+sentinel:// or rediss+sentinel://")
        if scheme == "unix" and self.uses_tls:
            raise ValueError("url: a Unix socket has no TLS; leave the tls_ settings out")
        return self

    @property
    def primary_name(self) -> str | None:
        """The sentinels' name of the primary, if the url is theirs; "" if it has none."""
        if self.address.scheme not in SENTINELS:
            return None
        name = self.address.rest.removeprefix("/")
        return "" if "/" in name else unquote(name)

    @property
    def sentinel_login(self) -> tuple[str | None, str | None]:
        """User and password at the sentinels."""
        password = self.sentinel_password
        return self.sentinel_username, None if password is None else password.get_secret_value()
