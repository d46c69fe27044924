"""How RabbitMQ is started for the tests, with its plugin for STOMP."""

from pathlib import Path

from .contract.public import RabbitMQ, free_port


class Broker(RabbitMQ):
    """RabbitMQ, which speaks STOMP on the port of the tests, and its own protocol on another one."""

    plugins = ("rabbitmq_stomp",)
    speaks_tls = False
    definitions = {
        "vhosts": [{"name": "/"}],
        "users": [{"name": name, "password": name, "tags": ""} for name in ("guest", "reader")],
        "permissions": [
            {"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"},
            {"user": "reader", "vhost": "/", "configure": "^stomp-", "write": ".*", "read": ".*"},
        ],
        "topic_permissions": [
            {"user": "reader", "vhost": "/", "exchange": "amq.topic", "write": "^CONTROL$", "read": ".*"},
        ],
    }

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.options = {"listeners.tcp.1": f"127.0.0.1:{free_port()}", "stomp.listeners.tcp.1": f"127.0.0.1:{self.port}"}

    @property
    def url(self) -> str:
        return f"stomp://127.0.0.1:{self.port}"
