"""What the run state keeps of evaluations that are done: all of it, in few bytes."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apbmm_common.protocol.messages import BenchmarkResult, Evaluated, Measured
from apbmm_master.journal import findings
from apbmm_master.journal.evaluations import Attempt, Evaluation
from apbmm_master.journal.events import (
    Leased,
    Proposal,
    Proposed,
    Purpose,
    Record,
    ResultRecorded,
    RunStarted,
)
from apbmm_master.journal.lifecycle import AttemptState, EvaluationState
from apbmm_master.journal.packed import Evaluations
from apbmm_master.journal.run_state import RunState
from apbmm_master.journal.scores import ScoreTracker
from protocol_world import measurement, world_spec

COUNT = 400
LAYERS, BENCHMARKS = 36, ("aime", "gpqa")
MOST_BYTES = 1500
"""Of one evaluation: 36 weights and the figures of two benchmarks are 400."""

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
seconds = st.floats(0, 1e9)
counts = st.integers(0, 2**53 - 1)
figures = st.builds(
    BenchmarkResult, accuracy=st.floats(0, 1), tokens=seconds, questions=st.just(2**64 - 1),
    truncated=counts, malformed=counts, seconds=seconds,
)  # fmt: skip
bodies = st.builds(
    Evaluated,
    benchmarks=st.dictionaries(st.sampled_from(["a", "b.c"]), figures, min_size=1),
    stages=st.dictionaries(st.text(max_size=9), seconds, max_size=3),
    engine=st.dictionaries(st.text(max_size=9), plain, max_size=3),
) | st.builds(
    Measured,
    parameter=st.just((0.1, -1e300)), activation=st.just((1e-300, 0.3)),
    outside=st.dictionaries(st.just("embeddings"), st.floats(-1, 1)), prompts=counts,
)  # fmt: skip
names = st.sampled_from(["a", "b", "c"])
attempts = st.builds(
    Attempt, number=st.integers(1, 9999), lease=st.text(max_size=20), worker=names, boot=names,
    epoch=counts, leased_at=seconds, state=st.sampled_from(AttemptState),
    ended_at=st.none() | seconds, fault=st.sampled_from(["", "vector", "engine"]),
    message=st.text(max_size=20), vanished=st.booleans(),
)  # fmt: skip
done = st.builds(
    Evaluation, id=names, purpose=st.sampled_from(["initial", "search"]),
    vector=st.lists(st.floats(0, 1), max_size=40).map(tuple), proposed_seq=counts, ordinal=counts,
    state=st.just(EvaluationState.DONE), attempts=st.lists(attempts, max_size=4),
    found=bodies.map(findings.pack), seconds=seconds, worker=names, done_seq=counts,
    done_at=seconds,
)  # fmt: skip


@given(bodies)
def test_findings_are_kept_whole(body: Evaluated | Measured) -> None:
    assert findings.unpack(findings.pack(body)) == body
    if isinstance(body, Evaluated):
        assert findings.stages_of(findings.pack(body)) == body.stages


@given(st.lists(done, max_size=3, unique_by=lambda e: e.id))
def test_a_packed_evaluation_is_what_it_was(evaluations: list[Evaluation]) -> None:
    kept, same = Evaluations(), Evaluations()
    for each in evaluations:
        kept.add(each)
        same.add(each)
        assert kept[each.id] is each
    for each in reversed(evaluations):
        kept.pack(each)
        assert kept[each.id] == each
        assert kept[each.id] is not each
        assert kept[each.id].body == each.body
    assert list(kept.values()) == evaluations
    assert (kept == same) == (not evaluations)
    for each in reversed(evaluations):
        same.pack(each)
    assert kept == same


def test_what_is_not_done_is_not_packed() -> None:
    with pytest.raises(AssertionError):
        Evaluations().pack(Evaluation("e1", "initial", (0.5,), 1, 0))


def records(count: int) -> list[Record]:
    """A run with ``count`` evaluations of the budget, one after another, and the references."""
    changes = {"benchmarks": [{"name": n, "adapter": "sums", "path": "/x"} for n in BENCHMARKS]}
    spec = world_spec(**changes).model_dump(mode="json")
    made: list[Record] = [Record(1, 0.0, RunStarted(run="r", spec=spec))]

    def add(event: Proposed | Leased | ResultRecorded) -> None:
        made.append(Record(len(made) + 1, 1000.0 + len(made) / 7, event))

    for number in range(-2, count):
        name = {-2: "thinking", -1: "instruct"}.get(number, f"e{number:04d}")
        vector = tuple((number + layer) / 1e5 for layer in range(2, LAYERS + 2))
        proposal = Proposal(evaluation=name, vector=vector, key=f"{number:064d}")
        purpose: Purpose = "reference" if number < 0 else "search"
        add(Proposed(purpose=purpose, proposals=(proposal,)))
        lease = f"{name}.1.{number:08d}"
        add(Leased(evaluation=name, attempt=1, lease=lease, worker="a", boot="b"))
        accuracy, tokens = (0.9, 4e3) if number == -2 else (0.1, 2e2 + number / 3)
        (each,) = measurement(accuracy, tokens).benchmarks.values()
        stages = {"merge": number / 3 + 1, "load": number / 7 + 1, "evaluate": number + 2.5}
        body = Evaluated(benchmarks=dict.fromkeys(BENCHMARKS, each), stages=stages)
        add(
            ResultRecorded(
                evaluation=name, attempt=1, lease=lease, worker="a", seconds=3.0 + number / 3,
                digest="d", body=body,
            )
        )  # fmt: skip
    return made


def test_an_evaluation_that_is_done_is_kept_in_few_bytes() -> None:
    """In the run state and by the score tracker, without what the events themselves hold."""
    run_state, tracker, journal = RunState(), ScoreTracker(), records(2 * COUNT)
    half = len(journal) - 3 * COUNT
    texts = [(r.seq, r.time, r.event.model_dump_json(), type(r.event)) for r in journal]
    del journal
    used = []
    tracemalloc.start()
    try:
        for part in (texts[:half], texts[half:]):
            for seq, time, text, kind in part:
                run_state.apply(Record(seq, time, kind.model_validate_json(text)))
                tracker.stand(run_state)
            used.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert len(run_state.completed) == 2 * COUNT
    assert (used[1] - used[0]) / COUNT < MOST_BYTES
