{% include "presets/" ~ cookiecutter.preset ~ "/transport.py" %}
