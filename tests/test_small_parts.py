"""What the small modules do, value by value: the pack sees only what the broker at hand needs of them."""

import asyncio
import gc
import json
import os
import re
from datetime import date
from enum import IntEnum, StrEnum
from math import inf, nan
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jumping import ERRORS, SETTINGS, module
from pydantic import BaseModel, FilePath, SecretBytes, SecretStr, ValidationError, field_validator, model_validator

ADDRESSES, ESCAPING, IDENTITY, SECRETS = module("addresses"), module("escaping"), module("identity"), module("secrets")
SERIALIZATION, TOPICS = module("serialization"), module("topics")

BOTH = pytest.mark.parametrize("codec", SERIALIZATION.SERIALIZATIONS, ids=lambda codec: codec.name)

RULE = (
    "must look like a://[user[:password]@]host[:port][,host[:port]...] or unix://[user[:password]@]/path, with a number "
    "from 1 to 65535 as port, and with @ : / ? # [ ] , % and spaces in user and password percent-encoded"
)


def parse(url: str) -> Any:
    return ADDRESSES.parse(url, ("a", "unix"), ("unix",))


@pytest.mark.parametrize(
    ("url", "user", "password", "hosts", "rest"),
    [
        ("a://h", None, None, [("h", None)], ""),
        ("a://h:1", None, None, [("h", 1)], ""),
        ("a://h:65535/p?o=1,2:3/4", None, None, [("h", 65535)], "/p?o=1,2:3/4"),
        ("a://h?o=1,2", None, None, [("h", None)], "?o=1,2"),
        ("a://h/p?o=1,2?q", None, None, [("h", None)], "/p?o=1,2?q"),
        ("a://[::1]", None, None, [("::1", None)], ""),
        ("a://[::1]:5,h", None, None, [("::1", 5), ("h", None)], ""),
        ("a://u@h", "u", None, [("h", None)], ""),
        ("a://u:@h", "u", "", [("h", None)], ""),
        ("a://:p@h", "", "p", [("h", None)], ""),
        ("a://u:p@h:1,i:2/p", "u", "p", [("h", 1), ("i", 2)], "/p"),
        ("a://h%2fi", None, None, [("h%2fi", None)], ""),
        ("a://u%3a%C3%A4:%2F%40@h%2F", "u%3a%C3%A4", "%2F%40", [("h%2F", None)], ""),
    ],
)
def test_a_url_is_read_into_its_parts_and_made_of_them_again(
    url: str, user: str | None, password: str | None, hosts: list[tuple[str, int | None]], rest: str
) -> None:
    address = parse(url)
    assert (address.scheme, address.user, address.password, address.rest) == ("a", user, password, rest)
    assert list(address.hosts) == hosts
    assert address.url == url


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("a://h:1,a://i:2", "a://h:1,i:2"),
        ("a://u:p@h,a://u:p@i", "a://u:p@h,i"),
        ("a://u:p@h:1,u:p@i:2,u:p@j/p", "a://u:p@h:1,i:2,j/p"),
        ("a://u:p@h,i,a://u:p@j", "a://u:p@h,i,j"),
        ("a://h/p?o=1,a://i/p?o=1", "a://h,i/p?o=1"),
        ("a://u:p@h,u:p@i", "a://u:p@h,i"),
    ],
)
def test_several_hosts_may_be_written_as_several_urls_and_logins(url: str, same: str) -> None:
    assert parse(url) == parse(same)


def test_a_url_without_hosts_keeps_all_the_rest() -> None:
    address = parse("unix://u:p@/run/a,b:1?o=1")
    assert (address.scheme, address.user, address.password, address.hosts) == ("unix", "u", "p", ())
    assert address.rest == "/run/a,b:1?o=1"
    assert address.where == "unix:///run/a,b:1"
    assert parse("unix:///run/a").url == "unix:///run/a"
    assert parse("unix:///a,unix:///b").rest == "/a,unix:///b"


def test_what_is_shown_of_a_url_is_scheme_and_hosts() -> None:
    assert parse("a://u:p@[::1]:5,h/p?o=1").where == "a://[::1]:5,h"
    assert parse("a://h,i").at(ADDRESSES.Target("i", 3)).url == "a://i:3"


