"""The objectives of a run, as flags name them."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from apbmm_common.errors import UsageError
from apbmm_common.metrics import METRICS, metric

FORM = re.compile(
    r"((?P<name>[A-Za-z0-9._-]+)=)?(?P<metric>[^@=:\s]+)(@(?P<benchmarks>[^@=:\s]+))?"
    r"(:(?P<expert>[A-Za-z][\w-]*))?"
)
PAPER = ("accuracy", "tokens")
"""The metrics of the objectives that a run file without any has."""
PAPER_NAMES = {"accuracy": "reasoning", "tokens": "cost"}
LEAST, MOST = 2, 5


@dataclass(frozen=True)
class Objective:
    """One objective: a metric, averaged over ``benchmarks``, all of them where it has none.

    It is the better, the more of the metric, or with ``cheap`` the less. ``expert``: the source
    that is good at it, where it was named.
    """

    name: str
    metric: str
    benchmarks: tuple[str, ...] = ()
    expert: str = ""

    @property
    def cheap(self) -> bool:
        """Whether the anchor, which answers at once, is the one that is good at it."""
        return metric(self.metric).better == "lower"

    def experts(self, sources: Sequence[str]) -> tuple[str, str]:
        """The source that scores 1, and the one that scores 0; the anchor is the last of them."""
        first, anchor = sources[0], sources[-1]
        good = self.expert or (anchor if self.cheap else first)
        return good, first if good == anchor else anchor


PAPER_OBJECTIVES = tuple(Objective(PAPER_NAMES[name], name) for name in PAPER)


def objectives_of(
    given: Sequence[str], benchmarks: Collection[str], sources: Collection[str]
) -> tuple[Objective, ...]:
    """The objectives ``[NAME=]METRIC[@BENCHMARK,...][:SOURCE]``; none where they are the paper's.

    Raises `UsageError` for what is no objective, for a benchmark or a source that the run has not,
    and for fewer than two or more than five.
    """
    if tuple(given) in ((), PAPER):
        return ()
    if not LEAST <= len(given) <= MOST:
        raise UsageError(
            f"{len(given)} objective{'' if len(given) == 1 else 's'}: a front needs {LEAST} to "
            f"{MOST}",
            "as in accuracy,tokens at the question, or --objective accuracy --objective tokens",
        )
    found = [_objective(text, benchmarks, sources) for text in given]
    names = [objective.name for objective in found]
    if len(set(names)) < len(names):
        raise UsageError(
            f"two objectives have the same name: {', '.join(names)}",
            "name one, as in hard=accuracy@aime25",
        )
    return tuple(found)


def _objective(text: str, benchmarks: Collection[str], sources: Collection[str]) -> Objective:
    form = FORM.fullmatch(text)
    if form is None:
        raise UsageError(
            f"{text!r} is no objective",
            f"METRIC, as {', '.join(METRICS)}; or NAME=METRIC@BENCHMARK,...:SOURCE",
        )
    named = tuple(form["benchmarks"].split(",")) if form["benchmarks"] else ()
    if missing := [name for name in named if name not in benchmarks]:
        raise UsageError(
            f"objective {text}: no benchmark is called {missing[0]}",
            f"they are {', '.join(benchmarks)}",
        )
    if form["expert"] and form["expert"] not in sources:
        raise UsageError(
            f"objective {text}: no source is called {form['expert']}",
            f"they are {', '.join(sources)}",
        )
    name = form["name"] or "-".join((PAPER_NAMES.get(form["metric"], form["metric"]), *named))
    return Objective(name, form["metric"], named, form["expert"] or "")
