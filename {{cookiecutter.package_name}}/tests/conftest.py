"""The fixtures and the report of the pack, and the `settings` fixture."""

pytest_plugins = (  # each after those that it imports
    "tests.contract.nodes",
    "tests.contract.clusters",
    "tests.contract.selection",
    "tests.contract.basics",
    "tests.contract.watchdog",
    "tests.contract.report",
    "tests.contract.plugin",
    "tests.settings",
)
