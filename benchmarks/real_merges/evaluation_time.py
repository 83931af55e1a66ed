"""How long a GPU would take for an evaluation of a merge, from the lengths of its real answers.

An engine answers the questions in order, so many at once (`LANES`); a decode step takes 10 ms and
0.7 ms for each answer in it. Answers have their measured tokens, times 300, which makes a
thinking source of 33 tokens one of 10,000. A merge is loaded in 60 s.
"""

from __future__ import annotations

import numpy as np

from benchmarks.partial_answers.simulated_answers import engine_step
from benchmarks.partial_answers.stepped_campaigns import HOT_LOAD
from benchmarks.real_merges.evaluations import Evaluation

LANES = (12, 64)
SCALE = 300.0


def seconds_of(found: Evaluation, lanes: int) -> float:
    """How long an engine that answers so many questions at once takes for a merge."""
    tokens = np.concatenate([np.array(benchmark.tokens) for benchmark in found.values()]) * SCALE
    return HOT_LOAD + engine_step(tokens, lanes, len(tokens)).seconds
