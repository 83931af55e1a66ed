"""The order in which a run asks its questions."""

from __future__ import annotations

from fractions import Fraction
from itertools import accumulate, pairwise

from hypothesis import given
from hypothesis import strategies as st

from apbmm_worker.evaluation.asking_order import AnswerLengths, asking_order

SIZES = st.dictionaries(st.text(min_size=1, max_size=5), st.integers(1, 60), min_size=1, max_size=8)
SEEDS = st.integers(0, 2**63 - 1)


@given(SIZES, SEEDS)
def test_every_question_is_asked_once(sizes: dict[str, int], seed: int) -> None:
    assert sorted(asking_order(sizes, seed)) == list(range(sum(sizes.values())))


@given(SIZES, SEEDS)
def test_every_prefix_has_each_benchmark_in_proportion(sizes: dict[str, int], seed: int) -> None:
    total, order = sum(sizes.values()), asking_order(sizes, seed)
    for size, end in zip(sizes.values(), accumulate(sizes.values()), strict=True):
        asked = accumulate(end - size <= number < end for number in order)
        for n, count in enumerate(asked, 1):
            assert abs(count - Fraction(n * size, total)) < 1


@given(SIZES, SEEDS, st.integers(1, 60))
def test_the_order_within_a_benchmark_depends_on_no_other(
    sizes: dict[str, int], seed: int, other: int
) -> None:
    first, size = next(iter(sizes.items()))
    alone = asking_order({first: size}, seed)
    beside = asking_order({first: size, "another benchmark": other}, seed)
    assert [number for number in beside if number < size] == alone


def test_the_order_is_the_same_on_every_host_and_in_every_version() -> None:
    assert asking_order({"a": 4, "b": 2}, 0) == ORDER
    assert asking_order({"a": 4, "b": 2}, 1) != ORDER
    assert asking_order({}, 0) == []


def test_every_question_may_come_first() -> None:
    """One way to see that no place in the data is preferred: 1,000 seeds, 10 questions."""
    first = [asking_order({"a": 10}, seed)[0] for seed in range(1000)]
    assert all(60 <= first.count(question) <= 140 for question in range(10))


ORDER = [0, 1, 5, 2, 3, 4]


LENGTHS = st.lists(st.dictionaries(st.integers(0, 9), st.integers(0, 40_000)), max_size=4)


@given(LENGTHS, st.permutations(range(10)))
def test_the_longest_come_first_and_unknown_ones_before_all(
    merges: list[dict[int, int]], order: list[int]
) -> None:
    lengths = AnswerLengths()
    for tokens in merges:
        lengths.learn(tokens)
    found = lengths.longest_first(order)
    assert sorted(found) == sorted(order)
    known = {number for tokens in merges for number in tokens}
    unknown = [number for number in order if number not in known]
    assert found[: len(unknown)] == unknown
    for before, after in pairwise(found[len(unknown) :]):
        pair = [[m[n] for m in merges if n in m] for n in (before, after)]
        assert not (max(pair[0]) < min(pair[1]))
        if pair[0] == pair[1]:
            assert order.index(before) < order.index(after)
