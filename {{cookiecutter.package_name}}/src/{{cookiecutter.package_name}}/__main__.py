"""`python -m` with the name of this package: an example of its settings, a check of the broker, a benchmark."""

from . import Connector, Settings
from .contract.cli import main

if __name__ == "__main__":
    main(Connector, Settings)
