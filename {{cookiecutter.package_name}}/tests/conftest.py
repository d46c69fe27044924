"""The fixtures and the report of the pack, and the `settings` fixture."""

pytest_plugins = ("tests.contract.plugin", "tests.contract.report", "tests.settings")