def test_user_and_password_are_percent_decoded() -> None:
    assert parse("a://u%3A%c3%a4:%2F%40@h").login == ("u:ä", "/@")
    assert parse("a://h").login == (None, None)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a:h",
        "a//h",
        "h:1",
        "://h",
        "1://h",
        "a b://h",
        "b://h",
        "A://h",
        "a://",
        "a:///p",
        "a://h,",
        "a://,h",
        "a://h,,i",
        "a://h i",
        "a://h\n",
        "a://h\x00",
        "a://h/\x7f",
        "a://h:0",
        "a://h:01",
        "a://h:65536",
        "a://h:100000",
        "a://h:",
        "a://h:x",
        "a://h:1:2",
        "a://h[1]",
        "a://[h]",
        "a://[::1",
        "a://::1",
        "a://[]",
        "a://h\\i",
        "a://h%",
        "a://h%2g",
        "a://h/p@q",
        "a://h#f",
        "a://h/p#f",
        "a://h/p,q",
        "a://u:p:q@h",
        "a://u/v@h",
        "a://u@v@h",
        "a://u%@h",
        "a://u:%ff@h",
        "a://u,v@h",
        "a://u:p@h,v:p@i",
        "a://u:p@h,i,u:p@j",
        "a://h/p,a://i/q",
        "a://h,b://i",
        "a://u@h,a://v@i",
        "a://h,unix:///p",
        "unix://",
        "unix://u@",
    ],
)
def test_a_url_that_can_be_read_in_two_ways_is_refused_by_the_rule(url: str) -> None:
    with pytest.raises(ValueError, match="must look like") as raised:
        parse(url)
    assert str(raised.value).endswith(f"; it {RULE}")
    assert raised.value.__context__ is None


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("s3cr3t", "it does not begin with a scheme and ://"),
        ("s3cr3t://h", "its scheme is unknown"),
        ("a://u:s3 cr3t@h", "it has a space or a control character"),
        ("a://u:s3/cr3t@h", "a / ? or # comes before its @"),
        ("a://u:s3@cr3t@h", "a character of its login is not percent-encoded"),
        ("a://h#s3cr3t", "it has a # after its hosts"),
        ("a://u:s3cr3t%ff@h", "its login is not in UTF-8"),
        ("a://u@h,v:s3cr3t@i", "it has an @ in its login, or hosts with different logins"),
        ("a://h/s3,cr3t", "it has a comma after its hosts"),
        ("a://h,a://h/s3cr3t", "its parts, with commas between them, differ in more than the host"),
        ("a://h:s3cr3t", "a port is not a number from 1 to 65535"),
        ("a://h:65536", "a port is not a number from 1 to 65535"),
        ("a://s3cr3t,", "a host is missing, or has a character that no host has"),
        ("a://[s3cr3t]", "what stands in [ ] is not an IPv6 address"),
        ("unix://", "it has no path"),
    ],
)
def test_what_is_wrong_with_a_url_comes_first_and_no_piece_of_it_is_shown(url: str, fault: str) -> None:
    with pytest.raises(ValueError, match="must look like") as raised:
        parse(url)
    assert str(raised.value) == f"{fault}; it {RULE}"
    assert "cr3t" not in str(raised.value)


def test_any_scheme_will_do_where_none_is_asked_for() -> None:
    for scheme in ("a.b+c-1", "Ab", "aB"):
        assert ADDRESSES.parse(f"{scheme}://h").scheme == scheme
    for scheme in ("1a", "", "ä", "a_b"):
        with pytest.raises(ValueError, match="must look like"):
            ADDRESSES.parse(f"{scheme}://h")
    assert ADDRESSES.rule(()).startswith("must look like scheme://[user[:password]@]host[:port]")


def test_schemes_that_are_used_alike_are_told_together() -> None:
    assert ADDRESSES.rule(("a", "as", "b")).startswith(
        "must look like a://[user[:password]@]host[:port][,host[:port]...] (or as://, b://), with a number"
    )


@pytest.mark.parametrize(
    ("topic", "mark", "name"),
    [
        ("aZ09-_", "%", "aZ09-_"),
        ("a.b/c%", "%", "a%2Eb%2Fc%25"),
        ("ä*", "%", "%C3%A4%2A"),
        ("a_b.c", "_", "a_5Fb_2Ec"),
    ],
)
def test_a_topic_becomes_a_name_that_is_read_again(topic: str, mark: str, name: str) -> None:
    assert ESCAPING.escape(topic, mark) == name
    assert ESCAPING.unescape(name, mark) == topic


