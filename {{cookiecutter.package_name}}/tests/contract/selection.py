"""Which tests run, and in which order: what waits for a blank, what the broker cannot keep, the basic ones first."""

import os

import pytest

from ..broker import Broker
from .blanks import TEST_URL, open_blanks
from .clauses import ALL, CLAUSES, TALK
from .verdicts import NOT_APPLICABLE, WAITS

DECLARED = pytest.StashKey[str]()
"""The reason in `Broker.not_applicable`, of an item that still runs, for the report."""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run tests side by side, each worker with a server of its own, unless one disturbs the other."""
    is_early = {blank.name for blank in open_blanks()} & set(TALK)  # few tests run then
    is_alone = config.option.report or config.option.clusters or os.environ.get(TEST_URL) or is_early
    return 0 if is_alone else Broker.workers


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("the pack")
    group.addoption("--clause", metavar="IDS", default="", help="run only the tests of these clauses: --clause M3,R4")
    group.addoption(
        "--report",
        action="store_true",
        help="measure, try what is declared not applicable, and write CONFORMANCE.md and its companions",
    )


def pytest_configure(config: pytest.Config) -> None:
    if unknown := _wanted(config) - CLAUSES.keys():
        raise pytest.UsageError(f"--clause: there is no clause {', '.join(sorted(unknown))}")


def _wanted(config: pytest.Config) -> set[str]:
    """Return the ids of the selected clauses, if not all are."""
    return {clause.strip().upper() for clause in config.option.clause.split(",") if clause.strip()}


def clauses_of(item: pytest.Item) -> list[str]:
    """Return the ids of the clauses that a test proves."""
    return [clause for marker in item.iter_markers("clause") for clause in marker.args]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Have `-k M3` find the tests of a clause."""
    item.extra_keyword_matches.update(clauses_of(item))


def asked_for(config: pytest.Config) -> frozenset[str]:
    """Return the clauses whose tests are all selected, where only a part is."""
    wanted = _wanted(config)
    return frozenset(wanted if selected_by(config) == f"--clause {config.option.clause}" else ())


def selected_by(config: pytest.Config) -> str:
    """Return what selects a part of the tests, if something does."""
    option = config.option
    named = {"--clause": option.clause, "-k": option.keyword, "-m": option.markexpr, "--deselect": option.deselect}
    words = [f"{name} {value}" for name, value in named.items() if value]
    if config.args_source is pytest.Config.ArgsSource.ARGS:
        words += [str(argument) for argument in config.args]
    return " ".join(words)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.option.report:
        items[:] = [item for item in items if not item.get_closest_marker("figure")]
    items[:] = [item for item in items if all(map(_can, item.iter_markers("needs")))]
    _select(config, items)
    items.sort(key=_rank)
    unwritten = {blank.name: blank for blank in open_blanks()}
    for item in items:
        clauses = clauses_of(item)
        _note(item, clauses)
        needs = [need for clause in clauses if clause in CLAUSES for need in CLAUSES[clause].needs]
        needs += ALL if item.get_closest_marker("figure") else []
        callspec = getattr(item, "callspec", None)
        needs += callspec.params.values() if callspec else []
        if waits := [blank for name, blank in unwritten.items() if name in needs]:
            names = ", ".join(blank.name for blank in waits)
            item.add_marker(pytest.mark.skip(f"{WAITS}{names}"))
        elif keys := [key for key in (*clauses, item.name) if key in Broker.not_applicable]:
            if config.option.report:
                item.stash[DECLARED] = excuse = Broker.not_applicable[keys[0]]
                item.user_properties += [("declared", keys[0]), ("excuse", excuse)]
            else:
                item.add_marker(pytest.mark.skip(f"{NOT_APPLICABLE}{Broker.not_applicable[keys[0]]}"))


def _can(needs: pytest.Mark) -> bool:
    """Return whether the server of the tests can do what a test needs."""
    return all(getattr(Broker, ability) for ability in needs.args)


def _select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep only the tests of the selected clauses."""
    if wanted := _wanted(config):
        out = [item for item in items if not wanted & set(clauses_of(item))]
        items[:] = [item for item in items if wanted & set(clauses_of(item))]
        config.hook.pytest_deselected(items=out)


def is_basic(item: pytest.Item) -> bool:
    """Return whether all other tests need what this one tries."""
    return item.get_closest_marker("basic") is not None


def _rank(item: pytest.Item) -> int:
    """Return the place of a test among the groups: the basic ones in their order, the bare transport, all others, figures."""
    if basic := item.get_closest_marker("basic"):
        return int(basic.args[0])
    return 1000 if item.get_closest_marker("figure") else 50 if item.path.name == "test_transport.py" else 100


def _note(item: pytest.Item, clauses: list[str]) -> None:
    """Have the reports of a test say what it is about, even where another process reads them."""
    item.user_properties += [("clauses", " ".join(clauses)), ("rank", _rank(item))]
    for marker in item.iter_markers("simulated"):
        item.user_properties.append(("simulated", " ".join(marker.args)))
    if item.get_closest_marker("real") or item.path.name == "test_broker.py":
        item.user_properties.append(("real", "yes"))
    for marker in item.iter_markers("production"):
        item.user_properties.append(("matters", " ".join(marker.args)))
