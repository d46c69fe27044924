"""TLS: its settings, the same in every package that has it, and the context for them."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, ClassVar, NamedTuple, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from .settings import ConnectorSettings

FILES = "tls_ca_file", "tls_cert_file", "tls_key_file"


def _read(text: type) -> BeforeValidator:
    """Tell a text in PEM, which becomes an object of the type `text`, from the name of a file, which must be there."""

    def read(value: Any) -> Any:
        if isinstance(value, str) and "-----BEGIN " in value:
            return text(value)
        if isinstance(value, str | Path):
            if not Path(value).is_file():
                raise ValueError("must be the name of an existing file, or its text in PEM")
            return Path(value)
        return value

    return BeforeValidator(read)


class TlsSettings(ConnectorSettings):
    """The settings of a connector whose broker can speak TLS; `ssl_context` makes the context that a client needs."""

    tls_schemes: ClassVar[tuple[str, ...]] = ()
    """Schemes that mean TLS."""

    tls: bool = Field(
        default=False,
        description="Whether to speak TLS; also on if the url's scheme says so, or any other tls_ setting is given.",
    )
    tls_ca_file: Annotated[Path | str | None, _read(str)] = Field(
        default=None,
        description="The certificates that vouch for the broker: a file, or its text in PEM; by default the system's.",
    )
    tls_cert_file: Annotated[Path | SecretStr | None, _read(SecretStr)] = Field(
        default=None,
        description="This client's certificate, for a broker that asks for one: a file, or its text in PEM.",
    )
    tls_key_file: Annotated[Path | SecretStr | None, _read(SecretStr)] = Field(
        default=None,
        description="The key of that certificate, without a password, unless it is in the same file: a file, or its "
        "text in PEM.",
    )
    tls_verify_hostname: bool = Field(
        default=True, description="Whether the broker's certificate must be for the host in the url."
    )

    @model_validator(mode="after")
    def _agrees_about_tls(self) -> Self:
        if self.tls_key_file and not self.tls_cert_file:
            raise ValueError("tls_key_file needs the certificate that it belongs to: tls_cert_file")
        if self.uses_tls and "tls" in self.model_fields_set and not self.tls:
            raise ValueError("tls = False, but the scheme of the url, or another tls_ setting, means TLS")
        return self

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is to be encrypted: any setting of TLS, or the scheme, says so."""
        given = [name for name in self.model_fields_set if name.startswith("tls_") and getattr(self, name) is not None]
        return self.tls or self.address.scheme in self.tls_schemes or bool(given)


class TlsFiles(NamedTuple):
    """The names of files in PEM; None for what is not set."""

    ca: Path | None
    cert: Path | None
    key: Path | None


@contextmanager
def tls_files(settings: TlsSettings) -> Iterator[TlsFiles]:
    """Lend the settings' texts as files, which only this user can read and which are gone after the block."""
    with TemporaryDirectory() as folder:

        def file(name: str) -> Path | None:
            value: Path | SecretStr | str | None = getattr(settings, name)
            if value is None or isinstance(value, Path):
                return value
            path = Path(folder) / name
            path.write_text(value if isinstance(value, str) else value.get_secret_value())
            return path

        yield TlsFiles(*map(file, FILES))


def ssl_context(settings: TlsSettings, host_name: str | None = None) -> ssl.SSLContext:
    """Return what a client needs to speak TLS: the broker's certificate is checked, for its signature and its name.

    The name is that of the host in the url, even where the client connects to one of its IP addresses.

    Arguments:
        settings: those of one attempt; files are read again at each call.
        host_name: another name to check; "" for that of the host to which the client connects.

    Raises `ValueError` if a file or a text is not what its setting says, and `OSError` if a file cannot be read.
    """
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)
    context.host_name = settings.host_name if host_name is None else host_name
    context.check_hostname = settings.tls_verify_hostname
    with tls_files(settings) as files:
        if files.ca is None:
            context.load_default_certs()
        else:
            try:
                context.load_verify_locations(files.ca)
            except ssl.SSLError as error:
                raise ValueError("tls_ca_file holds no certificates in PEM") from error
        if files.cert is not None:
            try:
                context.load_cert_chain(files.cert, files.key, password=_no_password)
            except ssl.SSLError as error:
                text = f"tls_cert_file and tls_key_file do not hold a certificate and its key in PEM ({error.reason})"
                raise ValueError(text) from error
    return context


def _no_password() -> str:
    raise ValueError("tls_key_file holds a key with a password: store the key without one")


class _Context(ssl.SSLContext):
    """A context that checks certificates for a fixed name, if it has one."""

    host_name = ""

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        return super().wrap_socket(*arguments, **self._named(options))

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        return super().wrap_bio(*arguments, **self._named(options))

    def _named(self, options: dict[str, Any]) -> dict[str, Any]:
        return {**options, "server_hostname": self.host_name} if self.host_name else options
