{% from "quoting.jinja" import python_string %}
"""What this connector is called, and its version."""

from typing import Literal

__version__ = "0.1.0"

BROKER_NAME = {{ python_string(cookiecutter.broker_name) }}
SERIALIZATION: Literal["json", "msgpack"] = "{{ cookiecutter.serialization }}"
