"""The url of a broker: read once, strictly, so that nobody reads it differently."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from typing import NamedTuple
from urllib.parse import unquote


class Fault(Exception):
    """A url is wrong; the text says why, and quotes no piece of it."""


class Target(NamedTuple):
    """One host of a url."""

    host: str
    """A name, or an IP address without brackets."""

    port: int | None
    """None where the url leaves it to the broker's default."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


@dataclass(frozen=True, repr=False)
class Address:
    """The parts of a url."""

    scheme: str

    user: str | None
    """As in the url, percent-encoded."""

    password: str | None
    """As in the url, percent-encoded."""

    hosts: tuple[Target, ...]
    """None for a url without hosts, such as `unix:///path`."""

    rest: str
    """All that follows: path and options, each with its first character."""

    def __repr__(self) -> str:
        return f"<Address {self.where}>"

    @property
    def url(self) -> str:
        """The whole url, with its secrets."""
        login = "" if self.user is None else self.user
        login += "" if self.password is None else f":{self.password}"
        at = "" if self.user is None and self.password is None else "@"
        return f"{self.scheme}://{login}{at}{','.join(map(str, self.hosts))}{self.rest}"

    @property
    def where(self) -> str:
        """What may be shown: scheme and hosts, or the path in place of the hosts; no user, password or options."""
        return f"{self.scheme}://{','.join(map(str, self.hosts)) or re.split('[?#]', self.rest)[0]}"

    @property
    def login(self) -> tuple[str | None, str | None]:
        """User and password, percent-decoded."""
        user, password = (part and unquote(part) for part in (self.user, self.password))
        return user, password

    def at(self, target: Target) -> "Address":
        """Return a copy with one host."""
        return replace(self, hosts=(target,))


def rule(schemes: Sequence[str], without_hosts: Sequence[str] = ()) -> str:
    """Say what a url must look like, without quoting any part of a bad one."""
    login = "[user[:password]@]"
    first, *others = [scheme for scheme in schemes if scheme not in without_hosts] or ["scheme"]
    alike = f" (or {', '.join(f'{scheme}://' for scheme in others)})" if others else ""
    shapes = [f"{first}://{login}host[:port][,host[:port]...]{alike}"]
    shapes += [f"{scheme}://{login}/path" for scheme in without_hosts]
    return (
        f"must look like {' or '.join(shapes)}, with a number from 1 to 65535 as port, and with "
        f"@ : / ? # [ ] , % and spaces in user and password percent-encoded"
    )


def parse(url: str, schemes: Sequence[str] = (), without_hosts: Sequence[str] = ()) -> Address:
    """Read a url that begins with one of `schemes` (none: any); with one of `without_hosts`, it names no hosts.

    Several hosts are `scheme://[user[:password]@]host[:port],host[:port]...[/path][?options]`, or whole urls with commas
    between them that differ in nothing but the host.

    Raises `ValueError` with what is wrong and the text of `rule`, and no piece of the url, for anything that could be
    read in two ways.
    """
    try:
        whole = [url] if url.partition("://")[0] in without_hosts else re.split(r",(?=[^,/?#@]*://)", url)
        first, *others = (_parse_one(each, without_hosts) for each in whole)
        if schemes and first.scheme not in schemes:
            raise Fault("its scheme is unknown")
        for other in others:
            if other.at(first.hosts[0]) != first.at(first.hosts[0]):
                raise Fault("its parts, with commas between them, differ in more than the host")
        return replace(first, hosts=tuple(target for each in (first, *others) for target in each.hosts))
    except Fault as error:
        fault = str(error)
    raise ValueError(f"{fault}; it {rule(schemes, without_hosts)}")


def _parse_one(url: str, without_hosts: Sequence[str]) -> Address:
    scheme, separator, rest = url.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        raise Fault("it does not begin with a scheme and ://")
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        raise Fault("it has a space or a control character")
    authority, rest = re.fullmatch(r"([^/?#]*)(.*)", rest).groups()  # type: ignore[union-attr]
    if "@" in rest:
        raise Fault("a / ? or # comes before its @")
    if "#" in rest:
        raise Fault("it has a # after its hosts")
    places = authority.split(",")
    if authority.count("@") > 1 and scheme not in without_hosts:
        logins = [place.rpartition("@")[0] for place in places]
        if len(set(logins)) > 1:
            raise Fault("it has an @ in its login, or hosts with different logins")
        login, at, place = logins[0], "@", ",".join(each.rpartition("@")[2] for each in places)
    else:
        login, at, place = authority.rpartition("@")
    user, password = _login(login) if at else (None, None)
    if scheme in without_hosts:
        if not place + rest:
            raise Fault("it has no path")
        return Address(scheme, user, password, (), place + rest)
    if "," in rest.partition("?")[0]:
        raise Fault("it has a comma after its hosts")
    return Address(scheme, user, password, tuple(_target(each) for each in place.split(",")), rest)


def _login(text: str) -> tuple[str, str | None]:
    user, has_password, password = text.partition(":")
    for part in (user, password):
        if not re.fullmatch(r"(?:[^@:/?#\[\],%]|%[0-9A-Fa-f]{2})*", part):
            raise Fault("a character of its login is not percent-encoded")
        try:
            unquote(part, errors="strict")
        except UnicodeDecodeError:
            raise Fault("its login is not in UTF-8") from None
    return user, password if has_password else None


def _target(text: str) -> Target:
    found = re.fullmatch(r"(?:\[([^\[\]]+)\]|((?:[^@:/?#\[\],%\\]|%[0-9A-Fa-f]{2})+))(?::(.*))?", text)
    if not found:
        raise Fault("a host is missing, or has a character that no host has")
    six, name, port = found.groups()
    if port is not None and (not re.fullmatch(r"[1-9][0-9]{0,4}", port) or int(port) > 65535):
        raise Fault("a port is not a number from 1 to 65535")
    if six:
        try:
            IPv6Address(six)
        except ValueError:
            raise Fault("what stands in [ ] is not an IPv6 address") from None
    return Target(six or name, int(port) if port else None)
