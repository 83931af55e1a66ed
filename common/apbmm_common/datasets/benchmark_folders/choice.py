"""Which of a benchmark's questions are asked: the first ones, named ones, or a random sample.

A sample is the same whatever the order of the rows.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence

from apbmm_common.datasets.benchmark_folders.questions import Questions
from apbmm_common.datasets.data_files import Record
from apbmm_common.errors import DataError, SourceError
from apbmm_common.run_file import BenchmarkSection


def chosen_positions(
    benchmark: BenchmarkSection, questions: Questions, available: int, seed: int
) -> tuple[int, ...]:
    """Positions of the questions to ask, in the order in which they are asked."""
    if benchmark.question_ids is not None:
        for position in benchmark.question_ids:
            if position >= available:
                raise DataError(
                    f"question_ids names {position}, but its data holds {available} questions "
                    f"(0 to {available - 1})"
                )
            if position in questions.skipped:
                raise DataError(
                    f"question_ids names {position}, but that row {questions.skipped[position]}"
                )
        return benchmark.question_ids
    wanted = benchmark.questions or benchmark.sample or len(questions.records)
    if wanted > len(questions.records):
        raise DataError(f"{wanted} questions wanted, but its data holds {len(questions.records)}")
    if benchmark.sample is not None:
        return _sample(questions, tuple(questions.records), wanted, seed)
    return tuple(questions.records)[:wanted]


def searched_or_held_out(
    benchmark: BenchmarkSection, questions: Questions, chosen: tuple[int, ...], seed: int
) -> tuple[int, ...]:
    """Those of the chosen positions that a search asks, or those kept out of it."""
    if not benchmark.holdout:
        return chosen
    share = round(benchmark.holdout * len(chosen))
    if not 0 < share < len(chosen):
        raise SourceError(
            f"holdout = {benchmark.holdout:g} keeps {share} of {len(chosen)} questions out of the "
            "search",
            "ask more questions, or confirm on other benchmarks ([[confirm.benchmarks]])",
        )
    kept_out = set(_sample(questions, chosen, share, seed))
    return tuple(p for p in chosen if (p in kept_out) is benchmark.held_out)


def _sample(
    questions: Questions, positions: Sequence[int], wanted: int, seed: int
) -> tuple[int, ...]:
    """A random sample of ``positions``, of each stratum its share; independent of their order.

    A question's rank is a hash of its own content and the seed. Strata get whole numbers of
    questions by largest remainders.
    """
    ranked = defaultdict(list)
    for position in sorted(positions, key=lambda p: (_rank(questions.records[p], seed), p)):
        ranked[questions.strata[position]].append(position)
    whole = len(positions)
    shares = {name: len(members) * wanted / whole for name, members in ranked.items()}
    counts = {name: int(share) for name, share in shares.items()}
    largest = sorted(shares, key=lambda name: (counts[name] - shares[name], name))
    for name in largest[: wanted - sum(counts.values())]:
        counts[name] += 1
    return tuple(sorted(p for name, members in ranked.items() for p in members[: counts[name]]))


def _rank(record: Record, seed: int) -> bytes:
    asked = {name: value for name, value in record.items() if name not in ("id", "unique_id")}
    text = json.dumps([seed, asked], sort_keys=True)
    return hashlib.sha256(text.encode()).digest()
