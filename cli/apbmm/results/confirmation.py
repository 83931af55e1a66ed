"""A search beside its confirmation: the same merges, measured on what the search did not ask."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from apbmm.results.change_against_sources import change_against_sources
from apbmm.results.figures import STANDARD_ERRORS, Figure
from apbmm.results.run_results import EvaluationResult, RunResults, read_results
from apbmm.results.words import asked_in_words
from apbmm_common.metrics import Better, metric
from apbmm_master.journal.run_start.confirmation import confirm_folder
from apbmm_master.journal.storage.store import NAME as JOURNAL
from apbmm_master.search.pareto import hypervolume

SAME_QUESTIONS = (
    "the questions are those of the search, with answers drawn anew: this rules out luck with the "
    "draws, not luck with the questions"
)

LEAST_FOR_ALL = 2
"""Of one merge it is not said that all fall."""


@dataclass(frozen=True, slots=True)
class ConfirmedMerge:
    """One merge or reference in both runs.

    ``holds``: whether a member of the search's front is on the front of the confirmed merges; None
    for other evaluations, and where no objectives can be computed. ``beaten_by``: which confirmed
    merges beat it.
    """

    id: str
    search: EvaluationResult
    confirmed: EvaluationResult
    holds: bool | None = None
    beaten_by: tuple[str, ...] = ()

    @property
    def holds_in_words(self) -> str:
        """``yes``, ``no`` or nothing."""
        return {True: "yes", False: "no", None: ""}[self.holds]


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What is confirmed of a search so far.

    Attributes:
        run: the confirming run. Its benchmarks, front and hypervolume are the confirmed ones.
        merges: references and merges that are measured in both, references first, the rest in the
            order of the search's front.
        wanted: how many merges are to be confirmed.
    """

    run: RunResults
    merges: tuple[ConfirmedMerge, ...]
    wanted: int

    @property
    def front(self) -> list[ConfirmedMerge]:
        """The members of the search's front of which it is known whether they hold."""
        return [merge for merge in self.merges if merge.holds is not None]

    @property
    def asks_the_same_questions(self) -> bool:
        """Whether it asks the search's own questions again, with other draws."""
        return any(benchmark.asked_before for benchmark in self.run.spec.benchmarks)

    @property
    def holding(self) -> int:
        """How many of `front` hold."""
        return sum(merge.holds is True for merge in self.merges)

    @property
    def missing(self) -> int:
        """How many merges are still to be measured."""
        return self.wanted - sum(merge.search.purpose != "reference" for merge in self.merges)

    def hypervolume_in(self, search: RunResults) -> float:
        """That of the confirmed merges by the search's measurements: of the front, or of some."""
        points = [
            merge.search.objectives
            for merge in self.merges
            if merge.search.purpose != "reference"
            and merge.search.objectives is not None
            and not merge.search.breaks
        ]
        return hypervolume(points, search.spec.hypervolume_reference)

    def of(self, name: str) -> ConfirmedMerge | None:
        """The merge or reference of an id; None while it is not confirmed."""
        return next((merge for merge in self.merges if merge.id == name), None)


def read_confirmation(search: RunResults) -> Confirmation | None:
    """The confirmation of a search; None where it has none. Raises what `read_results` raises."""
    folder = confirm_folder(search.run_dir)
    if not (folder / JOURNAL).is_file():
        return None
    run = read_results(folder)
    if run.run_state.confirms != search.run:
        return None
    done = {each.id: each for each in run.evaluations if each.benchmarks}
    front = [each.id for each in search.front]
    names = [*search.references, *front, *(n for n in done if n not in front)]
    merges = [
        ConfirmedMerge(
            name,
            search.evaluation(name),
            done[name],
            done[name].on_front if name in front and not run.trouble else None,
            _beating(run, done[name]),
        )
        for name in dict.fromkeys(names)
        if name in done
    ]
    return Confirmation(run, tuple(merges), len(run.run_state.to_confirm))


def _beating(run: RunResults, each: EvaluationResult) -> tuple[str, ...]:
    """The members of the confirmed front that beat a merge which is not on it."""
    if run.trouble or each.on_front or each.objectives is None or each.purpose == "reference":
        return ()
    return tuple(member.id for member in run.front if member.is_no_worse_than(each))


