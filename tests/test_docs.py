"""What the documents say agrees with the code: links, clauses, errors, settings, constants, and the wire format."""

import ast
import asyncio
import importlib
import inspect
import json
import re
from types import SimpleNamespace
from typing import Any

import listing
import pytest
from baking import FILLED, ROOT
from msgspec.structs import astuple
from pure import CONTRACT, load, of_the_pack

DOCS = ROOT / "docs"
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
VECTORS: dict[str, Any] = json.loads((DOCS / "wire-vectors.json").read_text(encoding="utf-8"))

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
ANCHOR = re.compile(r'<a id="([^"]+)"></a>')
CONSTANT = re.compile(r"`(\w+)\.([A-Z][A-Z_]*)`(?: \(([^)]*)\))?")
CLAUSE = re.compile(r"[A-Z]\d+")

UNITS = {"KiB": 1024, "MiB": 1024 * 1024, "ms": 0.001}

KINDS = {"messages": 1, "again": 2, "answer": 3, "control": 4}
CODES = {None: 0, "json": 1, "msgpack": 2}

package = load("documented")
wire, serialization = package.wire, package.serialization


def section(page: str, anchor: str) -> str:
    """Return the text of a page from an anchor to the next one."""
    parts = ANCHOR.split(PAGES[page])
    return dict(zip(parts[1::2], parts[2::2], strict=True))[anchor]


def rows(text: str) -> list[list[str]]:
    """Return the cells of the first table in a text, without its head."""
    lines = re.findall(r"^\|(.*)\|$", text, re.MULTILINE)[2:]
    return [[cell.strip() for cell in line.split("|")] for line in lines]


# Links.


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in LINK.findall(PAGES[page]):
        target, _, anchor = link.partition("#")
        if page == "connectors.md" and target.startswith("https://"):
            continue
        assert not re.match(r"\w+:|/", target), f"{link} is not relative"
        path = (DOCS / (target or page)).resolve()
        assert path.is_relative_to(ROOT), f"{link} leads out of the repository"
        assert path.is_file(), f"{link} leads nowhere"
        if anchor:
            anchors = ANCHOR.findall(path.read_text(encoding="utf-8"))
            assert anchor in anchors, f"{link} names no anchor"


@pytest.mark.parametrize("page", PAGES)
def test_anchors_are_unique(page: str) -> None:
    anchors = ANCHOR.findall(PAGES[page])
    assert len(set(anchors)) == len(anchors)


# The contract.


def test_the_pack_and_the_contract_have_the_same_clauses() -> None:
    clauses = of_the_pack("clauses")
    anchors = [anchor for anchor in ANCHOR.findall(PAGES["contract.md"]) if CLAUSE.fullmatch(anchor)]
    assert anchors == list(clauses.CLAUSES)
    for clause in anchors:
        assert section("contract.md", clause).strip().startswith(f"**{clause} · "), clause


def test_the_contract_names_its_version() -> None:
    version = (CONTRACT / "VERSION").read_text(encoding="utf-8").strip()
    assert f"version {version}" in PAGES["contract.md"].replace("\n", " ")


@pytest.mark.parametrize("preset", FILLED)
def test_each_preset_has_a_report_of_this_contract_and_it_recovers(preset: str) -> None:
    report = json.loads((DOCS / "conformance" / preset / "conformance.json").read_text(encoding="utf-8"))
    assert report["contract_version"] == (CONTRACT / "VERSION").read_text(encoding="utf-8").strip()
    assert not report["part"]
    assert {"works", "recovers"} <= {level["name"] for level in report["levels"] if level["reached"]}
    assert f"[`{preset}`](docs/conformance/{preset}/CONFORMANCE.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_contract_lists_all_errors() -> None:
    errors = importlib.import_module("documented.errors")
    known = [name for name, value in vars(errors).items() if inspect.isclass(value) and name != "ConnectorError"]
    assert sorted(row[0].strip("`") for row in rows(section("contract.md", "errors"))) == sorted(known)


def test_the_contract_lists_all_settings() -> None:
    common = importlib.import_module("documented.settings").ConnectorSettings.model_fields
    with_tls = importlib.import_module("documented.tls").TlsSettings.model_fields
    of_tls = {name: field for name, field in with_tls.items() if name not in common}
    for anchor, fields in (("settings", common), ("tls", of_tls)):
        listed = {row[0].strip("`"): row[1] for row in rows(section("contract.md", anchor))}
        assert list(listed) == list(fields)
        for name, default in listed.items():
            value = None if fields[name].is_required() else fields[name].default
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            shown = float(default.replace(",", "")) if is_number else default or "None"
            assert shown == (value if is_number else str(value)), f"the default of {name}"


@pytest.mark.parametrize("page", PAGES)
def test_constants_have_the_values_that_are_told(page: str) -> None:
    for module, name, told in CONSTANT.findall(PAGES[page]):
        value = constants(module)[name]
        if not told:
            continue
        factor = next((UNITS[unit] for unit in UNITS if told.endswith(unit)), 1)
        numbers = [float(number.replace(",", "")) * factor for number in re.findall(r"\d[\d,]*(?:\.\d+)?\b", told)]
        assert numbers == list(value if isinstance(value, tuple) else (value,)), f"{module}.{name}"


