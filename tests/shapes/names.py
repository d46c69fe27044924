"""What the shapes are called."""

SHAPES = ("one", "each", "two", "threads")
"""One connection; one to publish and one for each subscription; two ports, of which one is polled; threads."""

PACKAGE = "small_connector"
"""The package that has a transport of one of these shapes."""
