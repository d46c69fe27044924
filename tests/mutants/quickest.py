"""A plugin of pytest: quick modules come first, the seeds in their order; and no time goes into old garbage."""

import gc

import pytest

ORDER = (
    "test_decisions",
    "test_small_parts",
    "test_link",
    "test_operations",
    "test_listening",
    "test_repairing",
    "seeds",
    "test_model",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: ORDER.index(item.path.stem))
    gc.freeze()  # each seed collects garbage, and what mutmut has loaded is much