def constants(module: str) -> dict[str, Any]:
    """Return the constants of a module that are plain numbers."""
    found: dict[str, Any] = {}
    for node in ast.parse((CONTRACT / f"{module}.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(target := node.targets[0], ast.Name) and target.id.isupper():
            text = ast.unparse(node.value)
            if re.fullmatch(r"[\d_.e*(), -]+", text):
                found[target.id] = eval(text)
    return found


# The brokers.


@pytest.mark.parametrize("preset", FILLED)
def test_the_figures_of_a_broker_are_of_the_order_that_its_report_has(preset: str) -> None:
    link = f"[`{preset}`](conformance/{preset}/CONFORMANCE.md)"
    table = section("brokers.md", "which").partition("Current figures")[2]
    [told] = [row[2:] for row in rows(table) if row[0] == link]
    report = json.loads((DOCS / "conformance" / preset / "conformance.json").read_text(encoding="utf-8"))
    figures = {figure["name"]: figure["value"] for figure in report["figures"]}
    for name, text in zip(("round_trip_ms", "rate_1", "rate_100", "recovery_s"), told, strict=True):
        [number] = [float(digits.replace(",", "")) for digits in re.findall(r"\d[\d,.]*", text)]
        assert number / 3 < figures[name] < number * 3, f"{name} is {figures[name]}, and {text} is told"


def test_urls_of_brokers_are_such_as_a_connector_reads() -> None:
    parse = importlib.import_module("documented.addresses").parse
    urls = re.findall(r"`((?!scheme:)[a-z+]+://[^`]+)`", PAGES["brokers.md"])
    assert urls
    for url in urls:
        parse(re.sub(":port|:PORT", ":1", url), (), ("unix",))


# The connectors.


def test_the_list_of_connectors_is_made_of_its_data() -> None:
    assert PAGES["connectors.md"] == listing.page(), "tox run -e connectors writes it anew"


def test_each_connector_that_is_listed_says_all_that_contributing_asks_for() -> None:
    for told in json.loads((DOCS / "connectors.json").read_text(encoding="utf-8")):
        assert tuple(told) == listing.KEYS, told
        assert all(isinstance(value, str) and value and not set(value) & set("|\n") for value in told.values()), told
        assert all(re.fullmatch(r"https://[^\s()]+", told[key]) for key in ("repository", "badge")), told
        assert told["level"] in {level.name for level in of_the_pack("clauses").LEVELS}, told


# The wire format.


def pack(meaning: dict[str, Any]) -> bytes:
    """Make a frame of its meaning."""
    signer = wire.Signer([VECTORS["keys"][meaning["signed_by"]].encode()] if meaning["signed_by"] else [])
    messages, body = meaning.get("messages", []), b""
    if messages:
        codec = serialization.by_name(meaning["serialization"])
        body = codec.join([codec.encode(message, 10_000) for message in messages])
    if meaning["kind"] == "again":
        body = wire.pack_again([wire.Run(*run) for run in meaning["runs"]], body)
    elif meaning["kind"] == "answer":
        answer = meaning["answer"]
        replies = [wire.Reply(*reply) for reply in answer["replies"]]
        body = wire.pack_body(wire.Answer(replies, answer["reached"], answer["goes_on"]))
    elif meaning["kind"] == "control":
        body = wire.pack_body(control(meaning["control"]))
    flags = signer.flag | (wire.ANSWERS if meaning["answers"] else 0) | wire.shards_flag(meaning.get("shards", 1))
    kind, code, sender = KINDS[meaning["kind"]], CODES[meaning["serialization"]], bytes.fromhex(meaning["sender"])
    payload = wire.pack(code, kind, sender, meaning["number"], meaning["base"], len(messages), flags, body)
    return bytes(signer.sign(meaning["topic"], payload))


def control(told: dict[str, Any]) -> Any:
    """Make the body of a control frame."""
    return wire.Control(
        counts=[wire.Count(*count) for count in told["counts"]],
        topics=told["topics"],
        questions=[wire.Question(bytes.fromhex(target), *rest) for target, *rest in told["questions"]],
        is_back=told["is_back"],
        is_leaving=told["is_leaving"],
        clock=told["clock"],
    )


def unpack(topic: str, payload: bytes, keys: list[bytes]) -> dict[str, Any]:
    """Return what a frame says, as far as it says it of itself."""
    frame = wire.unpack(wire.Signer(keys).verify(topic, payload))
    meaning = {
        "kind": next(name for name, kind in KINDS.items() if kind == frame.kind),
        "serialization": next(name for name, code in CODES.items() if code == frame.serialization),
        "sender": frame.sender.hex(),
        "number": frame.number,
        "base": frame.base,
        "answers": bool(frame.flags & wire.ANSWERS),
        **({"shards": frame.shards} if frame.shards > 1 else {}),
    }
    body = frame.body
    if frame.kind == wire.AGAIN:
        runs, body = wire.unpack_again(frame)
        meaning["runs"] = [list(run) for run in runs]
    if frame.kind in (wire.MESSAGES, wire.AGAIN):
        meaning["messages"] = serialization.by_code(frame.serialization).decode(body)
    elif frame.kind == wire.ANSWER:
        answer = wire.unpack_answer(frame)
        replies = [list(astuple(reply)) for reply in answer.replies]
        meaning["answer"] = {"replies": replies, "reached": answer.reached, "goes_on": answer.goes_on}
    else:
        said = wire.unpack_control(frame)
        meaning["control"] = {
            "counts": [list(astuple(count)) for count in said.counts],
            "topics": said.topics,
            "questions": [[target.hex(), *rest] for target, *rest in map(astuple, said.questions)],
            "is_back": said.is_back,
            "is_leaving": said.is_leaving,
            "clock": said.clock,
        }
    return meaning


class Node:
    """The inbox of a node that listens to every topic of the vectors; what it delivers and reports is kept."""

    def __init__(self, keys: list[bytes], shards: int = 1) -> None:
        node_inbox = importlib.import_module("documented.node_inbox")
        receiving = package.receiving
        self.errors: list[str] = []
        self.messages: list[Any] = []
        settings = SimpleNamespace(max_message_bytes=10_000, shards=shards)
        receiver = receiving.Receiver(heartbeat=1.0, patience=10.0)
        for topic in {vector["topic"] for part in ("frames", "readable", "refused") for vector in VECTORS[part]}:
            receiver.listen(topic, 0.0)
        self.inbox = node_inbox.NodeInbox(settings, bytes(16), receiver, lambda topic: [self], self.report)
        self.inbox.signer = wire.Signer(keys)
        self.inbox.repair = SimpleNamespace(topic="CONTROL", take=lambda frame, control: [], changed=lambda: None)
        self.since = 0.0

    def put(self, batch: Any) -> None:
        """Take messages as a listener does."""
        self.messages += batch.serialization.decode(batch.body)[batch.skip :]

    def report(self, error: Exception) -> None:
        """Take an `error` event."""
        self.errors.append(f"{type(error).__name__}: {error}")


def keys_of(vector: dict[str, Any]) -> list[bytes]:
    """Return the keys of a vector's receiver."""
    return [VECTORS["keys"][name].encode() for name in vector["keys"]]


def names(part: str) -> list[Any]:
    """Return the vectors of one part as parameters."""
    return [pytest.param(vector, id=vector["name"]) for vector in VECTORS[part]]


@pytest.mark.parametrize("vector", names("frames"))
def test_a_frame_is_made_as_its_vector_says(vector: dict[str, Any]) -> None:
    assert pack(vector).hex() == vector["frame"]


@pytest.mark.parametrize("vector", names("frames") + names("readable"))
def test_a_frame_is_read_as_its_vector_says(vector: dict[str, Any]) -> None:
    meaning = unpack(vector["topic"], bytes.fromhex(vector["frame"]), keys_of(vector))
    assert meaning == {name: vector[name] for name in meaning}


@pytest.mark.parametrize("vector", names("frames") + names("readable"))
def test_a_node_takes_a_frame_that_is_right(vector: dict[str, Any]) -> None:
    async def take() -> Node:
        node = Node(keys_of(vector), vector.get("shards", 1))
        node.inbox.received(vector["topic"], bytes.fromhex(vector["frame"]))
        return node

    node = asyncio.run(take())
    assert not node.errors
    if vector["kind"] == "messages":
        assert node.messages == vector["messages"]


@pytest.mark.parametrize("vector", names("refused"))
def test_a_node_refuses_a_frame_that_is_wrong(vector: dict[str, Any]) -> None:
    async def take() -> tuple[Node, int]:
        node = Node(keys_of(vector))
        for before in vector.get("before", []):
            node.inbox.received(vector["topic"], bytes.fromhex(before))
        delivered = len(node.messages)
        assert not node.errors
        node.inbox.received(vector["topic"], bytes.fromhex(vector["frame"]))
        return node, len(node.messages) - delivered

    node, delivered = asyncio.run(take())
    assert len(node.errors) == 1
    assert node.errors[0].startswith("BadFrameError: ")
    assert vector["error"] in node.errors[0]
    assert not delivered


@pytest.mark.parametrize("vector", VECTORS["shards"])
def test_a_key_belongs_to_the_shard_that_its_vector_says(vector: dict[str, Any]) -> None:
    shards = importlib.import_module("documented.shards").Shards(vector["shards"])
    assert shards.topic(vector["topic"], vector["key"]) == vector["on"]
    assert shards.coarse(vector["on"]) == vector["topic"]


def test_the_vectors_have_all_kinds_in_both_serialisations_signed_and_not() -> None:
    seen = {(vector["kind"], vector["serialization"], bool(vector["signed_by"])) for vector in VECTORS["frames"]}
    codes = {kind: (None,) if kind == "control" else ("json", "msgpack") for kind in KINDS}
    assert seen == {(kind, code, signed) for kind in KINDS for code in codes[kind] for signed in (False, True)}
