"""The servers for the tests: Apache Artemis, and beside it ActiveMQ Classic, Qpid Broker-J and RabbitMQ's plugin."""

import asyncio
import base64
import hmac
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import unquote, urlsplit

from proton import (
    UNDESCRIBED,
    Array,
    Collector,
    Condition,
    Connection,
    Data,
    Delivery,
    Described,
    Message,
    ProtonException,
    Transport,
    symbol,
    ubyte,
    ulong,
)
from proton.utils import BlockingConnection

from .contract.public import READY_WITHIN, Cluster, RabbitMQ, Server, fetch, free_port, java

USERS = {"guest": "guest", "limited": "s3cr3t", "reader": "s3cr3t"}
"""The users; `limited` may do all with the topic `allowed`, `reader` may receive it, `guest` may do all.

On RabbitMQ, whose plugin breaks the connection to refuse a subscription, `limited` has the control topic, too.
"""

LARGEST = 2_000_000
"""The most that RabbitMQ takes, in bytes."""

SILENCE = 8
"""Seconds after which Artemis drops a silent client."""

SASL = b"AMQP\x03\x01\x00\x00"
MECHANISMS = "MSSBCBS", "PLAIN", "ANONYMOUS", "EXTERNAL"
"""How a login with AMQP begins, and the kinds of it that Azure Service Bus offers."""

ERROR = "<Error><Code>{}</Code><Detail>{}</Detail></Error>"
ENTRY = """<entry xmlns="http://www.w3.org/2005/Atom"><title type="text">{}</title><content type="application/xml">
<SubscriptionDescription xmlns="http://schemas.microsoft.com/netservices/2010/10/servicebus/connect">
<LockDuration>PT1M</LockDuration><RequiresSession>false</RequiresSession><Status>Active</Status>
</SubscriptionDescription></content></entry>"""
"""An answer of Azure Service Bus's management."""

LOGIN_MODULE = """
org.apache.activemq.artemis.spi.core.security.jaas.{0}LoginModule sufficient
    reload=true org.apache.activemq.jaas.{1}.{2}="{3}" org.apache.activemq.jaas.{1}.role="roles";
"""
"""Artemis's configuration of users: those with a password, or with a certificate."""

ACTIVEMQ = """
import java.util.*;
import org.apache.activemq.broker.*;
import org.apache.activemq.filter.DestinationMapEntry;
import org.apache.activemq.security.*;

public class Start {
    static AuthorizationEntry entry(String topic, String users) throws Exception {
        AuthorizationEntry entry = new AuthorizationEntry();
        entry.setTopic(topic);
        entry.setRead(users);
        entry.setWrite(users);
        entry.setAdmin(users);
        return entry;
    }

    public static void main(String[] words) throws Exception {
        List<AuthenticationUser> users = new ArrayList<>();
        for (int i = 1; i < words.length; i += 2)
            users.add(new AuthenticationUser(words[i], words[i + 1], words[i]));
        List<DestinationMapEntry> rights = List.of(
            entry(">", "guest"), entry("deepstream.allowed", "guest,limited"),
            entry("ActiveMQ.Advisory.>", "guest,limited"));
        BrokerService broker = new BrokerService();
        broker.setPersistent(false);
        broker.setUseJmx(false);
        broker.setPlugins(new BrokerPlugin[] {
            new SimpleAuthenticationPlugin(users),
            new AuthorizationPlugin(new DefaultAuthorizationMap(rights)) });
        broker.addConnector(words[0]);
        broker.start();
        broker.waitUntilStopped();
    }
}
"""
"""A program that runs ActiveMQ: its arguments are where it listens, and the users with their passwords."""


class AmqpServer(Server):
    """A server that is ready only once it lets a client in."""

    kind: Literal["artemis", "activemq", "qpid", "rabbitmq"]

    def is_ready(self) -> bool:
        return super().is_ready() and (self.certificate is not None or self.lets_in())

    def lets_in(self) -> bool:
        """Tell whether a client can connect."""
        try:
            self.connect(timeout=1).close()
        except ProtonException:
            return False
        return True

    def connect(self, timeout: float) -> BlockingConnection:
        """Return a connection of another client than the connector's."""
        user, password = self.login or ("guest", USERS["guest"])
        return BlockingConnection(f"amqp://127.0.0.1:{self.port}", timeout=timeout, user=user, password=password)

    @property
    def url(self) -> str:
        scheme = "amqps" if self.certificate else "amqp"
        return f"{scheme}://{'' if self.login else 'guest:guest@'}127.0.0.1:{self.port}"


