"""The settings of the MQTT connector."""

import ssl
from typing import ClassVar

from paho.mqtt.client import Client
from pydantic import Field, FilePath, SecretStr

from .contract import ConnectorSettings


class Settings(ConnectorSettings):
    """A broker that speaks MQTT 5: Mosquitto, EMQX, HiveMQ, NanoMQ, VerneMQ, a cloud's."""

    schemes: ClassVar = ("mqtt", "mqtts")
    tls_schemes: ClassVar = ("mqtts",)

    url: SecretStr = Field(
        default=SecretStr("mqtt://127.0.0.1:1883"),
        description="mqtt://[user:password@]host[:port], or mqtts:// for TLS; the ports are 1883 and 8883 if not given.",
    )
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

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is to be encrypted."""
        return super().uses_tls or bool(self.tls_ca_file or self.tls_cert_file)

    def host_and_port(self) -> tuple[str, int]:
        """Return where to connect to."""
        host, port = self.targets()[0]
        return host, port or (8883 if self.uses_tls else 1883)

    def apply_to(self, client: Client) -> None:
        """Tell paho's client what is set here."""
        user, password = self.login
        client.username = user or None
        client.password = password or None
        client.connect_timeout = self.connect_timeout
        if self.uses_tls:
            context = ssl.create_default_context(cafile=self.tls_ca_file)
            context.sslsocket_class = TlsSocket
            if self.tls_cert_file:
                context.load_cert_chain(self.tls_cert_file, self.tls_key_file)
            client.tls_set_context(context)


class TlsSocket(ssl.SSLSocket):
    """Closes when the handshake fails, which paho leaves to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise
