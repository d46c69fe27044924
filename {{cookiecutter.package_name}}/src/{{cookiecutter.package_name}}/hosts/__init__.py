"""Adapters to the servers that people run: `channels`, `fanout`, `litestar` and `socketio`. Other modules are their parts.

`fanout` needs no other package. The others need that of their server, which the extra with the adapter's name installs.
"""
