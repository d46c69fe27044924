{% include "presets/" ~ cookiecutter.preset ~ "/test_broker.py" %}
