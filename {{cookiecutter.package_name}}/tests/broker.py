{% include "presets/" ~ cookiecutter.preset ~ "/broker.py" %}
