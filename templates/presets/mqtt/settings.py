"""The settings of the MQTT connector."""

from typing import ClassVar

from pydantic import Field, SecretStr

from .contract import TlsSettings


class Settings(TlsSettings):
    """A broker that speaks MQTT 5: Mosquitto, EMQX, HiveMQ, NanoMQ, VerneMQ, a cloud's."""

    schemes: ClassVar = ("mqtt", "mqtts")
    schemes_with_hosts_only: ClassVar = schemes
    tls_schemes: ClassVar = ("mqtts",)
    of_one_node: ClassVar = ("node_name", "client_id")

    url: SecretStr = Field(
        default=SecretStr("mqtt://127.0.0.1:1883"),
        description="mqtt://[user:password@]host[:port][,host[:port]...], or mqtts:// for TLS; the ports are 1883 and "
        "8883 if not given.",
    )
    client_id: str | None = Field(
        default=None,
        max_length=65_535,
        description="The client identifier, for a broker whose rights depend on it; no two nodes may have the same. "
        "By default random.",
    )
    max_frame_bytes: int | None = Field(
        default=None,
        gt=1024,
        description="The largest message that the broker takes, in bytes, if it takes less than it says: nothing "
        "larger is sent to it.",
    )
