"""What benchmarks/partial_answers/real_asking_order makes of the engine's answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.partial_answers.real_asking_order import (
    Evaluated,
    Measured,
    kept,
    steps_by_lengths,
)

Answers = dict[tuple[int, ...], tuple[int, ...]]


def step_by_step(lengths: Sequence[int], at_once: int) -> int:
    """Steps of an engine that is played: each gives a token to every answer in flight."""
    waiting, flying, steps = list(lengths), list[int](), 0
    while waiting or flying:
        while waiting and len(flying) < at_once:
            flying.append(waiting.pop(0))
        flying = [length - 1 for length in flying if length > 1]
        steps += 1
    return steps


@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 5))
def test_steps_by_lengths_are_those_of_an_engine_that_is_played(
    lengths: list[int], at_once: int
) -> None:
    assert steps_by_lengths(lengths, at_once) == step_by_step(lengths, at_once)


def asked(steps: int, answers: Answers) -> Evaluated:
    """An evaluation of questions in the order of ``answers``."""
    return Evaluated(steps, 0.5 * steps, tuple(map(len, answers.values())), answers)


def test_answers_are_compared_by_question_and_steps_as_ratios_and_all_is_kept(
    tmp_path: Path,
) -> None:
    answers: Answers = {(1,): (7,), (2,): (7,) * 3, (3,): (7,) * 4}
    backwards = dict(reversed(answers.items()))
    other = {**backwards, (2,): (8,) * 3}
    found = Measured.of(
        2, 3, [(asked(8, answers), asked(6, backwards)), (asked(10, answers), asked(10, other))]
    )
    assert (found.answers, found.differ) == (6, 1)
    assert found.by_lengths == [[5, 4], [5, 4]]
    assert found.row()[:5] == ["2", "2", "3", "9", "0.875 ± 1.588"]
    out = tmp_path / "runs.jsonl"
    assert kept(out) == []
    out.write_text(json.dumps(asdict(found)) + "\n", encoding="utf-8")
    assert kept(out) == [found]
