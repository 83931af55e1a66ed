"""The objectives of a run, as flags name them."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from apbmm_common.errors import UsageError
from apbmm_common.metrics import METRICS, metric

FORM = re.compile(r"((?P<name>[A-Za-z0-9._-]+)=)?(?P<metric>[^@=\s]+)(@(?P<benchmarks>[^@=\s]+))?")
PAPER = ("accuracy", "tokens")
"""The metrics of the objectives that a run file without any has."""
PAPER_NAMES = {"accuracy": "reasoning", "tokens": "cost"}
LEAST, MOST = 2, 5


@dataclass(frozen=True)
class Objective:
    """One objective: a metric, averaged over ``benchmarks``, all of them where it has none.

    It is the better, the more of the metric, or with ``cheap`` the less.
    """

    name: str
    metric: str
    benchmarks: tuple[str, ...] = ()

    @property
    def cheap(self) -> bool:
        """Whether the source that answers at once is the one that is good at it."""
        return metric(self.metric).better == "lower"


def objectives_of(given: Sequence[str], benchmarks: Collection[str]) -> tuple[Objective, ...]:
    """The objectives ``[NAME=]METRIC[@BENCHMARK,...]``; none where they are the paper's.

    Raises `UsageError` for what is no objective, for a benchmark that the run has not, and for
    fewer than two or more than five.
    """
    if tuple(given) in ((), PAPER):
        return ()
    if not LEAST <= len(given) <= MOST:
        raise UsageError(
            f"{len(given)} objective{'' if len(given) == 1 else 's'}: a front needs {LEAST} to "
            f"{MOST}",
            "as in accuracy,tokens at the question, or --objective accuracy --objective tokens",
        )
    found = [_objective(text, benchmarks) for text in given]
    names = [objective.name for objective in found]
    if len(set(names)) < len(names):
        raise UsageError(
            f"two objectives have the same name: {', '.join(names)}",
            "name one, as in hard=accuracy@aime25",
        )
    return tuple(found)


def _objective(text: str, benchmarks: Collection[str]) -> Objective:
    form = FORM.fullmatch(text)
    if form is None:
        raise UsageError(
            f"{text!r} is no objective",
            f"METRIC, as {', '.join(METRICS)}; or NAME=METRIC@BENCHMARK,...",
        )
    named = tuple(form["benchmarks"].split(",")) if form["benchmarks"] else ()
    if missing := [name for name in named if name not in benchmarks]:
        raise UsageError(
            f"objective {text}: no benchmark is called {missing[0]}",
            f"they are {', '.join(benchmarks)}",
        )
    name = form["name"] or "-".join((PAPER_NAMES.get(form["metric"], form["metric"]), *named))
    return Objective(name, form["metric"], named)