class JavaServer(AmqpServer):
    """A server that Maven fetches."""

    release: ClassVar[str]
    artifacts: ClassVar[tuple[str, ...]]

    @classmethod
    def fetch(cls) -> Path:
        """Return the folder of the server, which Maven fetches the first time."""
        return fetch(cls.release.lower().replace(" ", "-"), *cls.artifacts)

    def version(self) -> str:
        return self.release

    def program(self, main: str, *arguments: str, **properties: object) -> list[str]:
        """Return the command that runs a program of the server's, with properties of Java's (`__` for a dot)."""
        options = [f"-D{name.replace('__', '.')}={value}" for name, value in properties.items()]
        return java([f"{self.fetch()}/*"], main, *arguments, options=options)


class Broker(JavaServer):
    """Apache Artemis, which creates addresses as they are needed."""

    workers = 2
    speaks_tls = True
    changes_passwords = True
    kind = "artemis"
    release = "Artemis 2.44.0"
    protocols = "AMQP"
    artifacts = (
        "org.apache.activemq:artemis-server:2.44.0",
        "org.apache.activemq:artemis-amqp-protocol:2.44.0",
        "org.slf4j:slf4j-simple:2.0.17",
    )

    def start(self) -> None:
        super().start()
        if self.certificate:
            return
        connection = self.connect(timeout=READY_WITHIN)
        connection.create_receiver("first")  # Java's first time takes longer than a heartbeat may
        connection.create_sender("first").send(Message("first"))
        connection.close()

    def command(self) -> list[str]:
        (self.folder / "etc").mkdir(exist_ok=True)
        (self.folder / "etc" / "broker.xml").write_text(self.configuration())
        users = dict([self.login] if self.login else USERS)
        (self.folder / "users").write_text("\n".join(f"{user}={password}" for user, password in users.items()))
        roles = zip(USERS, users, strict=False)
        (self.folder / "roles").write_text("\n".join(f"{role}={user}" for role, user in roles))
        (self.folder / "certificates").write_text("guest=/.*/\n")
        modules = [LOGIN_MODULE.format("Properties", "properties", "user", "users")]
        if self.asks_for_certificate:
            modules.append(LOGIN_MODULE.format("TextFileCertificate", "textfiledn", "user", "certificates"))
        (self.folder / "login").write_text(" ".join(("tests {", *modules, "};")))
        main = "org.apache.activemq.artemis.core.server.embedded.Main"
        return self.program(main, str(self.folder), java__security__auth__login__config=self.folder / "login")

    def set_password(self, password: str) -> None:
        assert self.login
        (self.folder / "users").write_text(f"{self.login[0]}={password}")

    def tls(self) -> str:
        """Return the acceptor's options for TLS."""
        if self.certificate is None:
            return ""
        stores = self.folder / "stores"
        stores.write_text(f"source.key={self.certificate.key}\nsource.cert={self.certificate.cert}\n")
        options = f";saslMechanisms=PLAIN,EXTERNAL;sslEnabled=true;keyStoreType=PEMCFG;keyStorePath={stores}"
        if self.asks_for_certificate:
            options += f";needClientAuth=true;trustStoreType=PEM;trustStorePath={self.certificate.ca}"
        return options

    def store(self) -> str:
        """Return where messages and the names of queues are kept: nowhere."""
        return "<persistence-enabled>false</persistence-enabled>"

    def configuration(self) -> str:
        """Return what the server is told."""
        options = f"protocols={self.protocols};securityDomain=tests;amqpIdleTimeout={SILENCE * 1000}{self.tls()}"
        acceptor = f"tcp://127.0.0.1:{self.port}?{options}"
        making = ("createAddress", "createNonDurableQueue", "deleteNonDurableQueue")
        rights = {
            "#": {name: "guest" for name in (*making, "deleteAddress", "send", "consume", "manage")},
            "deepstream.allowed": {
                **{name: "guest,limited,reader" for name in (*making, "consume")},
                "send": "guest,limited",
            },
        }
        security = "".join(
            f'<security-setting match="{match}">'
            + "".join(f'<permission type="{name}" roles="{roles}"/>' for name, roles in granted.items())
            + "</security-setting>"
            for match, granted in rights.items()
        )
        return f"""<configuration xmlns="urn:activemq"><core xmlns="urn:activemq:core">
            {self.store()}
            <address-queue-scan-period>500</address-queue-scan-period>
            <authentication-cache-size>0</authentication-cache-size>
            <acceptors><acceptor name="amqp">{acceptor}</acceptor></acceptors>
            <security-settings>{security}</security-settings>
            <address-settings><address-setting match="deepstream.full">
                <max-size-bytes>1MB</max-size-bytes><address-full-policy>BLOCK</address-full-policy>
            </address-setting></address-settings>
            </core></configuration>"""


