"""Writes docs/connectors.md: the presets, by their reports, and the connectors of docs/connectors.json."""

import json
from collections.abc import Iterator
from typing import Any

from baking import FILLED, ROOT

DOCS = ROOT / "docs"
KEYS = ("name", "broker", "repository", "contract", "level", "badge")
PAGE = """# Connectors

Those under *maintained here* are presets of this template. The others live in repositories of their own; their badges say
what their own runs have shown. [CONTRIBUTING](../CONTRIBUTING.md#listed) says how a connector
gets into the list. This page is made by `tox run -e connectors`.

Each level stands on the one before it:

- *works*: nodes reach each other; all clauses of [the contract](contract.md) on lifecycle, messages, serialisation and
  errors hold.
- *recovers*: outages and load lose nothing; the clauses on recovery and throughput hold, too.
- *production*: proved on a real broker, with tests of its own: a cluster of brokers survives the loss of one, certificates
  are checked with TLS, and a password or a certificate changes while nodes are connected.

## Maintained here

"""
ELSEWHERE = """
## Elsewhere

"""
HEAD = "| connector | broker | contract | level | badge |\n| --- | --- | --- | --- | --- |\n"
NONE = "None is listed yet.\n"


def page() -> str:
    """Return the page as it is to be."""
    others: list[dict[str, str]] = json.loads((DOCS / "connectors.json").read_text(encoding="utf-8"))
    elsewhere = [row(told, told["repository"]) for told in sorted(others, key=lambda told: told["name"])]
    return PAGE + HEAD + "".join(presets()) + ELSEWHERE + (HEAD + "".join(elsewhere) if elsewhere else NONE)


def presets() -> Iterator[str]:
    """Return the rows of the presets."""
    for preset in FILLED:
        report: dict[str, Any] = json.loads((DOCS / "conformance" / preset / "conformance.json").read_text("utf-8"))
        told = {
            "name": preset,
            "broker": report["connector"],
            "contract": report["contract_version"],
            "level": [level["name"] for level in report["levels"] if level["reached"]][-1],
            "badge": f"conformance/{preset}/conformance.svg",
        }
        yield row(told, f"conformance/{preset}/CONFORMANCE.md")


def row(told: dict[str, str], link: str) -> str:
    """Return a connector's line of a table."""
    name, broker, contract, level, badge = (told[key] for key in KEYS if key != "repository")
    return f"| [`{name}`]({link}) | {broker} | {contract} | {level} | ![{level}]({badge}) |\n"


if __name__ == "__main__":
    (DOCS / "connectors.md").write_text(page(), encoding="utf-8")
