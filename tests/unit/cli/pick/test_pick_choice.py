"""Which merge is picked, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apbmm.pick.choice import Choice, choose, preference_of
from apbmm.pick.flags import PreferenceFlags
from apbmm.pick.remarks import against, doubts, ratios
from apbmm.pick.view import pick_as_json, print_pick
from apbmm.results.confirmation import Confirmation, ConfirmedMerge
from apbmm.results.run_results import RunResults, read_results
from apbmm.status.view import console
from apbmm_common.errors import ApbmmError, UsageError
from apbmm_common.protocol.messages import Evaluated
from protocol_world import measurement
from written_runs import LIMIT, answered, write_run

# By Eq. 2 with the references of `write_run` (0.8 at 1000 tokens, 0.2 at 100): e0003 is dominated.
POINTS = [(0.1, 0.95), (0.6, 0.7), (0.5, 0.65), (0.9, 0.2), (0.8, 0.3)]
METRICS = [(0.26, 145.0), (0.56, 370.0), (0.5, 415.0), (0.74, 820.0), (0.68, 730.0)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> RunResults:
    return read_results(write_run(tmp_path_factory.mktemp("pick") / "run", POINTS))


def chosen(results: RunResults, **flags: object) -> Choice:
    return choose(results, preference_of(PreferenceFlags(**flags)))  # type: ignore[arg-type]


def ids(choice: Choice) -> list[str]:
    return [each.id for each in choice.ranked]


def test_the_figures_are_those_that_eq_2_came_from(results: RunResults) -> None:
    for each, (accuracy, tokens) in zip(results.completed, METRICS, strict=True):
        metrics = each.benchmarks["sums"].metrics
        assert (metrics["accuracy"], metrics["tokens"]) == pytest.approx((accuracy, tokens))


def test_without_a_limit_the_knee(results: RunResults) -> None:
    choice = chosen(results)
    # Sums of objectives over their ranges 0.8 and 0.75 on the front.
    sums = {f"e000{i + 1}": (a - 0.1) / 0.8 + (b - 0.2) / 0.75 for i, (a, b) in enumerate(POINTS)}
    assert ids(choice) == sorted(sums, key=lambda name: -sums[name])
    assert choice.evaluation is not None
    assert choice.evaluation.id == "e0002"
    assert choice.reason.startswith("the knee of the front")
    assert choice.references_within == ()


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        ([(0.1, 0.9), (0.3, 0.3), (0.9, 0.1)], "an end of the front, for no merge lies beyond"),
        ([(0.1, 0.9), (0.9, 0.1)], "an end of the front, for no merge lies beyond"),
        ([(0.1, 0.9), (0.6, 0.6), (0.9, 0.1)], "the knee of the front"),
        ([(0.5, 0.5)], "the only merge on the front"),
    ],
)
def test_a_front_that_bends_inwards_has_no_knee(
    tmp_path: Path, points: list[tuple[float, float]], reason: str
) -> None:
    choice = chosen(read_results(write_run(tmp_path / "run", points)))
    assert choice.reason.startswith(reason)


@pytest.mark.parametrize(
    ("flags", "ranked", "reason"),
    [
        (
            {"min_accuracy": 0.5},
            ["e0002", "e0003", "e0005", "e0004"],
            "cheapest in tokens of the 4",
        ),
        ({"max_tokens": 800}, ["e0005", "e0002", "e0003", "e0001"], "most accurate of the 4"),
        ({"min": ("reasoning=0.7",)}, ["e0005", "e0004"], "cheapest in tokens of the 2"),
        ({"max": ("sums.tokens=400",)}, ["e0002", "e0001"], "most accurate of the 2 of 5 merges"),
        (
            {"min_accuracy": 0.5, "max_tokens": 800},
            ["e0002", "e0003", "e0005"],
            "the knee of the",
        ),
        ({"min_accuracy": 0.6, "knee": True}, ["e0005", "e0004"], "the knee of the 2"),
    ],
)
def test_limits(
    results: RunResults, flags: dict[str, object], ranked: list[str], reason: str
) -> None:
    choice = chosen(results, **flags)
    assert ids(choice) == ranked
    assert reason in choice.reason


def test_where_nothing_fits_the_nearest_are_doubted(results: RunResults) -> None:
    choice = chosen(results, min_accuracy=0.78)
    assert choice.evaluation is None
    assert [each.id for each in choice.nearest] == ["e0004"]
    assert choice.references_within == ("thinking",)
    both = chosen(results, min_accuracy=0.6, max_tokens=400)
    # The cheapest of those that are accurate enough, and the most accurate of the cheap enough.
    assert {each.id for each in both.nearest} == {"e0005", "e0002"}
    assert both.reason == "none of 5 merges is within all limits"
    assert both.references_within == ()


def test_comparison_with_the_sources_is_in_raw_figures(results: RunResults) -> None:
    e0002 = results.evaluation("e0002")
    assert ratios(results, e0002, "thinking") == pytest.approx({"accuracy": 0.7, "tokens": 0.37})
    assert against(results, e0002, "thinking") == (
        "70% of thinking's accuracy for 37% of its tokens"
    )
    assert against(results, e0002, "instruct") == (
        "2.8 times instruct's accuracy for 3.7 times its tokens"
    )


def doubted(results: RunResults, **flags: object) -> str:
    return "\n".join(doubts(results, chosen(results, **flags)))


def test_chance_and_the_interval_at_a_limit_are_doubted(results: RunResults) -> None:
    assert doubted(results).startswith("it is the best of 5 measurements")
    whole = doubted(results, min=("sums.accuracy=0.5",))
    assert "thinking itself is within the limits" in whole
    assert "crosses" not in whole  # 56 % of 10 answers is no count, so there is no interval


def read(
    folder: Path, points: Sequence[tuple[float, float] | Evaluated], **more: Any
) -> RunResults:
    ends = {"thinking": (0.8, 1000.0), "instruct": (0.2, 100.0)}
    return read_results(write_run(folder, points, ends=ends, **more))


def test_uncertain_unfinished_and_cut_off(tmp_path: Path) -> None:
    body = answered([1.0, 1.0, 1.0, 0.0], [10, 20, 30, LIMIT])
    found = read(tmp_path / "run", [body], budget=3)
    lines = doubted(found, min_accuracy=0.7).splitlines()
    assert lines == [
        "the run is not over: 1 of 3 evaluations are completed",
        "thinking itself is within the limits",
        "its interval crosses the limit accuracy ≥ 70.0%: it may be 30.1%",
        "25% of its answers to sums are cut off by max_tokens",
    ]


def test_a_merge_that_a_source_beats_is_doubted(tmp_path: Path) -> None:
    found = read(tmp_path / "run", [measurement(0.1, 200.0)])
    assert doubted(found) == "instruct is at least as good in every objective: serve it as it is"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"min": ("accuracy",)}, "--min accuracy: not NAME=VALUE"),
        ({"max": ("tokens=many",)}, "--max tokens=many: not NAME=VALUE"),
        ({"max": ("=3",)}, "--max =3: not NAME=VALUE"),
        ({"min": ("f1=0.5",)}, "--min f1=0.5: not measured in this run"),
        ({"min_accuracy": 60.0}, "--min accuracy=60: accuracy is from 0 to 1"),
    ],
)
def test_limits_that_cannot_be_read(
    results: RunResults, flags: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        chosen(results, **flags)
    assert caught.value.message == message
    assert caught.value.hint


def test_a_run_without_objectives_says_why(tmp_path: Path) -> None:
    with pytest.raises(ApbmmError, match="no evaluation is completed yet"):
        chosen(read(tmp_path / "begun", [], budget=4))


def confirmation(results: RunResults, *, holds: bool) -> Confirmation:
    """A confirmation in which the knee answered one question in ten less."""
    e0002 = results.evaluation("e0002")
    sums = e0002.benchmarks["sums"]
    less = replace(sums, metrics={**sums.metrics, "accuracy": 0.46})
    confirmed = replace(e0002, benchmarks={"sums": less})
    return Confirmation(results, (ConfirmedMerge("e0002", e0002, confirmed, holds),), 1)


def test_a_confirmed_merge_is_shown_in_both_figures(
    results: RunResults, capsys: pytest.CaptureFixture[str]
) -> None:
    choice = chosen(results)
    print_pick(console(), results, choice, confirmation(results, holds=True), ranks_all=False)
    shown = capsys.readouterr().out
    ours, theirs = shown.split("confirmed, on questions that the search did not ask:")
    assert "70% of thinking's accuracy" in ours
    assert "57% of thinking's accuracy" in theirs
    assert "46.0%" in theirs
    assert "best of 5 measurements" not in shown
    assert "apbmm confirm" not in shown
    whole = pick_as_json(results, choice, confirmation(results, holds=False), ranks_all=False)
    assert whole["confirmed"]["mean"]["accuracy"]["value"] == 0.46
    assert whole["confirmed"]["holds"] is False
    lost = "on the questions of the confirmation"
    assert whole["doubts"] == [f"{lost} it is not on the front"]
    found = confirmation(results, holds=False)
    beaten = replace(found.merges[0], beaten_by=("e0001", "e0004"))
    found = replace(found, merges=(beaten,))
    whole = pick_as_json(results, choice, found, ranks_all=False)
    assert whole["doubts"] == [f"{lost} e0001 and e0004 beat it"]
    assert pick_as_json(results, choice, None, ranks_all=False)["confirmed"] is None


@pytest.mark.parametrize(("least", "misses"), [(0.45, False), (0.5, True)])
def test_a_merge_whose_confirmed_figure_misses_a_limit_is_doubted(
    results: RunResults, least: float, *, misses: bool
) -> None:
    found = confirmation(results, holds=True)
    choice = chosen(results, min_accuracy=least, knee=True)
    assert choice.evaluation is not None
    assert choice.evaluation.id == "e0002"
    told = pick_as_json(results, choice, found, ranks_all=False)["doubts"]
    words = f"confirmed it misses the limit accuracy ≥ {least:.1%}: it has 46.0% there"
    assert (words in told) == misses


def two_benchmarks(sums: tuple[float, float], words: tuple[float, float]) -> Evaluated:
    """Accuracy and tokens on each of two benchmarks."""
    bodies = {"sums": measurement(*sums), "words": measurement(*words)}
    return Evaluated(benchmarks={name: body.benchmarks["sums"] for name, body in bodies.items()})


def test_what_an_objective_is_measured_on_is_said(tmp_path: Path) -> None:
    benchmarks = [{"name": name, "adapter": name, "path": "p"} for name in ("sums", "words")]
    objectives = [
        {
            "name": "reasoning", "metric": "accuracy", "benchmarks": ["sums"],
            "expert": "thinking", "vanilla": "instruct",
        },
        {"name": "cost", "metric": "tokens", "expert": "instruct", "vanilla": "thinking"},
    ]  # fmt: skip
    ends = {
        "thinking": two_benchmarks((0.8, 1000.0), (0.1, 1000.0)),
        "instruct": two_benchmarks((0.2, 100.0), (0.1, 100.0)),
    }
    points = [
        two_benchmarks((0.6, 500.0), (0.1, 500.0)),
        two_benchmarks((0.5, 500.0), (0.9, 500.0)),
    ]
    found = read_results(
        write_run(tmp_path, points, ends=ends, benchmarks=benchmarks, objectives=objectives)
    )
    # The second is right more often on both benchmarks together, the first on those that count.
    choice = chosen(found, max_tokens=600.0)
    assert choice.evaluation is not None
    assert choice.evaluation.id == "e0001"
    assert choice.in_words == (
        "the best in reasoning of the 2 of 2 merges within the limits (tokens ≤ 600.0)"
    )
    assert against(found, choice.evaluation, "thinking") == (
        "75% of thinking's accuracy on sums for 50% of its tokens"
    )


def test_what_breaks_a_constraint_is_not_picked(tmp_path: Path) -> None:
    limited = read_results(write_run(tmp_path / "limited", POINTS, at_most={"tokens": 550}))
    assert set(ids(chosen(limited))) == {"e0001", "e0002", "e0003"}
    assert [each.id for each in limited.breaking] == ["e0004", "e0005"]
    none = read_results(write_run(tmp_path / "none", POINTS, at_most={"tokens": 120}))
    assert none.front == ()
    with pytest.raises(ApbmmError, match=r"all 5 merges .* break a constraint .*tokens ≤ 120"):
        chosen(none)