def conclusion(search: RunResults, found: Confirmation, goes_on: str = "") -> list[str]:
    """How many merges are confirmed, what they were asked, and both hypervolumes.

    ``goes_on`` is the command that measures what is missing, by default `apbmm confirm`; it is not
    named while a master measures it.
    """
    asked = ", ".join(f"{name} ({words})" for name, words in _questions(found).items())
    lines = [f"confirmed on {asked or 'nothing yet'}"]
    if found.asks_the_same_questions:
        lines.append(SAME_QUESTIONS)
    if found.front:
        still = f"{found.holding} of {len(found.front)} confirmed members of the front still hold"
        lines.append(still)
    lines += changes_in_words(search, found)
    if found.run.trouble:
        lines.append(f"no objectives on these questions: {found.run.trouble}")
    elif found.run.front:
        lines.append(
            f"hypervolume {found.hypervolume_in(search):.4f} in the search, "
            f"{found.run.hypervolume:.4f} confirmed (of the confirmed merges alone, each scaled by "
            "the references on its own questions)"
        )
    missing = found.missing
    if missing and found.run.condition == "running":
        shown_by = shlex.join(("apbmm", "status", str(found.run.run_dir)))
        lines.append(f"being confirmed now, {missing} of {found.wanted} to go: {shown_by} shows it")
    elif missing:
        goes_on = goes_on or shlex.join(("apbmm", "confirm", str(search.run_dir)))
        lines.append(f"{missing} of {found.wanted} are still to be measured: {goes_on} goes on")
    return lines


def changes_in_words(search: RunResults, found: Confirmation) -> list[str]:
    """By metric of the objectives: how the merges changed from the search, where that is told.

    It is where they are poorer against the sources than chance explains, as the best of many
    measurements are lucky ones (`change_against_sources`), and where all are poorer.
    """
    wanted = {o.metric: o.better for o in reversed(search.spec.objectives)}
    lines = (_change_in_words(name, wanted[name], search, found) for name in wanted)
    return [line for line in lines if line]


def _change_in_words(name: str, better: Better, search: RunResults, found: Confirmation) -> str:
    sources, merges = (
        [m for m in found.merges if (m.search.purpose == "reference") is is_source]
        for is_source in (True, False)
    )
    ours, theirs = (_values(name, each, search, found) for each in (merges, sources))
    if len(ours) < LEAST_FOR_ALL:
        return ""
    sign = 1.0 if better == "higher" else -1.0
    all_fell = all(sign * after < sign * before for before, after in ours)
    change = change_against_sources(
        name,
        (search, found.run),
        [merge.id for merge in merges],
        [source.id for source in sources],
        same_questions=found.asks_the_same_questions,
    )
    if change is not None:
        change = replace(change, value=sign * change.value)
    if not (all_fell or (change is not None and _is_loss(change))):
        return ""
    text = (
        f"all {len(ours)} confirmed merges are poorer in {name} than in the search"
        if all_fell
        else f"the {len(ours)} confirmed merges differ in {name} from the search"
    )
    text += f", {_means(name, ours)} on average"
    if theirs:
        text += f"; the sources: {_means(name, theirs)}"
    return text + (f". {_verdict(name, change, search, found)}" if change is not None else "")


def _is_loss(gain: Figure) -> bool:
    """Whether it is further below 0 than its standard error explains."""
    return gain.standard_error is not None and (
        0.0 < STANDARD_ERRORS * gain.standard_error < -gain.value
    )


def _verdict(name: str, gain: Figure, search: RunResults, found: Confirmation) -> str:
    """Whether the choice was lucky, from what merges gained against the sources."""
    form = metric(name).text_with_unit
    by = f"{form(abs(gain.value))} ± {form(gain.standard_error)}"
    if _is_loss(gain):
        others = found.run.benchmarks_of(name).keys() - search.benchmarks_of(name).keys()
        return (
            f"Against the sources they are poorer by {by}, more than chance explains: the best of "
            "many measurements have been lucky"
            f"{', or other benchmarks suit them less' if others else ''}. "
            "Expect the confirmed figures"
        )
    asked = "draws" if found.asks_the_same_questions else "questions"
    return (
        f"Against the sources they are {'poorer' if gain.value < 0 else 'better'} by {by}"
        f"{', which chance explains' if gain.value < 0 else ''}: "
        f"compare merges with sources that answered the same {asked}"
    )


def _values(
    name: str, merges: Sequence[ConfirmedMerge], search: RunResults, found: Confirmation
) -> list[tuple[float, float]]:
    """A metric's values in the search and as confirmed, of the merges that have both."""
    values = []
    for merge in merges:
        before = merge.search.figure(name, search.benchmarks_of(name))
        after = merge.confirmed.figure(name, found.run.benchmarks_of(name))
        if before is not None and after is not None:
            values.append((before.value, after.value))
    return values


def _means(name: str, values: Sequence[tuple[float, float]]) -> str:
    """As in "61.0% in place of 66.2%"."""
    before, after = map(fmean, zip(*values, strict=True))
    return f"{metric(name).text(after)} in place of {metric(name).text(before)}"


def _questions(found: Confirmation) -> dict[str, str]:
    """What of each benchmark the merges are confirmed on."""
    if not found.merges:
        return {}
    measured = found.merges[0].confirmed.benchmarks
    return {name: asked_in_words(each.questions, each.repeats) for name, each in measured.items()}