def test_the_mark_is_a_percent_sign_where_none_is_given() -> None:
    assert ESCAPING.unescape(ESCAPING.escape("a.b%2E")) == "a.b%2E"


@given(st.text(min_size=60, max_size=90), st.text(min_size=60, max_size=90), st.sampled_from("%_"))
def test_names_that_are_cut_have_the_length_and_differ(one: str, other: str, mark: str) -> None:
    names = [ESCAPING.escape("=" * 20 + topic, mark, 60) for topic in (one, other)]
    assert [len(name) for name in names] == [60, 60]
    assert (names[0] == names[1]) == (one == other)


def test_a_name_is_cut_only_where_it_is_longer() -> None:
    assert ESCAPING.escape("a" * 60, "%", 60) == "a" * 60
    assert ESCAPING.escape("a" * 61, "%", 60).startswith("a" * 26 + "%%")


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("ConnectError", {"refused": False}),
        ("ReconnectError", {"refused": False}),
        ("PublishError", {"topic": ""}),
        ("SubscribeError", {"topic": ""}),
        ("BadFrameError", {"topic": "", "count": 1}),
        ("SlowListenerError", {"topic": "", "count": 0}),
        ("MessagesLostError", {"topic": "", "node": "", "count": 0}),
    ],
)
def test_an_error_has_its_text_and_its_fields(kind: str, fields: dict[str, Any]) -> None:
    make = getattr(ERRORS, kind)
    assert str(make()) == ""
    assert {name: getattr(make(), name) for name in fields} == fields
    given = {name: f"some {name}" for name in fields}
    error = make("text", **given)
    assert str(error) == "text"
    assert {name: getattr(error, name) for name in fields} == given


SECRET = "pä ss/+\"'\\\n%word"

ENCODED = [quote(SECRET, safe=""), quote(SECRET), quote_plus(SECRET)]


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        *ENCODED,
        *(re.sub("%..", lambda code: code[0].lower(), form) for form in ENCODED),
        *(write(SECRET)[1:-1] for write in (repr, ascii, json.dumps)),
        json.dumps(SECRET, ensure_ascii=False)[1:-1],
        repr(SECRET.encode())[2:-1],
    ],
)
def test_a_secret_is_hidden_in_whatever_form_it_stands(form: str) -> None:
    assert SECRETS.hide(f"<{form}>", [SECRET]) == "<**********>"
    assert SECRETS.hide(f"<{form}>", [quote(SECRET)]) == "<**********>"


def test_what_cannot_be_encoded_is_hidden_too() -> None:
    secret = "pass\udce9word"
    for form in (secret, "pass?word", "pass%3Fword", "pass\\udce9word"):
        assert SECRETS.hide(f"<{form}>", [secret]) == "<**********>"


def test_a_short_secret_is_hidden_only_where_it_stands_alone() -> None:
    assert SECRETS.hide("1234567 (1234567) x1234567 1234567x", ["1234567"]) == (
        "********** (**********) x1234567 1234567x"
    )
    assert SECRETS.hide("x12345678x", ["12345678"]) == "x**********x"


def test_of_several_secrets_the_longest_is_hidden_first() -> None:
    assert SECRETS.hide("password-and-more", ["password", "password-and-more"]) == "**********"
    assert SECRETS.hide("one-secret two-secret", ["one-secret", "two-secret"]) == "********** **********"


@pytest.mark.parametrize("secrets", [[], [""]])
def test_nothing_is_hidden_where_there_is_no_secret(secrets: list[str]) -> None:
    assert SECRETS.hide("a text, with signs", secrets) == "a text, with signs"


class Mute(Exception):
    """It cannot say what it is."""

    def __str__(self) -> str:
        raise ZeroDivisionError


def test_an_error_is_described_without_its_secrets() -> None:
    assert SECRETS.describe(ValueError("the-secret is wrong."), ["the-secret"]) == "ValueError: ********** is wrong"
    assert SECRETS.describe(ValueError(), ["the-secret"]) == "ValueError"
    assert SECRETS.describe(Mute(), []) == "Mute"


