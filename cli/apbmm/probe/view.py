"""What `apbmm check --probe` prints: the sources, the engine, the run, and how it was reckoned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from apbmm.probe.forecast import FLEETS, LONGER, SECONDS_AN_HOUR, Cost, Forecast, Probed
from apbmm.results.words import duration
from apbmm_common.metrics import metric
from apbmm_common.run_file import RunSpec
from apbmm_master.journal.assessment.scores import (
    broken_constraints,
    missing_metrics,
    objectives_of,
    raw_metrics,
)
from apbmm_master.journal.costs.budget import UNITS
from apbmm_master.search.errors import ReferenceScaleError
from apbmm_master.search.reference_scaling import (
    Measurement,
    ScaledObjective,
    check_references,
)

ENDS = "such a run ends after its references"
MANY_CUT = 0.1
"""A share of answers cut by the limit of tokens above which it is told."""


@dataclass(frozen=True)
class Shown:
    """All that is printed.

    ``memory``: bytes of the largest process of the engine. ``room``: tokens whose keys and values
    fit on the card, by the models' configs; None where that is not known.
    """

    spec: RunSpec
    device: str
    memory: int
    room: int | None
    probed: Sequence[Probed]
    forecast: Forecast
    ends: Sequence[str] = ()
    """Why a run like this ends after its references; empty where it goes on."""


def lines(shown: Shown) -> list[str]:
    """The lines for people."""
    ends = [f"warning: {ENDS}:", *(f"  {reason}" for reason in shown.ends)] if shown.ends else []
    return [
        *ends,
        *_sources(shown),
        *_engine(shown),
        *_run(shown),
        *_reckoned(shown),
        *_notes(shown),
    ]


def _row(name: str, text: str) -> str:
    return f"{name:<12} {text}"


def _sources(shown: Shown) -> Iterator[str]:
    for source in shown.probed:
        parts = []
        for name, result in source.evaluated.benchmarks.items():
            accuracy = metric("accuracy").text(result.metrics.get("accuracy"))
            tokens = metric("tokens").text_with_unit(result.metrics["tokens"])
            cut = f"{result.truncated} of {result.questions} cut"
            malformed = f", {result.malformed} malformed" if result.malformed else ""
            parts.append(f"{name} {accuracy} {tokens}, {cut}{malformed}")
        yield _row(source.source, "; ".join(parts))


def _engine(shown: Shown) -> Iterator[str]:
    forecast = shown.forecast
    speed, seen = forecast.speed, forecast.probed_at_once
    speed_text = f"{speed.tokens_a_second(seen):,.0f} tokens a second with {seen} answers at once"
    if speed.is_told_apart:
        speed_text += f"; fitted to how they ended, {speed.tokens_a_second(1):,.0f} with one"
    yield _row("speed", speed_text)
    where = "" if shown.device == "cpu" else " of the host"
    memory = f"{shown.memory / 1e9:.1f} GB{where} in the largest process of a worker"
    if shown.room is not None:
        full = shown.room // shown.spec.generation.context
        memory += f"; keys and values of about {full} answers of full length fit on the card"
    yield _row("memory", memory)
    yield _row("start", f"{duration(forecast.likely.start)} of a worker before its first answer")


def _run(shown: Shown) -> Iterator[str]:
    forecast = shown.forecast
    likely = forecast.likely
    yield _row(
        "evaluation",
        f"about {_range(forecast, lambda cost: cost.evaluation, duration)}: load "
        f"{duration(likely.load)}, answers {duration(likely.answers)}, report "
        f"{duration(likely.report)}",
    )
    counts = sorted({cost.evaluations for cost in (forecast.low, likely, forecast.high)})
    many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    paid = _range(forecast, lambda cost: cost.gpu_hours, lambda hours: f"{hours:.2g}")
    if shown.device == "cpu":
        paid = _range(forecast, lambda cost: cost.gpu_hours * SECONDS_AN_HOUR, duration)
    yield _row(
        "run",
        f"{many} evaluations with the references, until the {UNITS[likely.limit]} are spent: about "
        f"{paid}{' of one worker' if shown.device == 'cpu' else ' GPU-hours'}",
    )
    walls = (f"{workers} in {_range(forecast, _wall(workers), duration)}" for workers in FLEETS)
    yield _row("workers", ", ".join(walls))


def _wall(workers: int) -> Callable[[Cost], float]:
    return lambda cost: cost.wall(workers)


def _range(forecast: Forecast, value: Callable[[Cost], float], text: Callable[[float], str]) -> str:
    low, likely, high = map(value, (forecast.low, forecast.likely, forecast.high))
    return f"{text(likely)} ({text(low)} to {text(high)})"


def _reckoned(shown: Shown) -> Iterator[str]:
    forecast = shown.forecast
    asked, seen = forecast.asked_at_once, forecast.probed_at_once
    low, likely, high = (
        f"{cost.tokens:,.0f}" for cost in (forecast.low, forecast.likely, forecast.high)
    )
    yield _row(
        "reckoned",
        f"merges answer with {likely} tokens, the mean of the sources; {low} if most are like the "
        f"shortest, {high} if they are {LONGER:g} times as long as the longest",
    )
    if asked > seen:
        yield _row(
            "",
            f"the run has up to {asked} answers at once, the probe had {seen}: in the cheapest "
            "case each step takes what the probe says for so many, in the dearest more answers at "
            "once add tokens a second by their square root",
        )
    yield _row(
        "", "failures, other users of the host, and a search that ends sooner are not reckoned"
    )


def _notes(shown: Shown) -> Iterator[str]:
    if not shown.ends:  # which says it already
        yield from _objective_notes(shown)
    generation = shown.spec.generation
    for source in shown.probed:
        yield from _limit_notes(shown.spec, source)
        for name, result in source.evaluated.benchmarks.items():
            if result.truncated > MANY_CUT * result.questions:
                yield (
                    f"note: {source.source}: {result.truncated} of {result.questions} answers to "
                    f"{name} were cut off at max_tokens = {generation.max_tokens}: raise it, and "
                    "context with it, unless these answers would never end"
                )


def _limit_notes(spec: RunSpec, source: Probed) -> Iterator[str]:
    """Constraints that a source breaks, and metrics that are named and not reported."""
    if missing := missing_metrics(spec, source.evaluated):
        yield f"note: {source.source}: {missing}: no evaluation of this run could be used"
    elif broken := broken_constraints(spec, raw_metrics(source.evaluated)):
        words = ", ".join(constraint.in_words for constraint in broken)
        yield (
            f"note: {source.source} breaks {words} on these questions; where all sources do, "
            "merges that do not may be rare"
        )


def _objective_notes(shown: Shown) -> Iterator[str]:
    """Objectives that cannot be scaled: no better expert, or a target that all sources reach."""
    measured = {source.source: raw_metrics(source.evaluated) for source in shown.probed}
    for objective in objectives_of(shown.spec):
        used = measured if objective.target is not None else (objective.expert, objective.vanilla)
        if objective.scale is not None or any(
            objective.metric not in measured[source][name]
            for source in used
            for name in objective.benchmarks
        ):
            continue
        if objective.target is not None:
            yield from _target_notes(objective, measured)
            continue
        described = metric(objective.metric)
        good, poor = (
            objective.mean([measured[each][n][objective.metric] for n in objective.benchmarks])
            for each in used
        )
        if (good > poor) if objective.rewards_more else (good < poor):
            continue
        yield (
            f"note: objective {objective.name}: {objective.expert} ({described.text(good)}) is not "
            f"better than {objective.vanilla} ({described.text(poor)}) in {objective.metric} here; "
            "a run ends after its references where that is so of all questions: does the adapter "
            "find the answers? apbmm try shows them"
        )


def _target_notes(objective: ScaledObjective, measured: Mapping[str, Measurement]) -> Iterator[str]:
    try:
        check_references([objective], measured)
    except ReferenceScaleError as error:
        yield f"note: {error.message}; a run ends after its references where that is so of all"