class Half(Broker):
    """One of two servers with one store: the one that holds its lock serves, and the other waits."""

    protocols = "AMQP,CORE"
    shared: Path
    role: Literal["primary", "backup"]
    other: int
    """The other's port."""

    def store(self) -> str:
        policy = {"primary": "failover-on-shutdown", "backup": "allow-failback"}[self.role]
        places = "".join(
            f"<{name}-directory>{self.shared / name}</{name}-directory>"
            for name in ("paging", "bindings", "journal", "large-messages")
        )
        return f"""{places}<journal-type>NIO</journal-type><journal-file-size>1M</journal-file-size>
            <cluster-user>pair</cluster-user><cluster-password>pair</cluster-password>
            <connectors>
                <connector name="here">tcp://127.0.0.1:{self.port}</connector>
                <connector name="there">tcp://127.0.0.1:{self.other}</connector>
            </connectors>
            <ha-policy><shared-store><{self.role}><{policy}>true</{policy}></{self.role}></shared-store></ha-policy>
            <cluster-connections><cluster-connection name="pair">
                <connector-ref>here</connector-ref>
                <static-connectors><connector-ref>there</connector-ref></static-connectors>
            </cluster-connection></cluster-connections>"""

    def command(self) -> list[str]:
        java, *words = super().command()
        return [java, "-Dorg.slf4j.simpleLogger.log.org.apache.activemq.artemis.core.server=info", *words]

    def is_ready(self) -> bool:
        return self.waits() if self.role == "backup" else super().is_ready()

    def waits(self) -> bool:
        """Tell whether the backup is known to the primary."""
        return "AMQ221031" in (self.folder / "server.log").read_text()


class Pair(Cluster):
    """A primary and its backup, with one store on one disk."""

    title = "Artemis, primary and backup"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        one, two = free_port(), free_port()
        places = ("primary", one, two), ("backup", two, one)
        self.servers = [
            self.new(Half, role, shared=folder, role=role, ports={"url": here}, other=there)
            for role, here, there in places
        ]

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{','.join(f'127.0.0.1:{server.port}' for server in self.servers)}"

    def start(self) -> None:
        for server in self.servers:
            server.spawn()
            server.wait_until_ready()

    async def without(self, gone: Server) -> None:
        """Kill the primary, since a frozen one keeps the lock of the store, and the backup waits."""
        await asyncio.to_thread(gone.stop)

    async def thaw(self, frozen: Server) -> None:
        await self.with_again(frozen)


Broker.clusters = (Pair,)


class ActiveMQ(JavaServer):
    """ActiveMQ Classic, which has no program of its own for a broker without files."""

    kind = "activemq"
    release = "ActiveMQ Classic 6.1.6"
    artifacts = (
        "org.apache.activemq:activemq-broker:6.1.6",
        "org.apache.activemq:activemq-amqp:6.1.6",
        "org.apache.activemq:activemq-client:6.1.6",
        "org.apache.activemq:activemq-jaas:6.1.6",
        "org.slf4j:slf4j-simple:2.0.13",
    )

    def command(self) -> list[str]:
        (self.folder / "Start.java").write_text(ACTIVEMQ)
        users = [word for user, password in USERS.items() for word in (user, password)]
        return self.program("Start.java", f"amqp://127.0.0.1:{self.port}", *users)