@pytest.mark.parametrize("before", [0, 9_985, 9_990, 9_991, 9_999, 10_000, 20_000])
def test_of_a_long_text_the_beginning_is_told_without_its_secrets(before: int) -> None:
    text = before * "." + "the-secret" + 1_000_000 * "!"
    told = SECRETS.tell(text, ["the-secret"])
    assert len(told) <= 10_012
    assert told.startswith(text[: min(before, 10_000)])
    assert "t" not in told
    assert ("**********" in told) == (before < 10_000)


def test_an_error_that_fills_megabytes_is_no_cause_that_is_shown() -> None:
    assert not SECRETS.presentable(ValueError(1_000_000 * "!"), [])


def caused(error: Exception, cause: BaseException | None = None, context: BaseException | None = None) -> Exception:
    error.__cause__, error.__context__ = cause, context
    return error


CLEAN, DIRTY = ValueError("clean"), ValueError("the-secret")


@pytest.mark.parametrize(
    ("error", "is_clean"),
    [
        (CLEAN, True),
        (DIRTY, False),
        (caused(OSError("clean"), cause=CLEAN, context=CLEAN), True),
        (caused(OSError("clean"), cause=DIRTY), False),
        (caused(OSError("clean"), cause=CLEAN, context=DIRTY), False),
        (caused(OSError("clean"), cause=caused(OSError("clean"), context=DIRTY)), False),
        (ExceptionGroup("clean", [CLEAN, OSError("clean")]), True),
        (ExceptionGroup("clean", [CLEAN, caused(OSError("clean"), cause=CLEAN, context=DIRTY)]), False),
        (Mute(), True),
    ],
)
def test_an_error_is_presentable_if_all_that_its_traceback_shows_is(error: Exception, is_clean: bool) -> None:
    assert SECRETS.presentable(error, ["the-secret"]) == is_clean


def test_a_secret_in_a_note_is_seen() -> None:
    error = ValueError("clean")
    error.add_note("the-secret")
    assert not SECRETS.presentable(error, ["the-secret"])


def test_a_secret_that_only_the_other_form_of_a_chained_error_shows_is_seen() -> None:
    class Odd(Exception):
        def __repr__(self) -> str:
            return "the-secret"

    error = caused(OSError("clean"), cause=Odd(), context=caused(OSError("clean"), cause=CLEAN))
    assert not SECRETS.presentable(error, ["the-secret"])


def test_errors_that_cause_each_other_come_to_an_end() -> None:
    one = caused(OSError("one"))
    other = caused(OSError("other"), cause=one)
    one.__context__ = other
    assert SECRETS.presentable(other, ["the-secret"])


def test_an_error_that_cannot_be_shown_is_not_presentable() -> None:
    class Broken(Exception):
        def __repr__(self) -> str:
            raise ZeroDivisionError

    assert not SECRETS.presentable(Broken(), [])


class Login(BaseModel):
    """It holds a secret."""

    user: str = "user"
    password: SecretStr = SecretStr("of the model")


class Place(BaseModel):
    """It holds none."""

    host: str = "host"


@pytest.mark.parametrize("kind", [SecretStr, SecretBytes, SecretStr | None, list[SecretStr], dict[str, Login], Login])
def test_the_type_says_that_a_value_is_secret(kind: Any) -> None:
    assert SECRETS.is_secret(kind)


@pytest.mark.parametrize("kind", [str, bytes | None, list[str], dict[str, Place], Place, Any, None])
def test_the_type_says_that_a_value_is_not_secret(kind: Any) -> None:
    assert not SECRETS.is_secret(kind)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (SecretStr("one"), ["one"]),
        (SecretBytes(b"tw\xff"), ["tw\ufffd"]),
        (Login(), ["of the model"]),
        ({"a": SecretStr("one"), "b": [SecretStr("two"), (SecretStr("three"), "four")]}, ["one", "two", "three"]),
        ({SecretStr("one")}, ["one"]),
        (frozenset([SecretStr("one")]), ["one"]),
        ("text", []),
        (None, []),
    ],
)
def test_secrets_are_found_in_whatever_holds_them(value: object, found: list[str]) -> None:
    assert SECRETS.secrets_in(value) == found


class Colour(StrEnum):
    RED = "red"


class Number(IntEnum):
    ONE = 1


def nested(depth: int, kind: type = list) -> Any:
    """Make an empty container within others."""
    value: Any = kind()
    for _ in range(depth - 1):
        value = {"": value} if kind is dict else kind([value])
    return value


