"""A model-level grid on real parts: task vectors against the demo pair's own base."""

from __future__ import annotations

from pathlib import Path

import pytest

from apbmm_common.protocol.messages import Evaluated
from demo_pair_runs import run_to_its_end, write_run

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

RUN = """
name = "ties"
[sources]
thinking = "{pair}/thinking"
instruct = "{pair}/instruct"
base = "{pair}/base"
[algorithm]
name = "ties"
[budget]
evaluations = 3
initial = 1
[engine]
dtype = "float32"
"""


def test_a_grid_of_ties_merges_is_evaluated(tmp_path: Path) -> None:
    run_state, _ = run_to_its_end(write_run(tmp_path / "run.toml", RUN))
    assert len(run_state.completed) == 3
    assert run_state.digests["base"] not in (
        run_state.digests["thinking"],
        run_state.digests["instruct"],
    )
    tokens = {}
    for name in ("thinking", "instruct", *run_state.completed):
        body = run_state.evaluations[name].body
        assert isinstance(body, Evaluated)
        tokens[name] = body.benchmarks["chain"].metrics["tokens"]
    vectors = {name: run_state.evaluations[name].vector for name in run_state.completed}
    assert vectors["e0001"] == (0.05, 1.0)
    assert len(set(vectors.values())) == 3
    # A small step from the base, which is neither of the sources, and a long one.
    assert tokens["instruct"] + 1 < tokens["e0001"] < tokens["thinking"] - 1
    assert vectors["e0002"][0] == 0.85
    assert tokens["e0002"] > tokens["e0001"] + 1
