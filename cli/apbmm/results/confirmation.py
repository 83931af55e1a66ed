"""A search beside its confirmation: the same merges, measured on what the search did not ask."""

from __future__ import annotations

from dataclasses import dataclass

from apbmm.results.run_results import EvaluationResult, RunResults, read_results
from apbmm_master.journal.confirmation import confirm_folder
from apbmm_master.journal.store import NAME as JOURNAL


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