def in_all_sizes(value: Any) -> list[Any]:
    """Return messages with a value in them; what is long, or has many brackets, is checked in another way."""
    return [value, [1, value, "x", {"key": value}], {"key": [value, "x" * 1000]}, [value, [[]] * 300, "x", 1.5]]


ACCEPTED: list[Any] = [
    None,
    True,
    0,
    -(2**63),
    2**64 - 1,
    1.5,
    "ä\x00",
    [],
    {},
    {"a": [1, {"b": None}]},
    [1, "x", 1.5, None, {}],
]


@BOTH
@pytest.mark.parametrize("value", ACCEPTED, ids=repr)
def test_what_json_has_arrives_as_it_is(codec: Any, value: Any) -> None:
    messages = in_all_sizes(value)
    body = codec.join([codec.encode(message, 10_000) for message in messages])
    assert codec.decode(body) == codec.copy(body) == messages
    assert codec.decode(codec.join_bodies([body, codec.join([codec.encode(1, 9)])], 5)) == [*messages, 1]


@BOTH
@pytest.mark.parametrize(
    ("value", "becomes"), [((1, (2,)), [1, [2]]), (Colour.RED, "red"), (Number.ONE, 1), ({"a": ()}, {"a": []})]
)
def test_tuples_become_lists_and_members_of_an_enum_their_values(codec: Any, value: Any, becomes: Any) -> None:
    for message, wanted in zip(in_all_sizes(value), in_all_sizes(becomes), strict=True):
        assert codec.decode(codec.join([codec.encode(message, 10_000)])) == [wanted]


@BOTH
@pytest.mark.parametrize(
    ("value", "why"),
    [
        (nan, "a number is nan or infinite, which JSON does not have"),
        (-inf, "a number is nan or infinite, which JSON does not have"),
        ({1: 2}, "a dict has a key that is not a str"),
        (b"x", "a value is of the type bytes, which JSON does not have"),
        ({1, 2}, "a value is of the type set, which JSON does not have"),
        (date(2026, 1, 1), "a value is of the type date, which JSON does not have"),
    ],
    ids=repr,
)
def test_what_json_would_alter_is_refused_with_the_reason(codec: Any, value: Any, why: str) -> None:
    for message in in_all_sizes(value):
        with pytest.raises(ERRORS.SerializationError) as raised:
            codec.encode(message, 10_000)
        assert str(raised.value) == f"The message cannot be serialised: {why}."


@BOTH
@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, object(), [2**70]], ids=["large", "small", "object", "list"])
def test_what_cannot_be_written_is_refused(codec: Any, value: Any) -> None:
    for message in in_all_sizes(value):
        with pytest.raises(ERRORS.SerializationError, match="cannot be serialised"):
            codec.encode(message, 10_000)


@BOTH
@pytest.mark.parametrize("kind", [list, tuple, dict])
def test_a_message_may_be_nested_256_levels_deep(codec: Any, kind: type) -> None:
    for message in ([nested(255, kind)], {"a": nested(255, kind), "b": [[]] * 300}, [1, nested(255, kind), "x"]):
        as_lists = msgspec.json.decode(msgspec.json.encode(message))
        data = codec.encode(message, 10_000)
        assert codec.decode(codec.join([data])) == [as_lists]
        assert codec.decode(codec.join([codec.encode(1, 9), data])) == [1, as_lists]
        with pytest.raises(ERRORS.SerializationError, match="nested deeper than 256 levels"):
            codec.encode([message], 10_000)
        deeper = (msgspec.json.encode if codec.name == "json" else msgspec.msgpack.encode)([message])
        for parts in ([deeper], [codec.encode(1, 9), deeper], [deeper, codec.encode("x" * 200_000, 1_000_000)]):
            with pytest.raises(ValueError, match="no sender produces this body: it is nested deeper than 256 levels"):
                codec.decode(codec.join(parts))


@BOTH
def test_a_message_that_holds_itself_is_refused(codec: Any) -> None:
    message: list[Any] = []
    message.append(message)
    with pytest.raises(ERRORS.SerializationError) as raised:
        codec.encode(message, 1000)
    assert str(raised.value) == (
        "The message cannot be serialised: it holds itself, or is nested deeper than 256 levels."
    )


