"""Decides what the master does next, from run state and fleet. Pure: no clock, socket or file.

- `decide` takes the decisions, in their order; `decisions` defines them, and `situation` what they
  depend on beside run state and fleet.
- `given_up` gives up leases of lost workers, workers out of reach and evaluations that failed.
- `beaten_merges` ends or stops the merges that can no longer be members of the front.
- `run_end` says when the run begins to finish and when it ends.
- `granted_leases` says which evaluation is leased next, and to which worker.
- `asking` says when the search method is asked for vectors, and for how many.
- `standstill` has the faults that end a run with an error, and says why no worker can work.

These depend on `liveness` (the workers that are heard, able and idle), `queued` (what waits for a
worker) and `completion` (the merges that have paused). `estimated_merges` and
`reachable_objectives` keep what the master computes for a situation: what merges that have paused
are expected to become, and the best that those in progress can still become.

Invariants of the scheduler, in this room and in `leases` and `message_handlers`:

1. A lease is committed to the journal before its ASSIGN is sent.
2. A worker holds at most one lease whose answers are awaited. It holds another one only where all
   answers to that are in, and only its report is still made.
3. An evaluation has at most one active attempt.
4. An evaluation is not leased again before its last attempt has ended. An attempt ends by a result,
   a failure, a DECLINE or a BYE, or because its worker is lost: it no longer holds the lease, was
   silent for the deadline of `lifecycle.orphan_deadline`, was started anew, or had its key revoked.
   An evaluation is not leased either while a connected worker still works on an earlier attempt.
5. The first valid result of an evaluation is its only one. A result is acknowledged only after the
   commit that records it.
6. An evaluation that counts against the budget is leased only while every limit of the budget
   leaves room beside what is spent and in progress (`journal.costs.budget`), and while the
   hypervolume grows (`journal.costs.patience`). A reference or the measurement is leased only while
   no limit of GPU-hours or tokens is spent.
   A merge that has paused goes on while something is left of every limit. Once the run is
   finishing, no other merge is begun, and paused ones go on while that makes the hypervolume grow.
7. An evaluation that failed gets no further attempt. Its vector is avoided by the search and its
   place in the budget goes to another vector.
8. A worker that found a fault of the data or the run file gets nothing more, until the evaluation
   that it failed is done. The run ends (`standstill.run_file_fault`) when another worker finds one
   too.
9. Nothing is leased once the run is to end with an error (`standstill.fault_that_ends`).

The transitions of evaluations and attempts are the tables of `journal.lifecycle`.
"""

__all__ = [
    "asking",
    "beaten_merges",
    "completion",
    "decide",
    "decisions",
    "estimated_merges",
    "given_up",
    "granted_leases",
    "liveness",
    "queued",
    "reachable_objectives",
    "run_end",
    "situation",
    "standstill",
]