class Qpid(JavaServer):
    """Qpid Broker-J."""

    kind = "qpid"
    release = "Qpid Broker-J 9.2.1"
    artifacts = (
        "org.apache.qpid:qpid-broker:9.2.1:alone",
        "org.apache.qpid:qpid-broker-core:9.2.1",
        "org.apache.qpid:qpid-broker-plugins-access-control:9.2.1",
        "org.apache.qpid:qpid-broker-plugins-amqp-1-0-protocol:9.2.1",
        "org.apache.qpid:qpid-broker-plugins-logging-logback:9.2.1",
        "org.apache.qpid:qpid-broker-plugins-memory-store:9.2.1",
        "commons-cli:commons-cli:1.9.0",
    )

    def command(self) -> list[str]:
        (self.folder / "config.json").write_text(json.dumps(self.configuration()))
        words = ["-st", "Memory", "-icp", str(self.folder / "config.json")]
        return self.program("org.apache.qpid.server.Main", *words, QPID_WORK=self.folder)

    def configuration(self) -> dict[str, object]:
        """Return what the server is told."""
        rules = [
            "ACL ALLOW-LOG guest ALL ALL",
            "ACL ALLOW limited ACCESS VIRTUALHOST",
            "ACL ALLOW limited CREATE QUEUE",
            "ACL ALLOW limited DELETE QUEUE",
            "ACL ALLOW limited CONSUME QUEUE",
            'ACL ALLOW limited BIND EXCHANGE name="amq.topic" routing_key="deepstream.allowed"',
            'ACL ALLOW limited UNBIND EXCHANGE name="amq.topic" routing_key="deepstream.allowed"',
            'ACL ALLOW limited PUBLISH EXCHANGE name="amq.topic" routing_key="deepstream.allowed"',
            "ACL DENY-LOG ALL ALL ALL",
        ]
        (self.folder / "acl").write_text("\n".join(rules) + "\n")
        users = [{"name": user, "type": "managed", "password": password} for user, password in USERS.items()]
        return {
            "name": "tests",
            "modelVersion": "9.1",
            "authenticationproviders": [
                {"name": "users", "type": "Plain", "users": users, "secureOnlyMechanisms": []},
            ],
            "accesscontrolproviders": [{"name": "acl", "type": "AclFile", "path": str(self.folder / "acl")}],
            "ports": [
                {
                    "name": "AMQP",
                    "port": self.port,
                    "bindingAddress": "127.0.0.1",
                    "authenticationProvider": "users",
                    "protocols": ["AMQP_1_0"],
                    "virtualhostaliases": [
                        {"name": name, "type": name} for name in ("nameAlias", "defaultAlias", "hostnameAlias")
                    ],
                },
            ],
            "virtualhostnodes": [
                {
                    "name": "default",
                    "type": "Memory",
                    "defaultVirtualHostNode": True,
                    "virtualHostInitialConfiguration": json.dumps({"type": "Memory"}),
                },
            ],
        }


class RabbitMQWithPlugin(AmqpServer, RabbitMQ):
    """RabbitMQ with its plugin for AMQP 1.0."""

    kind = "rabbitmq"
    plugins = ("rabbitmq_amqp1_0",)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.options = {"max_message_size": LARGEST}
        own = r"^(amq\.topic|stream.*|amq\.gen.*)$"
        topics = r"^deepstream\.(allowed|CONTROL)$"
        rights = {"guest": (".*", ".*", ".*"), "limited": (r"^amq\.gen", own, own)}
        self.definitions = {
            "vhosts": [{"name": "/"}, {"name": "other"}],
            "users": [{"name": name, "password": USERS[name], "tags": ""} for name in rights],
            "permissions": [
                {"user": user, "vhost": host, "configure": configure, "write": write, "read": read}
                for user, (configure, write, read) in rights.items()
                for host in ("/", "other")
            ],
            "topic_permissions": [
                {"user": "limited", "vhost": "/", "exchange": "amq.topic", "write": topics, "read": topics}
            ],
        }


@dataclass
class Entities:
    """What Azure Service Bus has: topics with their subscriptions, and policies with a key and rights."""

    topics: dict[str, dict[str, list[bytes]]]
    """For each topic, the messages that wait in each of its subscriptions."""
    policies: dict[str, tuple[str, set[str]]]
    sessions: set[str] = field(default_factory=set)
    """Subscriptions that require sessions."""
    silence: float = 120
    """Seconds after which it drops a silent client."""
    busy: int = 0
    """How many messages it will reject as busy."""


