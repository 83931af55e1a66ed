"""What a run begins with, recorded as events of its journal.

- `resume` begins a run, or checks that a journal may go on with an edited run file.
- `learning` takes over the references and merges of an earlier run.
- `confirmation` makes the run that measures a search's front once more.
- `adaptive_blocks` finds the blocks of a run with ``grain = "adaptive"``.
"""

__all__ = ["adaptive_blocks", "confirmation", "learning", "resume"]
