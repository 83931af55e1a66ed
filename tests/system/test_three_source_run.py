"""A run of three sources and three objectives with real processes, killed and resumed."""

from __future__ import annotations

import pytest

from apbmm_common.simplex import row_of
from apbmm_master.journal.scores import score
from commands import run
from rehearsal_runs import Site, wait_for

NAMES = ("reasoner", "coder", "chat")
LAYERS = 4
RUN = f"""
name = "three"
[sources]
reasoner = "/none/r"
coder = "/none/c"
chat = "/none/h"
[generation]
max_tokens = 64
context = 128
[merge]
blocks = 2
outside_layers = "own"
[algorithm.settings]
samples = 16
restarts = 2
raw_samples = 16
[budget]
evaluations = 9
initial = 4
[evaluation]
kind = "rehearsal"
layers = {LAYERS}
rehearsal_seconds = 0.2
[timings]
beat = 0.2
[[benchmarks]]
name = "maths"
adapter = "a"
path = "/none/m"
[[benchmarks]]
name = "code"
adapter = "a"
path = "/none/k"
[[objectives]]
name = "reasoning"
metric = "accuracy"
benchmarks = ["maths"]
expert = "reasoner"
vanilla = "chat"
[[objectives]]
name = "coding"
metric = "accuracy"
benchmarks = ["code"]
expert = "coder"
vanilla = "chat"
[[objectives]]
name = "cost"
metric = "tokens"
expert = "chat"
vanilla = "reasoner"
"""

pytestmark = pytest.mark.slow


def test_it_is_killed_resumed_and_whole(site: Site) -> None:
    site.run_file = site.folder / "run.toml"
    site.run_file.write_text(RUN, encoding="utf-8")
    site.worker("a")
    master = site.master()
    wait_for("results of the search", lambda: site.done() >= 5)
    master.kill()
    master = site.master()
    assert master.end() == 0, master.output
    state = site.run_state()
    site.assert_whole(9)
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
    shown = run("apbmm", "status", site.run_dir, "--all")
    assert shown.returncode == 0, shown.stderr
    assert all(name in shown.stdout for name in NAMES)

    reordered = RUN.replace('reasoner = "/none/r"\n', "").replace(
        'chat = "/none/h"\n', 'chat = "/none/h"\nreasoner = "/none/r"\nanchor = "chat"\n'
    )
    site.run_file.write_text(reordered, encoding="utf-8")
    again = site.master()
    assert again.end() != 0
    assert "was begun with in generation.template_from, sources\n" in again.output
