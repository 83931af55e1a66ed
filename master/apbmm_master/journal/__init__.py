"""The journal of a run, and all that follows from it.

- `events` defines the events that a journal holds.
- `store.Journal` keeps them in SQLite; `store.read_journal` reads them beside a living master.
- `answer_tables` keeps the answers of unfinished evaluations beside them.
- `run_directory` makes, checks and locks the folder that a journal lies in.
- `run_state.RunState` is the state of the run that the events imply. `evaluations` and
  `worker_sessions` define its parts, `spending` what was paid, `lifecycle` the transitions that
  it allows.
- `steps` has what merges that are measured in steps need besides.
- `master_sessions` has the masters that served the run.
- `costs` has the limits of its budget, what evaluations cost, and its patience.
- `resume` begins a run, or checks that a journal may go on with an edited run file.
- `confirmation` makes the run that measures a search's front once more.
- `reference_judgement` says whether the references are worth a search, and `reference_causes` what
  may have made them poor.
- `scores` computes objectives, front, hypervolume and load rate from the run state.
- `clock.RunClock` gives the times of the events.

No module here knows sockets or workers' liveness. Only `store`, `answer_tables`,
`steps.partial_outcomes` and `run_directory` touch files.
"""

__all__ = [
    "answer_tables",
    "clock",
    "confirmation",
    "costs",
    "evaluations",
    "events",
    "lifecycle",
    "master_sessions",
    "reference_causes",
    "reference_judgement",
    "resume",
    "run_directory",
    "run_state",
    "scores",
    "spending",
    "steps",
    "store",
    "worker_sessions",
]
