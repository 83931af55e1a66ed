"""The same seed and journal give the same proposals."""

from __future__ import annotations

import pytest

from apbmm_master.journal.events import Proposed
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.optimiser.client import ask_outcomes, history_of, search_arguments
from apbmm_master.optimiser.process import AskRequest, OptimiserSession, PastTell
from rehearsal_runs import Site, wait_for

CHEAP = {"samples": 16, "restarts": 2, "raw_samples": 16}


@pytest.mark.slow
@pytest.mark.parametrize("in_steps", [False, True])
def test_every_search_proposal_follows_from_what_the_journal_says(
    site: Site, *, in_steps: bool
) -> None:
    site.configure(
        algorithm={"name": "ap-bmm-plus", "settings": CHEAP},
        budget={"evaluations": 9, "initial": 4},
        steps={"enabled": in_steps, "stop_beaten": in_steps},
        evaluation={"rehearsal_seconds": 0.5},
    )
    workers = [site.worker("a"), site.worker("b")]
    first = site.master()
    # A restart in the middle: the second master proposes from the journal alone.
    wait_for("a search proposal", lambda: site.run_state().count(purposes=("search",)))
    first.kill()
    master = site.master()
    assert master.end() == 0, master.output
    run_state = site.run_state()
    asks = [event for event in site.events(Proposed) if event.purpose == "search"]
    if not in_steps:
        site.assert_whole(9)
        assert sum(len(event.proposals) for event in asks) == 5
    calls = history_of(run_state)
    assert all(max(call.variance or (0.0,)) > 0.0 for call in calls if isinstance(call, PastTell))
    for event in asks:
        known = RunState().replay(r for r in site.records() if r.seq <= event.basis)
        request = AskRequest(
            search_arguments(run_state),
            calls[: event.calls],
            tuple(run_state.evaluations[name].vector for name in event.pending),
            len(event.proposals),
            outcomes=ask_outcomes(known, site.run_dir),
        )
        assert history_of(known) == calls[: event.calls]
        reply = OptimiserSession().reply(request)
        assert reply.index == event.index
        assert reply.vectors == tuple(proposal.vector for proposal in event.proposals)
    assert all(worker.popen.poll() is None for worker in workers)
