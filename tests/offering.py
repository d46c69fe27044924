"""Says what presets lack of the list in CONTRIBUTING.md, and tries those that lack nothing: `offering.py [PRESET …]`."""

import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from baking import FILLED, PRESETS, QUESTIONS, ROOT, bake, tox

FILES = ("transport.py", "settings.py", "broker.py", "test_broker.py", "README.md")
KEYS = {
    "broker": str,
    "requires": list,
    "extras": dict,
    "test_requires": list,
    "modules": list,
    "client": bool,
    "apt": list,
}


def main(*presets: str) -> int:
    bad = [preset for preset in presets or FILLED if not is_complete(preset)]
    print("not ready:" if bad else "ready", *bad)
    return int(bool(bad))


def is_complete(preset: str) -> bool:
    """Print what a preset lacks; if nothing, run its pack, its lint and its types, and print how they end."""
    missing = [*lacks(preset)]
    print(preset, *missing, sep="\n  ", flush=True)
    if missing:
        return False
    with tempfile.TemporaryDirectory() as home:
        ended = tox(bake(Path(home), preset=preset), Path(home) / "tox", "-e", "lint,types,py")
    print(*ended.stdout.splitlines()[-60 if ended.returncode else -5 :], sep="\n", flush=True)
    return ended.returncode == 0


def lacks(preset: str) -> Iterator[str]:
    """Say what a preset still needs, and what it has in vain."""
    folder, needs = ROOT / "templates" / "presets" / preset, QUESTIONS["_presets"].get(preset, {})
    files = {*FILES, *(["client.py"] if needs.get("client") else [])}
    found = {path.name for path in folder.iterdir() if path.name != "__pycache__"} if folder.is_dir() else set()
    yield from (f"templates/presets/{preset}/{name} is missing" for name in sorted(files - found))
    yield from (f"templates/presets/{preset}/{name} is not copied into a project" for name in sorted(found - files))
    if preset not in PRESETS:
        yield "`preset` in cookiecutter.json does not name it"
    if not QUESTIONS["__prompts__"]["preset"].get(preset, "").startswith(f"{preset}: "):
        yield f"`preset` of `__prompts__` in cookiecutter.json has no line that begins with {preset}:"
    if preset not in QUESTIONS["_presets"]:
        yield f"`_presets` in cookiecutter.json has no {preset}, with {', '.join(KEYS)}"
    for key, kind in KEYS.items() if needs else ():
        if not isinstance(needs.get(key), kind):
            yield f"`{key}` of {preset} in cookiecutter.json must be {kind.__name__}"
    yield from (f"`{key}` of {preset} in cookiecutter.json means nothing" for key in needs if key not in KEYS)
    if preset == "blank":
        return
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    yield from (f".ci/run does not install {name}" for name in needs.get("apt", []) if name not in script.split())
    report = f"docs/conformance/{preset}/CONFORMANCE.md"
    row = re.search(rf"^\| \[`{preset}`\]\({report}\) \|.*$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    if not row:
        yield f"README.md has no row for it, with a link to {report}"
    else:
        yield from (f"its row in README.md does not name {name}" for name in needs.get("apt", []) if name not in row[0])
    if f"(conformance/{preset}/CONFORMANCE.md)" not in (ROOT / "docs" / "brokers.md").read_text(encoding="utf-8"):
        yield "docs/brokers.md has no row for it"
    if not (ROOT / report).is_file():
        yield f"{report} is missing: tox run -e conformance -- {preset}"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