@BOTH
def test_a_message_may_have_as_many_bytes_as_are_allowed(codec: Any) -> None:
    size = len(codec.encode("x" * 100, 1000))
    assert codec.encode("x" * 100, size)
    with pytest.raises(ERRORS.MessageTooLargeError) as raised:
        codec.encode("x" * 100, size - 1)
    assert str(raised.value) == (f"The serialised message has {size} bytes; the limit is {size - 1}.")


@pytest.mark.parametrize(
    ("name", "body", "why"),
    [
        ("json", b"", "Input data was truncated"),
        ("json", b"{}", "the body is not an array"),
        ("json", b"[1", "Input data was truncated"),
        ("json", b"[18446744073709551616]", ""),
        ("msgpack", b"", "Input data was truncated"),
        ("msgpack", b"\x80", "the body is not an array"),
        ("msgpack", b"\x91\xc4\x01x", "it holds a value or a key that JSON does not have"),
        ("msgpack", b"\x91\x81\x01\x02", "it holds a value or a key that JSON does not have"),
        ("msgpack", msgspec.msgpack.encode([nan]), "it holds a value or a key that JSON does not have"),
        (
            "msgpack",
            msgspec.msgpack.encode(["x" * 200_000, nan]),
            "a number is nan or infinite, which JSON does not have",
        ),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_body_that_no_sender_makes_is_refused_with_the_reason(name: str, body: bytes, why: str) -> None:
    with pytest.raises(ValueError, match="no sender produces this body: ") as raised:
        SERIALIZATION.by_name(name).decode(body)
    assert str(raised.value).removeprefix("no sender produces this body: ").startswith(why)


@BOTH
@pytest.mark.parametrize("is_on", [True, False])
def test_the_garbage_collector_is_left_as_it_was(codec: Any, is_on: bool) -> None:
    body = codec.join([codec.encode("x" * 200_000, 1_000_000)])
    try:
        (gc.enable if is_on else gc.disable)()
        codec.decode(body)
        assert gc.isenabled() == is_on
    finally:
        gc.enable()


def test_a_serialisation_is_found_by_its_name_and_by_its_code() -> None:
    for codec, name, code in zip(SERIALIZATION.SERIALIZATIONS, ("json", "msgpack"), (1, 2), strict=True):
        assert SERIALIZATION.by_name(name) is SERIALIZATION.by_code(code) is codec
    with pytest.raises(ValueError, match=r"^serialisation 'xml' is unknown$"):
        SERIALIZATION.by_name("xml")
    with pytest.raises(ValueError, match=r"^serialisation 3 is unknown$"):
        SERIALIZATION.by_code(3)


def of_file(path: Path, content: bytes) -> Any:
    path.write_bytes(content)
    return SETTINGS.ConnectorSettings(url="a://u:of-the-url@h", password_file=path)


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"word", "word"),
        (b"word\n", "word"),
        (b"word\r\n", "word"),
        (b"word\n\n", "word\n"),
        (b"\r word \n", "\r word "),
        (b"\nword", "\nword"),
        ("wörd".encode(), "wörd"),
    ],
)
def test_the_password_is_what_the_file_holds_without_one_line_break(
    content: bytes, password: str, tmp_path: Path
) -> None:
    settings = of_file(tmp_path / "file", content)
    present = settings.present()
    assert present.login == ("u", password)
    assert settings.login == ("u", "of-the-url")


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n", b"\xff"])
def test_a_file_without_a_password_is_refused(content: bytes, tmp_path: Path) -> None:
    settings = of_file(tmp_path / "file", content)
    with pytest.raises(ValueError, match=r"^password_file = .*file: it is empty, or not in UTF-8$"):
        settings.present()


def test_an_empty_name_of_the_file_is_refused() -> None:
    with pytest.raises(ValueError, match=r"password_file\n.*name of a file"):
        SETTINGS.ConnectorSettings(url="a://h", password_file="")


def test_settings_without_a_file_are_present_as_they_are() -> None:
    settings = SETTINGS.ConnectorSettings(url="a://h")
    assert settings.present() is settings


def test_settings_hide_their_secrets_in_a_text() -> None:
    settings = SETTINGS.ConnectorSettings(url="a://u:of-the-url@h", cluster_key="the-first-key,the-second-key")
    error = ERRORS.ConnectError("of-the-url the-first-key the-second-key u h")
    assert settings.describe(error) == "********** ********** ********** u h"


