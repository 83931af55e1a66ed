"""What a run directory holds, read for people and for other commands.

- `run_directories` finds the folder of a run, and the address of the master that serves it.
- `run_results.read_results` reads a run: its evaluations, references and front, its times and its
  cost, from a living, finished or abandoned run or from a copy of its folder.
- `confirmation` puts a search beside the run that confirms it.
- `figures` has measured numbers with their intervals.
- `words` and `json_form` have the forms in which commands print them.

Everything is computed from the journal. Nothing here prints or writes.
"""

__all__ = ["confirmation", "figures", "json_form", "run_directories", "run_results", "words"]
