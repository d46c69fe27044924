"""What is special about PostgreSQL: frames that are too large for a notification, and the rights that they need."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from pydantic import ValidationError

from .broker import PrimaryAndStandby
from .contract.public import Log, MakeNode, Node, Serve, Wire, eventually
from .subject import Settings, contract

TABLE = "public.deepstream_frames"
LARGE = "x" * 10_000


@pytest.fixture
async def admin(given: Settings) -> AsyncIterator[Any]:
    """A plain client, to set the server up."""
    admin = await asyncpg.connect(given.url.get_secret_value())
    await admin.execute(f"drop table if exists {TABLE}")
    yield admin
    await admin.execute(f"drop table if exists {TABLE}")
    await admin.close()


@pytest.fixture
async def limited(admin: Any) -> AsyncIterator[dict[str, str]]:
    """Username and password of a user who may connect, but create nothing."""
    name = f"limited_{uuid4().hex}"
    await admin.execute(f"create role {name} login password 's3cr3t'; revoke create on schema public from public")
    yield {"username": name, "password": "s3cr3t"}
    await admin.execute(f"drop owned by {name}; drop role {name}")


@pytest.mark.clause("M1", "M7", "S5")
async def test_frames_of_any_size_arrive_in_order(node: MakeNode, admin: Any, topic: str) -> None:
    publishers: list[Node] = [await node() for _ in range(4)]
    subscriber: Node = await node()
    mailbox, own = Log(), Log()
    await subscriber.subscribe(topic, mailbox)
    await publishers[0].subscribe(topic, own)
    sizes = [8_000, 1, *range(5_930, 6_000), 10, 700_000, 2]

    async def publish(index: int) -> None:
        for size in sizes:
            await publishers[index].publish(topic, [index, "x" * size])

    await asyncio.gather(*map(publish, range(4)))  # all four find that there is no table
    got = await mailbox.count(len(sizes) * 4)
    for index in range(4):
        assert [len(text) for sender, text in got if sender == index] == sizes
    assert {sender for sender, _ in await own.count(len(sizes) * 3)} == {1, 2, 3}
    assert 0 < await admin.fetchval(f"select count(*) from {TABLE}") < 4 * len(sizes)


@pytest.mark.clause("M3", "M5")
async def test_what_is_yet_to_be_fetched_is_not_for_who_comes_later(node: MakeNode, admin: Any, topic: str) -> None:
    publisher, subscriber = await node(), await node()
    first, late = Log(), Log()
    for number in range(20):
        await subscriber.subscribe(topic, first)
        await publisher.publish(topic, [number, LARGE])
        await subscriber.subscribe(topic, late)
        await subscriber.unsubscribe(topic, first)
        await subscriber.unsubscribe(topic, late)
        await subscriber.subscribe(topic, late)
        await publisher.publish(topic, number)
        assert await late.before(number) == []
        await subscriber.unsubscribe(topic, late)
        late.items.clear()


@pytest.mark.clause("T3")
async def test_the_table_does_not_grow(node: MakeNode, admin: Any, topic: str) -> None:
    publisher: Node = await node(heartbeat=0.4)
    for left in (1, 0):
        for _ in range(3):
            await publisher.publish(topic, LARGE)
        await admin.execute(f"update {TABLE} set stored = stored - interval '1 hour'")
        if left:
            await publisher.publish(topic, LARGE)

        async def is_swept(left: int = left) -> bool:
            return bool(await admin.fetchval(f"select count(*) from {TABLE}") == left)

        await eventually(is_swept, f"{left} rows in the table")


@pytest.mark.clause("E3")
async def test_who_may_not_use_the_table_has_small_frames(limited: dict[str, str], node: MakeNode, admin: Any) -> None:
    one: Node = await node(publish_timeout=60, noisy=True, **limited)
    other: Node = await node()
    mailbox, answers = Log(), Log()
    await one.subscribe("a", mailbox)
    await other.subscribe("a", answers)
    await other.publish("a", "in")
    await mailbox.count(1)
    with pytest.raises(contract.PublishRefusedError, match="permission denied for schema"):
        await one.publish("a", LARGE)
    await other.publish("a", LARGE)  # makes the table, which `one` may not read
    assert (await one.error(contract.MessagesLostError)).count == 1
    with pytest.raises(contract.PublishRefusedError, match="permission denied for table"):
        await one.publish("a", LARGE)
    await one.publish("a", "out")
    assert (await mailbox.count(1), await answers.count(1)) == (["in"], ["out"])
    await admin.execute(f"grant select, insert, update, delete on {TABLE} to {limited['username']}")
    await one.publish("a", LARGE)
    await other.publish("a", LARGE)
    assert (await mailbox.count(2), await answers.count(2)) == (["in", LARGE], ["out", LARGE])
    assert (len(one.errors.items), len(one.readies.items)) == (1, 1)


@pytest.mark.clause("E3", "L1")
async def test_the_table_can_be_another(node: MakeNode, admin: Any, topic: str) -> None:
    mine, nowhere = "public.mine", "no_such_schema.mine"
    publisher, subscriber = await node(table=mine), await node(table=mine)
    mailbox = Log()
    await subscriber.subscribe(topic, mailbox)
    await publisher.publish(topic, LARGE)
    assert await mailbox.count(1) == [LARGE]
    await admin.execute(f"drop table {mine}")
    with pytest.raises(contract.PublishRefusedError, match="no_such_schema"):
        await (await node(table=nowhere)).publish(topic, LARGE)
    with pytest.raises(ValidationError, match="table"):
        Settings(table="frames; drop table frames")


@pytest.mark.clause("L1", "L9")
@pytest.mark.parametrize(
    ("option", "advice"),
    [
        ("sslmode=s3cr3t", "the option sslmode is not taken in the url: set tls = True"),
        ("sslrootcert=s3cr3t", "set tls_ca_file, or tls = True alone"),
        ("passfile=s3cr3t", "set password_file"),
        ("connect_timeout=s3cr3t", "set connect_timeout"),
        ("keepalives_idle=s3cr3t", "set heartbeat"),
        ("service=s3cr3t", "only application_name and options are"),
        ("colour", "the option colour is not taken in the url"),
    ],
)
def test_an_option_that_the_url_may_not_have_is_named_with_what_to_do(option: str, advice: str) -> None:
    with pytest.raises(ValidationError, match=advice) as raised:
        Settings(url=f"postgresql://u:s3cr3t@host/db?application_name=s3cr3t&{option}")
    assert "s3cr3t" not in f"{raised.value} {raised.value.errors()}"


@pytest.mark.clause("L1")
async def test_only_the_settings_say_where_and_how_to_connect(
    serve: Serve, node: MakeNode, monkeypatch: pytest.MonkeyPatch, topic: str
) -> None:
    url = serve().url
    for name in ("HOST", "PORT", "USER", "PASSWORD", "DATABASE", "SERVICE", "SERVICEFILE", "PASSFILE", "SSLROOTCERT"):
        monkeypatch.setenv(f"PG{name}", "1")
    for name, value in {"SSLMODE": "require", "SSLNEGOTIATION": "direct", "TARGETSESSIONATTRS": "standby"}.items():
        monkeypatch.setenv(f"PG{name}", value)
    one: Node = await node(url=f"{url}?application_name=one&options=-c%20work_mem%3D3MB")
    assert one.is_ready
    monkeypatch.undo()
    admin = await asyncpg.connect(url)
    assert await admin.fetchval("select count(*) from pg_stat_activity where application_name = 'one'") == 1
    await admin.close()
    stranger: Node = await node(connect=False, url=url.replace("tester:s3same@", ""))
    with pytest.raises(contract.ConnectError, match="no PostgreSQL user name") as raised:
        await stranger.connect()
    assert raised.value.refused


@pytest.fixture
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrimaryAndStandby]:
    """A primary and its standby."""
    pair = PrimaryAndStandby(tmp_path_factory.mktemp("pair"))
    try:
        pair.start()
        yield pair
    finally:
        pair.stop()


@pytest.mark.production("cluster")
@pytest.mark.clause("R8", "R2")
@pytest.mark.parametrize("ending", ["killed", "frozen"])
async def test_nodes_go_over_to_a_standby_that_is_promoted(
    pair: PrimaryAndStandby, node: MakeNode, topic: str, ending: str
) -> None:
    stranger: Node = await node(connect=False, url=pair.standby.url)
    with pytest.raises(contract.ConnectError, match="the server is a standby"):
        await stranger.connect()
    hosts = f"127.0.0.1:{pair.standby.port},127.0.0.1:{pair.primary.port}"
    urls = [pair.url, f"postgresql://tester:s3same@{hosts}/postgres"]
    nodes = [await node(url=url, noisy=True, connect_timeout=2) for url in urls]
    mailbox = Log()
    await nodes[0].subscribe(topic, mailbox)
    await nodes[1].publish(topic, ["before", LARGE])
    await mailbox.count(1)
    if ending == "killed":
        await asyncio.to_thread(pair.primary.stop)
    else:
        pair.primary.freeze()
    for each in nodes:
        await each.until_down()
    await pair.without(pair.primary)
    for each in nodes:
        await each.until_ready(2)
    late: Node = await node(url=pair.url, connect_timeout=2)
    await late.publish(topic, ["late", LARGE])
    await nodes[1].publish(topic, ["after", LARGE])
    assert sorted(name for name, _ in await mailbox.count(3)) == ["after", "before", "late"]


@pytest.mark.clause("R8", "R1")
async def test_a_server_that_becomes_read_only_is_a_loss(serve: Serve, node: MakeNode) -> None:
    url = serve().url
    one: Node = await node(url=url, noisy=True)
    admin = await asyncpg.connect(url)
    await admin.execute("alter system set default_transaction_read_only = on")
    await admin.execute("select pg_reload_conf()")
    assert "read-only" in str(await one.error(contract.ReconnectError))
    await admin.execute("set default_transaction_read_only = off")
    await admin.execute("alter system reset default_transaction_read_only")
    await admin.execute("select pg_reload_conf()")
    await one.until_ready(2)
    await admin.close()


@pytest.mark.clause("R1", "L4")
async def test_a_node_holds_one_connection_and_nothing_is_left_of_it(wire: Wire, admin: Any, topic: str) -> None:
    connections = "select pid from pg_stat_activity where backend_type = 'client backend'"
    before = {row["pid"] for row in await admin.fetch(connections)}
    killed = Wire(wire.transport.settings)
    await killed.transport.connect()
    (pid,) = {row["pid"] for row in await admin.fetch(connections)} - before
    await killed.transport.subscribe(topic)
    patience = await killed.transport._ask("fetchval", "select current_setting('tcp_user_timeout')")
    assert patience in ("6s", "6000")  # after these milliseconds the server drops a client that went away silently
    await admin.execute("select pg_terminate_backend($1)", pid)
    await killed.losses.count(1)
    await killed.transport.close()
    assert len(killed.losses.items) == 1
    assert pid not in {row["pid"] for row in await admin.fetch(connections)}


@pytest.mark.clause("S4")
async def test_what_others_notify_is_no_frame(node: MakeNode, admin: Any, topic: str) -> None:
    subscriber: Node = await node(noisy=True)
    publisher, mailbox = await node(), Log()
    await subscriber.subscribe(topic, mailbox)
    for note in ("", "caf\u00e9", "#", "#1", f"#{2**70}", "AAA"):
        await admin.execute("select pg_notify($1, $2)", topic, note)
    await publisher.publish(topic, "fine")
    assert await mailbox.count(1) == ["fine"]
    assert all(isinstance(error, contract.BadFrameError) for error in subscriber.errors.items)
