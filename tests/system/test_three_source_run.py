"""A run of three sources and three objectives with real processes, killed and resumed."""

from __future__ import annotations

import pytest

from apbmm_common.simplex import row_of
from apbmm_master.journal.assessment.scores import score
from commands import called
from rehearsal_runs import Site, write_run_file
from resumed_searches import SEARCH, killed_and_resumed

NAMES = ("reasoner", "coder", "chat")
FOLDERS = {name: f"/none/{name}" for name in NAMES}
NO_PAIR = {"thinking": None, "instruct": None}
OBJECTIVES = [
    {
        "name": "reasoning",
        "metric": "accuracy",
        "benchmarks": ["maths"],
        "expert": "reasoner",
        "vanilla": "chat",
    },
    {
        "name": "coding",
        "metric": "accuracy",
        "benchmarks": ["code"],
        "expert": "coder",
        "vanilla": "chat",
    },
    {"name": "cost", "metric": "tokens", "expert": "chat", "vanilla": "reasoner"},
]
RUN = {"merge": {"blocks": 2, "outside_layers": "own"}, "objectives": OBJECTIVES}

pytestmark = pytest.mark.slow


def test_it_is_killed_resumed_and_whole(site: Site) -> None:
    killed_and_resumed(site, sources={**NO_PAIR, **FOLDERS}, **RUN)
    state = site.run_state()
    assert state.references == NAMES
    assert state.space.dimensions == 2 * (2 + 3)
    experts = [score(state, state.evaluations[name]) for name in NAMES]
    assert (experts[0][0], experts[0][2]) == (1.0, 0.0)
    assert experts[1][1] == 1.0
    assert experts[2] == (0.0, 0.0, 1.0)
    for name in state.completed:
        vector = state.evaluations[name].vector
        rows = [row_of(vector[begin : begin + 2]) for begin in range(0, len(vector), 2)]
        assert [sum(row) for row in rows] == pytest.approx([1.0] * 5)
    shown = called("status", site.run_dir, "--all")
    assert shown.returncode == 0, shown.stderr
    assert all(name in shown.stdout for name in NAMES)

    order = {name: FOLDERS[name] for name in ("coder", "chat", "reasoner")}
    sources = {**NO_PAIR, **order, "anchor": "chat"}
    write_run_file(site.run_file, **SEARCH, sources=sources, **RUN)
    again = site.master()
    assert again.end() != 0
    assert "was begun with in generation.template_from, sources\n" in again.output
