"""The last points of the initial design keep no worker waiting, with real processes."""

from __future__ import annotations

import pytest

from apbmm_master.journal.lifecycle import EvaluationState
from rehearsal_runs import Site, wait_for

pytestmark = pytest.mark.slow


def test_no_worker_idles_while_a_design_point_is_out(site: Site) -> None:
    """One of four design points never comes back; three workers get vectors of the search.

    Those hang, too, so that the workers have them at one time, however slow the search is.
    """
    cheap = {"samples": 16, "restarts": 2, "raw_samples": 8}
    site.configure(
        algorithm={"name": "ap-bmm-plus", "settings": cheap},
        budget={"evaluations": 40, "initial": 4},
    )
    site.master()
    for name in "abcd":
        site.worker(name, fault="hang:e0004,hang:e0005,hang:e0006,hang:e0007")

    def all_have_work() -> list[str]:
        run_state = site.run_state()
        held = [evaluation for evaluation, _ in run_state.active_attempts()]
        searching = [e.id for e in held if e.purpose == "search"]
        done = run_state.count(EvaluationState.DONE, purposes=("initial",))
        return searching if done == 3 and len(searching) == 3 and len(held) == 4 else []

    wait_for("three workers with vectors of the search", all_have_work)
    assert site.run_state().evaluations["e0004"].state is EvaluationState.ACTIVE
