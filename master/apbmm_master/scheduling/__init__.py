"""Which worker evaluates which vector, and what the master does with each message of a worker.

- `policy` decides what to do next. It is pure, and has the invariants of the scheduler.
- `leases.LeaseDispatch` carries out its decisions about leases and workers.
- `message_handlers.MessageHandlers` takes in each message of a worker, results included.
- `answer_keeper.AnswerKeeper` keeps the answers of unfinished evaluations for their next attempts.
- `fleet.Fleet` holds the workers as the master hears them now.

A module here records events and queues messages through functions that `master.Master` passes in.
None of them has a clock, a socket or a file of its own.
"""

__all__ = ["answer_keeper", "fleet", "leases", "message_handlers", "policy"]
