"""The settings of the MQTT connector."""

import ssl
from typing import ClassVar
from urllib.parse import unquote, urlsplit

from paho.mqtt.client import Client
from pydantic import Field, FilePath, SecretStr

from .contract import ConnectorSettings


class Settings(ConnectorSettings):
    """A broker that speaks MQTT 5: Mosquitto, EMQX, HiveMQ, NanoMQ, VerneMQ, a cloud's."""

    schemes: ClassVar = ("mqtt", "mqtts")

    url: SecretStr = Field(
        default=SecretStr("mqtt://127.0.0.1:1883"),
        description="mqtt://[user:password@]host[:port], or mqtts:// for TLS; the ports are 1883 and 8883 if not given.",
    )
    username: str | None = Field(default=None, description="The user, if the url does not name it.")
    password: SecretStr | None = Field(default=None, description="The user's password, if the url does not hold it.")
    client_id: str | None = Field(
        default=None,
        max_length=65_535,
        description="The client identifier, for a broker with rights by it; no two nodes may have the same. "
        "Random when not given.",
    )
    tls_ca_file: FilePath | None = Field(
        default=None, description="The certificates (PEM) that vouch for the broker; otherwise the system's."
    )
    tls_cert_file: FilePath | None = Field(
        default=None, description="This client's certificate (PEM), for a broker that asks for one."
    )
    tls_key_file: FilePath | None = Field(
        default=None, description="The key (PEM) of this client's certificate, if it is not in the same file."
    )

    def address(self) -> tuple[str, int]:
        """Return host and port."""
        parts = urlsplit(self.url.get_secret_value())
        return parts.hostname or "", parts.port or (8883 if self._is_tls else 1883)

    def apply_to(self, client: Client) -> None:
        """Tell paho's client what is set here."""
        parts = urlsplit(self.url.get_secret_value())
        password = self.password.get_secret_value() if self.password else parts.password and unquote(parts.password)
        client.username = self.username or (parts.username and unquote(parts.username))
        client.password = password
        client.connect_timeout = self.connect_timeout
        if self._is_tls:
            context = ssl.create_default_context(cafile=self.tls_ca_file)
            context.sslsocket_class = TlsSocket
            if self.tls_cert_file:
                context.load_cert_chain(self.tls_cert_file, self.tls_key_file)
            client.tls_set_context(context)

    @property
    def _is_tls(self) -> bool:
        return self.url.get_secret_value().startswith("mqtts:") or bool(self.tls_ca_file or self.tls_cert_file)


class TlsSocket(ssl.SSLSocket):
    """Closes when the handshake fails, which paho leaves to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise
