"""Adapters to the servers that people run. Each module needs its server's package, which an extra of its name brings."""
