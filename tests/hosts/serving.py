"""What the programs share: the package of which they are told, and how they serve; `<host>_server.py PORT BACK_END`."""

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import uvicorn

PACKAGE = os.environ["PACKAGE"]
REDIS_URL = os.environ["REDIS_URL"]
"""Where a host's own back end finds its server."""

package: Any = importlib.import_module(PACKAGE)


def module(name: str) -> Any:
    """Return a module of the package."""
    return importlib.import_module(f"{PACKAGE}.{name}")


def serve(make: Mapping[str, Callable[[], Any]], **options: Any) -> None:
    """Serve the application that is made for the back end on the command line."""
    port, back_end = sys.argv[1:]
    uvicorn.run(make[back_end](), host="127.0.0.1", port=int(port), log_level="warning", **options)
