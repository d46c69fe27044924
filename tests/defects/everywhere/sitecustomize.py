"""Puts the defect that the environment names into the machinery, in every process that can import the package."""

from contextlib import suppress

with suppress(ImportError):
    import defects.plugin  # noqa: F401 (the import does it)
