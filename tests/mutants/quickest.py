"""A plugin of pytest: decisions come first, then the seeds in their order, then the model; and no time goes into old garbage."""

import gc

import pytest

ORDER = ("test_decisions", "seeds", "test_model")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: ORDER.index(item.path.stem))
    gc.freeze()  # each seed collects garbage, and what mutmut has loaded is much
