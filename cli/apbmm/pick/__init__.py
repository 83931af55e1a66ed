"""`apbmm pick`: the merge to serve, and the reason.

- `choice.choose` chooses by a `choice.Preference`, which `flags.PreferenceFlags` express as
  options of a command.
- `remarks` compares a merge with the sources and says what to doubt.
- `command.show_pick` is what the `apbmm` command calls, `view` prints.
"""

__all__ = ["choice", "command", "flags", "remarks", "view"]