class ServiceBus(asyncio.Protocol):
    """A stand-in for one connection to Azure Service Bus: it does what that service's documentation says.

    Proton does the AMQP, but not the login with a password, which it does for servers only with another library.
    """

    connections: ClassVar[set["ServiceBus"]] = set()

    def __init__(self, entities: Entities) -> None:
        self._entities = entities
        self._loop = asyncio.get_running_loop()
        self._engine, self._events, self._connection = Transport(Transport.SERVER), Collector(), Connection()
        self._engine.max_frame_size, self._engine.channel_max = 65536, 4999
        self._engine.idle_timeout = 2 * entities.silence  # of which proton announces half, as the standard has it
        self._connection.collect(self._events)
        self._engine.bind(self._connection)
        self._input, self._rights, self._has_login = b"", set[str](), False
        self._links: list[Any] = []
        self._heard = self._loop.time()
        self.mechanism = ""
        self.looks = 0
        """How often it has checked whether the client is silent: ten times in the allowed time."""

    def connection_made(self, socket: asyncio.BaseTransport) -> None:
        assert isinstance(socket, asyncio.Transport)
        self._socket = socket
        self.connections.add(self)
        self._watch()

    def connection_lost(self, error: Exception | None) -> None:
        self.connections.discard(self)
        self._watching.cancel()

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        self._input += data
        if not self._has_login:
            self._let_in()
        if self._has_login:
            while self._input and (room := self._engine.capacity()) > 0:
                self._engine.push(self._input[:room])
                self._input = self._input[room:]
                self.flush()

    def flush(self) -> None:
        while event := self._events.peek():
            event.dispatch(self)  # type: ignore[arg-type]
            self._events.pop()
        while (size := self._engine.pending()) > 0:
            self._socket.write(self._engine.peek(size) or b"")
            self._engine.pop(size)
        if size < 0:
            self._socket.close()

    def detach(self, name: str, text: str) -> None:
        """End the links of senders, as after ten idle minutes."""
        for link in [link for link in self._links if link.is_receiver]:
            self._refuse(link, name, text)
        self.flush()

    def force(self) -> None:
        """End the connection, as when it has had no link for five minutes."""
        self._connection.condition = Condition("amqp:connection:forced", "The connection was inactive for too long")
        self._connection.close()
        self.flush()

    def _watch(self) -> None:
        self.looks += 1
        if self._loop.time() - self._heard > self._entities.silence:
            self._socket.abort()
        self._watching = self._loop.call_later(self._entities.silence / 10, self._watch)

    def _let_in(self) -> None:
        if self._input.startswith(SASL):
            self._input = self._input.removeprefix(SASL)
            offered = Array(UNDESCRIBED, Data.SYMBOL, *map(symbol, MECHANISMS))  # type: ignore[arg-type]
            self._socket.write(SASL + sasl_frame(0x40, [offered]))
        size = int.from_bytes(self._input[:4])
        if 4 < size <= len(self._input):
            init: Any = Data()
            init.decode(self._input[8:size])
            init.rewind()
            init.next()
            self._input = self._input[size:]
            self.mechanism, response, *_ = init.get_object().value
            _, user, key = bytes(response or b"\0\0").decode().split("\0")
            expected, rights = self._entities.policies.get(user, ("", set()))
            self._has_login = self.mechanism == "PLAIN" and key == expected != ""
            self._rights = rights
            self._socket.write(sasl_frame(0x44, [ubyte(0 if self._has_login else 1)]))

    def _refuse(self, link: Any, name: str, text: str) -> None:
        self._links = [each for each in self._links if each != link]
        link.condition = Condition(name, text)
        link.close()

    def _why_not(self, link: Any) -> tuple[str, str] | None:
        """Return why a link is refused; None if it is not."""
        right = "Listen" if link.is_sender else "Send"
        topic, _, name = self._address(link)
        if right not in self._rights:
            return "amqp:unauthorized-access", f"Unauthorized access. '{right}' claim(s) are required"
        if topic not in self._entities.topics or (name not in self._entities.topics[topic]) == link.is_sender:
            return "amqp:not-found", f"The messaging entity '{topic}/{name}' could not be found."
        if name in self._entities.sessions:
            return "amqp:not-allowed", "An entity that requires sessions has no receivers without a session"
        return None

    def _address(self, link: Any) -> tuple[str, str, str]:
        address: str = (link.remote_source if link.is_sender else link.remote_target).address
        topic, separator, name = address.partition("/Subscriptions/")
        return topic, separator, name

    def _deliver(self) -> None:
        for link in self._links:
            topic, _, name = self._address(link)
            waiting = self._entities.topics[topic].get(name, [])
            while link.is_sender and waiting and link.credit > 0:
                delivery = link.delivery(link.delivery_tag())
                link.stream(waiting.pop(0))
                link.advance()
                delivery.settle()
            if link.is_sender and link.drain_mode:
                link.drained()

    def on_connection_remote_open(self, event: Any) -> None:
        if 0 < self._engine.remote_idle_timeout < 60:
            self._connection.condition = Condition("amqp:internal-error", "Minimum idle timeout is '60000' ms")
            self._connection.close()
        self._connection.open()

    def on_session_remote_open(self, event: Any) -> None:
        event.session.open()

    def on_link_remote_open(self, event: Any) -> None:
        link = event.link
        if why_not := self._why_not(link):
            link.open()
            self._refuse(link, *why_not)
            return
        link.source.address, link.target.address = link.remote_source.address, link.remote_target.address
        link.snd_settle_mode = link.remote_snd_settle_mode
        link.max_message_size = 256 * 1024
        link.open()
        self._links.append(link)
        if link.is_receiver:
            link.flow(100)

    def on_link_flow(self, event: Any) -> None:
        self._deliver()

    def on_delivery(self, event: Any) -> None:
        link, delivery = event.link, event.delivery
        if not link.is_receiver or delivery.partial or not delivery.readable:
            return
        data = link.recv(delivery.pending)
        link.advance()
        link.flow(1)
        if len(data) > link.max_message_size:
            self._refuse(link, "amqp:link:message-size-exceeded", "The message is larger than 262144 bytes")
            return
        if self._entities.busy:
            self._entities.busy -= 1
            delivery.local.condition = Condition("com.microsoft:server-busy", "The request was terminated")
            delivery.update(Delivery.REJECTED)
        else:
            delivery.update(Delivery.ACCEPTED)
            for waiting in self._entities.topics[self._address(link)[0]].values():
                waiting.append(bytes(data))
        delivery.settle()
        for each in list(self.connections):
            each._deliver()
            each._loop.call_soon(each.flush)

    def on_link_remote_close(self, event: Any) -> None:
        self._links = [each for each in self._links if each != event.link]
        event.link.close()

    def on_session_remote_close(self, event: Any) -> None:
        self._links = [each for each in self._links if each.session != event.session]
        event.session.close()
        event.session.free()

    def on_connection_remote_close(self, event: Any) -> None:
        self._connection.close()


