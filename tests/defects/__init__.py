"""Defects of the machinery, each a small patch, and the clauses that catch them."""

from . import blocking, frames, lifecycle, messaging, recovery
from .patching import DEFECTS, PACKAGE, Defect, Machinery

__all__ = ["DEFECTS", "PACKAGE", "Defect", "Machinery", "blocking", "frames", "lifecycle", "messaging", "recovery"]
