"""The questions that a checkpoint is measured on: whose they are, and where their data lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from apbmm.results.run_results import EvaluationResult, RunResults
from apbmm_common.errors import UsageError
from apbmm_common.protocol.messages import Evaluated
from apbmm_master.journal.storage.store import read_outcomes
from apbmm_worker.daemon.local_paths import LocalPaths
from apbmm_worker.daemon.options import parse_paths

ADAPTERS = "adapters"
"""What `RunSpec.named_paths` calls the file of a run's own adapters."""


def measured_alike(results: RunResults, search: RunResults, name: str) -> EvaluationResult:
    """An evaluation of the search as the run ``results`` measured it, on the same questions.

    Raises `UsageError` where it did not.
    """
    sought = search.evaluation(name)
    found = next((each for each in results.evaluations if each.id == name), None)
    if found is not None and found.benchmarks:
        return found
    if results is search or not sought.benchmarks:
        raise UsageError(
            f"--against {name}: it has no result: it is {sought.state.value}",
            "apbmm status --all lists the evaluations that have one",
        )
    raise UsageError(
        f"--against {name}: it is not confirmed, so it was not asked the questions that confirm "
        "the search",
        f"apbmm confirm {search.label} --eval {name} asks it; --search-questions asks those of the "
        "search",
    )


def benchmark_paths(results: RunResults, items: Sequence[str]) -> dict[str, str]:
    """The paths of ``--path`` by name.

    Raises `UsageError` for a name that is neither a benchmark's nor ``adapters``, and for data that
    is not on this host.
    """
    paths, spec = parse_paths(items), results.spec
    names = [benchmark.name for benchmark in spec.benchmarks]
    if spec.adapters is not None:
        names.append(ADAPTERS)
    for name in paths:
        if name not in names:
            raise UsageError(
                f"--path {name}=...: nothing that is read is called so", f"{', '.join(names)} are"
            )
    local = LocalPaths(paths).of_run(spec)
    missing = [
        f"{name}: {file} is not on this host"
        for name in names
        for file in local[name]
        if not Path(file).exists()
    ]
    if missing:
        raise UsageError("\n".join(missing), "--path NAME=FOLDER says where it is")
    return paths


def require_same_questions(results: RunResults, body: Evaluated) -> None:
    """Raise `UsageError` where other questions were answered than the references were asked."""
    asked: dict[str, set[str]] = {}
    for reference in results.references:
        for row in read_outcomes(results.run_dir, reference):
            asked.setdefault(row.benchmark, set()).add(row.question)
    for name, measured in body.benchmarks.items():
        answered = {question for question, *_ in measured.outcomes}
        if name in asked and answered != asked[name]:
            raise UsageError(
                f"{name}: the questions in its data are not those of the run "
                f"({len(answered & asked[name])} of {len(asked[name])} have an id of the run's)",
                f"--path {name}=FOLDER names the data that the run read",
            )
