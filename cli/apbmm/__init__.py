"""The `apbmm` command: everything that a user does beside running a master and its workers.

`app` defines the options, `cli` is the entry point. Each command has a room, but for `keys`, which
is a single module. This package stands above master and worker and may import either; nothing
imports it.
"""

__all__ = ["app", "cli"]
