"""All faults of transports."""

import faults_in_answers
import faults_in_connections
import faults_in_delivery
from faults import FAULTS, Fault

__all__ = ["FAULTS", "Fault", "faults_in_answers", "faults_in_connections", "faults_in_delivery", "of"]


def of(shape: str) -> list[Fault]:
    """Return the faults of a shape."""
    return [each for each in FAULTS if shape in each.shapes]
