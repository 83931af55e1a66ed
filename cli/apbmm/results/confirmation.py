"""A search beside its confirmation: the same merges, measured on what the search did not ask."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from apbmm.results.run_results import EvaluationResult, RunResults, read_results
from apbmm.results.words import asked_in_words
from apbmm_master.journal.confirmation import confirm_folder
from apbmm_master.journal.store import NAME as JOURNAL

SAME_QUESTIONS = (
    "the questions are those of the search, with answers drawn anew: this rules out luck with the "
    "draws, not luck with the questions"
)


@dataclass(frozen=True, slots=True)
class ConfirmedMerge:
    """One merge or reference in both runs.

    ``holds``: whether a member of the search's front is on the front of the confirmed merges; None
    for other evaluations, and where no objectives can be computed.
    """

    id: str
    search: EvaluationResult
    confirmed: EvaluationResult
    holds: bool | None = None

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
        )
        for name in dict.fromkeys(names)
        if name in done
    ]
    return Confirmation(run, tuple(merges), len(run.run_state.to_confirm))


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
    if found.run.trouble:
        lines.append(f"no objectives on these questions: {found.run.trouble}")
    elif found.run.front:
        lines.append(
            f"hypervolume {search.hypervolume:.4f} in the search, {found.run.hypervolume:.4f} "
            "confirmed (each scaled by the references on its own questions)"
        )
    missing = found.wanted - sum(merge.search.purpose != "reference" for merge in found.merges)
    if missing and found.run.condition == "running":
        shown_by = shlex.join(("apbmm", "status", str(found.run.run_dir)))
        lines.append(f"being confirmed now, {missing} of {found.wanted} to go: {shown_by} shows it")
    elif missing:
        goes_on = goes_on or shlex.join(("apbmm", "confirm", str(search.run_dir)))
        lines.append(f"{missing} of {found.wanted} are still to be measured: {goes_on} goes on")
    return lines


def _questions(found: Confirmation) -> dict[str, str]:
    """What of each benchmark the merges are confirmed on."""
    if not found.merges:
        return {}
    measured = found.merges[0].confirmed.benchmarks
    return {name: asked_in_words(each.questions, each.repeats) for name, each in measured.items()}