class Management:
    """A stand-in for the management of Azure Service Bus's subscriptions, over HTTP."""

    def __init__(self, entities: Entities) -> None:
        self._entities = entities

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        await reader.readexactly(int(headers.get("content-length", 0)))
        method, target, _ = head.split()
        status, body = self._answer(method, target, headers["authorization"])
        writer.write(f"HTTP/1.1 {status}\r\nContent-Type: application/atom+xml\r\n".encode())
        writer.write(f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()

    def _answer(self, method: str, target: str, token: str) -> tuple[str, str]:
        topic, _, name = unquote(urlsplit(target).path).strip("/").partition("/subscriptions/")
        found = self._entities.topics.get(topic)
        if not self._may_manage(token):
            return "401 Unauthorized", ERROR.format(401, "'Manage' claim(s) are required to perform this operation.")
        if found is None or (method == "DELETE" and name not in found):
            return "404 Not Found", ERROR.format(404, f"Entity '{topic}/{name}' was not found.")
        if method == "DELETE":
            del found[name]
            return "200 OK", ""
        if name in found:
            return "409 Conflict", ERROR.format(409, "The messaging entity already exists.")
        found[name] = []
        return "201 Created", ENTRY.format(name)

    def _may_manage(self, token: str) -> bool:
        fields = dict(field.split("=", 1) for field in token.removeprefix("SharedAccessSignature ").split("&"))
        key, rights = self._entities.policies[unquote(fields["skn"])]
        made = hmac.digest(key.encode(), f"{fields['sr']}\n{fields['se']}".encode(), "sha256")
        return "Manage" in rights and base64.b64decode(unquote(fields["sig"])) == made


def sasl_frame(code: int, fields: list[Any]) -> bytes:
    """Return a frame of the login."""
    body = Data()
    body.put_object(Described(ulong(code), fields))
    encoded = body.encode()
    return (8 + len(encoded)).to_bytes(4) + b"\x02\x01\0\0" + encoded


if __name__ == "__main__":
    for server in (Broker, ActiveMQ, Qpid):
        server.fetch()
