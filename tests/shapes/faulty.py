"""A plugin of pytest: puts the fault that the environment names into the transport, before the pack sees it."""

import os
from importlib import import_module
from typing import Any

import catalogue
import names


def inject(shape: str, name: str) -> None:
    """Put a fault of this name in the place of the sound transport."""
    package: Any = import_module(names.PACKAGE)
    transport: Any = import_module(f"{names.PACKAGE}.transport")
    sound = transport.BrokerTransport
    (found,) = (fault for fault in catalogue.of(shape) if fault.name == name)
    same = {name: getattr(sound, name) for name in ("__module__", "__qualname__", "__doc__")}
    faulty = type(sound)(sound.__name__, (sound,), {**same, **found.make(sound)})
    transport.BrokerTransport = package.BrokerTransport = package.Connector.transport_class = faulty


inject(os.environ["SHAPE"], os.environ["FAULT"])
