"""How apbmm's processes behave: command lines, signals, logs, systemd, and faults for tests.

- `command_line` begins and ends every command; `usage_errors` is a part of it.
- `signals`: stopping at once, after the current work, or after cleaning up.
- `parent_death`: a child that ends with its parent.
- `systemd`: notifications of a service. `logs`: logging to standard error.
- `locks`: exclusive locks on files and folders, which end with their process.
- `home`: the user's home folder, with a clear error for a user without one.
- `failpoints`: steps of the code that tests can make fail.

All but `usage_errors` are for any other package. cyclopts is imported only when a command runs.
"""

__all__ = [
    "command_line",
    "failpoints",
    "home",
    "locks",
    "logs",
    "parent_death",
    "signals",
    "systemd",
]
