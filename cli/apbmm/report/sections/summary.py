"""The first section of a report: what was found, what it cost, what to pick, what to doubt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from apbmm.pick.choice import Choice, Limit, Preference, choose, no_objectives
from apbmm.pick.remarks import against, doubts
from apbmm.report.data.answers import Neighbours
from apbmm.report.data.progress import hours_name
from apbmm.report.document import ReportSection
from apbmm.report.sections.answers import alike
from apbmm.results.confirmation import Confirmation
from apbmm.results.run_results import EvaluationResult, RunResults
from apbmm.results.words import checks_in_words, duration, in_list
from apbmm_master.journal.assessment.estimate_checks import checks_of
from apbmm_master.journal.costs.budget import amount, limits
from apbmm_master.journal.lifecycle import EvaluationState
from apbmm_master.journal.run_start.confirmation import can_confirm

TITLE = "In plain words"


def summary_section(
    results: RunResults, found: Sequence[Neighbours], confirmation: Confirmation | None
) -> ReportSection:
    """The whole report in plain words."""
    if not results.front:
        return ReportSection(TITLE, paragraphs=(_nothing(results), _cost(results)), has_leads=True)
    knee = choose(results, Preference())
    return ReportSection(
        TITLE,
        has_leads=True,
        paragraphs=(
            _found(results),
            _cost(results),
            *_constraints(results),
            *_learnt(results),
            *_steps(results),
            *_picks(results, knee),
            *_doubts(results, knee, found, confirmation),
        ),
    )


def _nothing(results: RunResults) -> str:
    return (
        f"Found: nothing yet, because {no_objectives(results)}. {results.completed_of_budget} "
        "merges are evaluated."
    )


def _found(results: RunResults) -> str:
    beaten = "".join(
        f" {in_list(better)} {'is' if len(better) == 1 else 'are'} at least as good as {name} in "
        "every objective."
        for name, reference in results.references.items()
        if (better := _no_worse_than(results, reference))
    )
    return (
        f"Found: {results.completed_of_budget} merges are evaluated, and {len(results.front)} of "
        "them are on the front: no other merge beats them in every objective. The hypervolume is "
        f"{results.hypervolume:.4f}.{beaten}"
    )


def _constraints(results: RunResults) -> Iterator[str]:
    """How many merges break a constraint, and which sources do."""
    if not (constraints := results.spec.constraints):
        return
    sources = [name for name, each in results.references.items() if each.breaks]
    count = len(results.breaking)
    yield (
        f"Constraints: {', '.join(each.in_words for each in constraints)}. {count or 'None'} of "
        f"{len(results.merges)} merges break{'s' if count == 1 else ''} one, and "
        f"{in_list(sources) if sources else 'no source'} "
        f"{'do' if len(sources) > 1 else 'does'}. Such merges are on no front, whatever their "
        "objectives; chance in a measurement is not allowed for."
    )


def _no_worse_than(results: RunResults, reference: EvaluationResult) -> list[str]:
    """The merges of the front that are at least as good as a reference in every objective."""
    if reference.objectives is None:
        return []
    return [each.id for each in results.front if each.is_no_worse_than(reference)]


def _cost(results: RunResults) -> str:
    workers = {stay.worker for stay in results.run_state.sessions.stays}
    budget = (
        f"{limit.in_words} ({amount(limit.left)} left)" for limit in limits(results.run_state)
    )
    merges = results.run_state.spending.merges
    each = (
        f" A merge cost {duration(merges.gpu_seconds / merges.count)} of a {results.device} "
        f"and {merges.tokens / merges.count:,.0f} tokens on average."
        if merges.count
        else ""
    )
    return (
        f"Cost: {results.gpu_seconds / 3600:.3g} {hours_name(results)} on {len(workers)} worker"
        f"{'' if len(workers) == 1 else 's'}, {duration(results.seconds)} of wall-clock time and "
        f"{results.tokens:,.0f} generated tokens.{each} Of the budget: {', '.join(budget)}."
    )


def _learnt(results: RunResults) -> Iterator[str]:
    learning = results.run_state.learning
    if learning.run:
        of_front = sum(each.on_front for each in results.learnt)
        yield (
            f"Learnt: the references and {len(results.learnt)} merges are of {learning.run}, and "
            f"{of_front} of these merges are on the front. They are not part of the cost."
        )


def _steps(results: RunResults) -> Iterator[str]:
    """How much was measured in part, and how good the estimates were that the search had of it."""
    begun = [e for e in results.run_state.evaluations.values() if e.step is not None]
    if not begun:
        return
    stopped = results.run_state.count(EvaluationState.STOPPED)
    never = f" Stopped, because the front was out of reach: {stopped}." if stopped else ""
    checks = checks_of(results.run_state)
    checked = f" {checks_in_words(asdict(checks))}." if checks.merges else ""
    yield (
        f"Steps: {len(begun)} merges answered a part of the questions first, and "
        f"{sum(e.body is not None for e in begun)} of them all questions later.{never} What is "
        "not measured in full is estimated, and counts nowhere in this report but in the cost."
        f"{checked}"
    )


def _picks(results: RunResults, knee: Choice) -> Iterator[str]:
    """The knee, and the cheapest merge that is as accurate as the most accurate source."""
    yield f"Pick: {_with_comparison(results, knee)} apbmm pick chooses by limits of your own."
    found = ((each.figure("accuracy"), name) for name, each in results.references.items())
    accurate = [(figure.value, name) for figure, name in found if figure is not None]
    if accurate:
        value, best = max(accurate, key=lambda pair: pair[0])
        lossless = choose(results, Preference((Limit("accuracy", "min", value),)))
        if lossless.evaluation is None:
            yield f"Pick: no merge is as accurate as {best} itself."
        elif lossless.evaluation is not knee.evaluation:
            yield f"Pick where no accuracy may be lost: {_with_comparison(results, lossless)}"


def _with_comparison(results: RunResults, choice: Choice) -> str:
    chosen = choice.evaluation
    assert chosen is not None
    compared = (against(results, chosen, name) for name in results.references)
    return f"{chosen.id}, {choice.in_words}. {'; '.join(filter(None, compared))}."


def _doubts(
    results: RunResults,
    knee: Choice,
    found: Sequence[Neighbours],
    confirmation: Confirmation | None,
) -> Iterator[str]:
    if results.rehearsal:
        yield "Doubt: everything. This is a rehearsal, and every measurement is invented."
    chosen = knee.evaluation
    confirmed = confirmation.of(chosen.id) if confirmation and chosen else None
    about = f" about {chosen.id}" if chosen else ""
    for line in doubts(results, knee, confirmed):
        yield f"Doubt{about}: {line}."
    if found:
        yield f"Doubt: {alike(found)}."
    failed = results.run_state.count(EvaluationState.FAILED)
    if failed:
        yield f"Doubt: {failed} merges failed and were never measured."
    if confirmation is None:
        how = "apbmm confirm does that"
        if not can_confirm(results.spec):
            how = "the run file keeps none out of the search: [confirm]"
        yield f"Doubt: nothing is confirmed on questions that the search did not ask ({how})."
