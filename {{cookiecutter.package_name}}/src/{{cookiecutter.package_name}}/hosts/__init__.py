"""Adapters to the servers that people run. Each module needs its server's package, from the extra of its name."""