def test_settings_for_an_address_show_the_name_too() -> None:
    settings = SETTINGS.ConnectorSettings(url="a://u:p@n:5,m/p")
    copy = settings.at("n", 5, "10.0.0.1")
    assert copy.where == "a://n:5 (10.0.0.1)"
    assert copy.host_name == "n"
    assert copy.url.get_secret_value() == "a://u:p@10.0.0.1:5/p"
    assert settings.at("m", None).where == "a://m"


class Strict(SETTINGS.ConnectorSettings):  # type: ignore[misc]
    """Its rules say what they were given."""

    keys: tuple[SecretStr, ...] = ()
    file: FilePath | None = None
    number: int = 1

    @field_validator("password", mode="before")
    @classmethod
    def _is_no_password(cls, password: Any) -> Any:
        if password:
            raise ValueError(f"{password} is wrong")
        return password

    @field_validator("keys")
    @classmethod
    def _are_no_keys(cls, keys: tuple[SecretStr, ...]) -> Any:
        if keys:
            raise ValueError(f"{keys[0].get_secret_value()} is wrong")
        return keys

    @model_validator(mode="after")
    def _is_one(self) -> Any:
        if self.number != 1:
            raise ValueError("number must be 1")
        return self


@pytest.mark.parametrize(
    ("values", "text", "value"),
    [
        ({"password": "the-secret"}, "********** is wrong", "**********"),
        ({"keys": (SecretStr("the-secret"),)}, "********** is wrong", "**********"),
        ({"number": "x"}, "must be a valid integer", "x"),
        ({"heartbeat": 0}, "must be greater than 0", 0),
        ({"shards": 33}, "must be less than or equal to 32", 33),
        ({"serialization": "xml"}, "must be 'json' or 'msgpack'", "xml"),
        ({"file": "nowhere"}, "must be the name of an existing file", "nowhere"),
        ({"node_name": ""}, "must have at least 1 character", ""),
        ({"haertbeat": "the-secret"}, "there is no setting 'haertbeat'. Did you mean 'heartbeat'?", "**********"),
        ({"colour": "the-secret"}, "there is no setting 'colour'", "**********"),
    ],
)
def test_a_fault_of_the_settings_says_its_rule_and_hides_a_secret(
    values: dict[str, Any], text: str, value: object
) -> None:
    with pytest.raises(ValidationError) as raised:
        Strict(url="a://h", **values)
    (fault,) = raised.value.errors()
    assert (fault["msg"], fault["input"]) == (text, value)
    assert "the-secret" not in str(raised.value)


def test_a_fault_of_several_settings_together_says_its_rule() -> None:
    with pytest.raises(ValidationError) as raised:
        Strict(url="a://h", number=2)
    (fault,) = raised.value.errors()
    assert (fault["msg"], fault["loc"], fault["input"]) == ("number must be 1", (), "**********")


@pytest.mark.parametrize(
    ("topic", "fault"),
    [
        ("topic", None),
        (5, "topic = 5: must be a str"),
        ("", "topic = '': must not be empty"),
        ("\udc80", "topic = '\\udc80': must be text that UTF-8 can carry (it has a lone surrogate)"),
    ],
)
def test_what_is_no_topic_is_told_with_the_reason(topic: object, fault: str | None) -> None:
    assert TOPICS.topic_fault(topic) == fault


async def make_identity() -> Any:
    identity = IDENTITY.Identity()
    identity.check()
    return identity


async def check_elsewhere(identity: Any) -> None:
    identity.check()


def test_an_identity_says_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = asyncio.run(make_identity())
    with pytest.raises(RuntimeError, match=r"belongs to an event loop, and was called from outside it\. "):
        identity.check()
    with pytest.raises(RuntimeError, match=r"belongs to another event loop\. "):
        asyncio.run(check_elsewhere(identity))
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(RuntimeError, match=r"belongs to the process that this one was forked from\. "):
        identity.check()


def test_a_node_has_one_name_in_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    name, names = IDENTITY.NodeName(), list[str]()
    for process in (1, 2, 3):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        names.append(name.get())
        assert name.get() == names[-1]
    assert len(set(names)) == 3
    assert [len(each) for each in names] == [32, 32, 32]
