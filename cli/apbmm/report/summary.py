"""The first section of a report: what was found, what it cost, what to pick, what to doubt."""

from __future__ import annotations

from collections.abc import Iterator

from apbmm.compare.view import duration
from apbmm.report.document import Section
from apbmm.report.progress import hours_name
from apbmm.results.run_results import RunResults
from apbmm_master.journal.lifecycle import EvaluationState


def summary_section(results: RunResults) -> Section:
    """The whole report in plain words."""
    return Section(
        "In plain words", paragraphs=(*_found(results), _cost(results), *_doubt(results))
    )


def _found(results: RunResults) -> Iterator[str]:
    done, budget = len(results.completed), results.spec.budget.evaluations
    if results.trouble:
        yield f"Found: nothing can be said. {results.trouble}."
        return
    if not results.run_state.references_done:
        yield (
            "Found: nothing yet. Objectives are relative to the two sources, and both must be "
            f"measured first; {done} of {budget} merges are evaluated."
        )
        return
    if not results.front:
        yield f"Found: nothing yet. None of {budget} merges is evaluated."
        return
    yield (
        f"Found: {done} of {budget} merges are evaluated, and {len(results.front)} of them are on "
        f"the front: no other merge beats them in every objective. The hypervolume is "
        f"{results.hypervolume:.4f}."
    )


def _cost(results: RunResults) -> str:
    workers = {stay.worker for stay in results.run_state.sessions.stays}
    return (
        f"Cost: {results.gpu_seconds / 3600:.3g} {hours_name(results)} on {len(workers)} worker"
        f"{'' if len(workers) == 1 else 's'}, {duration(results.seconds)} of wall-clock time and "
        f"{results.tokens:,.0f} generated tokens."
    )


def _doubt(results: RunResults) -> Iterator[str]:
    if results.rehearsal:
        yield "Doubt: everything. This is a rehearsal, and every measurement is invented."
        return
    if len(results.completed) > 1:
        yield (
            "Doubt: every figure is measured on a sample of questions, and the best of "
            f"{len(results.completed)} noisy measurements flatters them. Intervals say how much; "
            "neighbours on the front may change places on other questions."
        )
    failed = results.run_state.count(EvaluationState.FAILED)
    if failed:
        yield f"Doubt: {failed} merges failed and were never measured; see Failures."
    if results.condition in ("running", "unfinished"):
        yield "Doubt: the run is not finished, and the front may still grow."
