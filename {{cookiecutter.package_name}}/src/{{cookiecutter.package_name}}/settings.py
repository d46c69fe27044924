{% include "presets/" ~ cookiecutter.preset ~ "/settings.py" %}
