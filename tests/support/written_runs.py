"""Run directories with a journal of given measurements, written without processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from apbmm_common.metrics import Outcome
from apbmm_common.protocol.messages import Evaluated
from apbmm_common.repetitions import repetition_id
from apbmm_master.journal.events import (
    Accepted,
    AnyEvent,
    Leased,
    Proposal,
    Proposed,
    Record,
    ResultRecorded,
    WorkerJoined,
)
from apbmm_master.journal.run_start.learning import begin_to_learn, earlier_run
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import Journal, read_journal
from apbmm_master.scheduling.policy.standstill import fault_that_ends
from apbmm_worker.evaluation.outcomes import benchmark_result
from protocol_world import World, measurement

Point = Sequence[float]
LIMIT = 1000
"""Tokens at which an answer of `answered` is cut off."""
THINKING, INSTRUCT = (0.8, 1000.0), (0.2, 100.0)
ENDS: Mapping[str, tuple[float, float]] = {"thinking": THINKING, "instruct": INSTRUCT}


def measured(point: Point, ends: Mapping[str, tuple[float, float]] = ENDS) -> Evaluated:
    """Raw metrics whose objectives are ``point`` by Eq. 2."""
    (high, dear), (low, cheap) = ends["thinking"], ends["instruct"]
    return measurement(low + (high - low) * point[0], dear + (cheap - dear) * point[1])


def write_run(
    folder: Path,
    points: Sequence[Point | Evaluated],
    *,
    ends: Mapping[str, tuple[float, float] | Evaluated] = ENDS,
    budget: int = 0,
    pause: float = 0.0,
    outside: tuple[str, ...] = (),
    parts: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
    learn_from: Path | None = None,
    **changes: Any,
) -> Path:
    """A run of one worker that takes 10 s each and measures ``points``, one after the other.

    A point is an objective vector, or a whole body. Without a budget there are as many evaluations.
    A run that learns from another one has the id ``world-2``, and proposes other vectors.
    """
    budget = budget or len(points)
    world = World(budget={"evaluations": budget, "initial": 1, "failures": 0}, **changes)
    if learn_from is not None:
        learn(world, learn_from)
    worker = world.join("a", outside, parts=parts)
    left = list(points)
    while world.end is None:
        world.exchange()
        if worker.held is None:
            if fault_that_ends(world.run_state, world.fleet) is not None:
                break
            continue
        name, body = worker.held.evaluation, None
        if name in ends:
            end = ends[name]
            body = end if isinstance(end, Evaluated) else measurement(*end)
        elif name.startswith("e"):
            if not left:
                break
            point = left.pop(0)
            body = point if isinstance(point, Evaluated) else measured(point, _numbers(ends))
        world.now += 10.0
        worker.finish(body)
    if pause:
        world.now += pause
        world.restart()
    with Journal(folder) as journal:
        journal.append(world.stored)
    return folder


def write_journal(folder: Path, records: Sequence[Record]) -> Path:
    """A run directory whose journal ends early."""
    with Journal(folder) as journal:
        journal.append(records)
    return folder


def lengthen(folder: Path, points: Sequence[Point]) -> Path:
    """Add merges that measured ``points`` to a run that goes on; quicker than `write_run`."""
    records = read_journal(folder)
    last = RunState().replay(records)
    dimensions, first = last.space.dimensions, last.count()
    joined = WorkerJoined(worker="b", boot="b", gpu="rehearsal", host="b", versions={})
    events: list[AnyEvent] = [joined]
    for number, point in enumerate(points, first + 1):
        name, lease = f"e{number:04d}", f"lease-{number}"
        vector = tuple((number * (d + 1)) % 101 / 101 for d in range(dimensions))
        proposal = Proposal(evaluation=name, vector=vector, key=name)
        events += [
            Proposed(purpose="search", proposals=(proposal,), calls=len(last.calls) + 2 * number),
            Leased(evaluation=name, attempt=1, lease=lease, worker="b", boot="b"),
            Accepted(evaluation=name, lease=lease),
            ResultRecorded(
                evaluation=name, attempt=1, lease=lease, worker="b", seconds=10.0, digest=name,
                body=measured(point),
            ),
        ]  # fmt: skip
    with Journal(folder) as journal:
        journal.append(
            [
                Record(last.seq + place, last.time + 10.0 * ((place + 2) // 4), event)
                for place, event in enumerate(events, 1)
            ]
        )
    return folder


def learn(world: World, earlier: Path) -> None:
    """Let a run that begins learn from that in the folder ``earlier``."""
    world.run_state.run, world.search = "world-2", 31
    assert world.run_state.spec is not None
    begin_to_learn(world.run_state, earlier_run(earlier, world.run_state.spec), world.record)
    world.commit()


def _numbers(ends: Mapping[str, tuple[float, float] | Evaluated]) -> dict[str, tuple[float, float]]:
    """The references' accuracy and tokens."""
    return {name: _accuracy_and_tokens(end) for name, end in ends.items()}


def _accuracy_and_tokens(end: tuple[float, float] | Evaluated) -> tuple[float, float]:
    if not isinstance(end, Evaluated):
        return end
    metrics = end.benchmarks["sums"].metrics
    return metrics["accuracy"], metrics["tokens"]


def answered(scores: Sequence[float], tokens: Sequence[int], repeats: int = 1) -> Evaluated:
    """A body with an outcome for each answer; the answers to one question come together."""
    outcomes = [
        Outcome(
            _answer_id(number, repeats), score, count, 1.0, "length" if count == LIMIT else "stop"
        )
        for number, (score, count) in enumerate(zip(scores, tokens, strict=True))
    ]
    return Evaluated(benchmarks={"sums": benchmark_result(outcomes, repeats=repeats)})


def _answer_id(number: int, repeats: int) -> str:
    question = f"q{number // repeats}"
    return question if repeats == 1 else repetition_id(question, number % repeats + 1)


def repeated_sums(repeats: int) -> dict[str, Any]:
    """The tables of a run that asks each question so many times."""
    sums = {"name": "sums", "adapter": "sums", "path": "/none/sums", "repeats": repeats}
    return {"benchmarks": [sums], "generation": {"temperature": 0.7}}
