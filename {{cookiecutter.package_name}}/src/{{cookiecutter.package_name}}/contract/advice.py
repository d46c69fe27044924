"""What to check when a broker cannot be reached."""

import socket
import ssl
from collections.abc import Iterable

from .errors import ConnectError
from .secrets import chain
from .settings import ConnectorSettings
from .tls import TlsSettings

RIGHTS = "The broker refuses: check user, password and rights."
FUNCTION = "Fix the function that returns the settings."
FILE = "Check password_file."

_UNTRUSTED = (
    "The broker's certificate is not accepted: tls_ca_file must contain its authority, and the url must name a host that "
    "it covers."
)
_NO_TLS = (
    "Check that the broker speaks TLS on this port. If it asks for a certificate, set tls_cert_file to one that the "
    "broker trusts."
)
_NO_NAME = "This host name has no address: check it in the url."
_NOBODY = "Nothing listens there: check host and port in the url, and that the broker runs."
_SILENT = "Check that the broker runs there, and user and password if it asks for them."
_SILENT_PLAIN = f"{_SILENT} If it accepts only TLS, set tls."
_SILENT_TLS = (
    "Check that the broker runs there and speaks TLS. If it asks for a certificate, set tls_cert_file to one that the "
    "broker trusts."
)


def advice(errors: Iterable[BaseException], settings: ConnectorSettings) -> str:
    """Return what to check after these errors, one for each host, as sentences; "" if they say it themselves."""
    found = dict.fromkeys(_of(error, settings) for error in errors)
    return RIGHTS if RIGHTS in found else " ".join(filter(None, found))


def _of(error: BaseException, settings: ConnectorSettings) -> str:
    if isinstance(error, ConnectError):
        return RIGHTS if error.refused is True else ""  # a transport's own words
    for one in chain(error):
        for kind, sentence in _SENTENCES.items():
            if isinstance(one, kind):
                return sentence
    if not isinstance(settings, TlsSettings):
        return _SILENT
    return _SILENT_TLS if settings.uses_tls else _SILENT_PLAIN


_SENTENCES: dict[type[BaseException], str] = {
    ssl.SSLCertVerificationError: _UNTRUSTED,
    ssl.SSLError: _NO_TLS,
    socket.gaierror: _NO_NAME,
    ConnectionRefusedError: _NOBODY,
}
