"""The metrics of a run for Prometheus, made from its status snapshot.

Names and units follow Prometheus' conventions: base units, `_total` for counters, a name that does
not say what a label says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)

WORKER_STATES = ("idle", "busy", "preparing", "draining", "busy elsewhere", "quarantined", "unfit")
"""Always present with their counts, so that a rule on one of them finds a series."""
WORKER = ("worker", "host", "gpu")
REFUSED = "refused_"
"""What the names of the counts of `wire.refusals.Refusals` begin with in a snapshot."""


def families(snapshot: Mapping[str, Any] | None, free_bytes: float | None) -> Iterator[Metric]:
    """Every metric of a run.

    ``snapshot`` is a living master's, None where it gives none. ``free_bytes`` is the free space of
    the run directory's disk, None where that cannot be told.
    """
    yield _gauge("master_answers", "Whether the master answers", float(snapshot is not None))
    if free_bytes is not None:
        yield _gauge("run_directory_free_bytes", "Free space of the journal's disk", free_bytes)
    if snapshot is not None:
        yield from _of_run(snapshot)
        yield from _of_workers(snapshot["workers"])
        yield from _of_wire(snapshot["wire"])


def _of_run(run: Mapping[str, Any]) -> Iterator[Metric]:
    yield InfoMetricFamily(
        "apbmm_run",
        "The run that is served",
        {
            "run": run["run"],
            "algorithm": run["algorithm"],
            "rehearsal": str(run["rehearsal"]).lower(),
            "version": run["version"],
        },
    )
    counts = dict(run["evaluations"])
    yield CounterMetricFamily(
        "apbmm_duplicate_results",
        "Results that came after their evaluation had one",
        counts.pop("duplicates"),
    )
    yield _by_label("evaluations", "Evaluations of the budget by state", "state", counts)
    yield _by_label(
        "budget_spent_ratio",
        "Share of each limit of the budget that is spent",
        "limit",
        {limit["name"]: limit["spent"] / limit["limit"] for limit in run["limits"]},
    )
    yield _gauge("hypervolume", "Hypervolume of the front", run["hypervolume"])
    yield _gauge("front_merges", "Merges on the front", len(run["front"]))
    yield _gauge("load_ratio", "Share of the workers' time with a lease", run["load_rate"] or 0.0)
    # Not counters: a resumed master takes the time without a master off again, and a counter that
    # falls is read as one that began anew.
    yield _gauge("served_seconds", "Time with a master", run["seconds"])
    yield _gauge(
        "gpu_seconds", "Time of leases, times the cards of each worker", run["gpu_seconds"]
    )
    yield CounterMetricFamily(
        "apbmm_generated_tokens", "Tokens of the answers of all results", run["tokens"]
    )
    yield _gauge(
        "tokens_per_second",
        "Tokens of the answers finished of late, over all workers",
        run["tokens_a_second"]["mean"],
    )
    yield SummaryMetricFamily(
        "apbmm_proposal_seconds",
        "Time of the search method for one proposal",
        count_value=run["proposals"]["count"],
        sum_value=run["proposals"]["seconds"],
    )
    kept = sum(evaluation["answers"] for evaluation in run["kept"])
    yield _gauge("kept_answers", "Answers kept of unfinished evaluations", kept)
    yield _gauge(
        "needs_attention", "Whether the run waits for a person", float(bool(run["trouble"]))
    )
    yield _gauge("finished", "Whether the run is over", float(bool(run["finished"])))


def _of_workers(workers: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    states = Counter(dict.fromkeys(WORKER_STATES, 0))
    age = GaugeMetricFamily(
        "apbmm_worker_heartbeat_age_seconds", "Time since a worker was heard", labels=WORKER
    )
    quiet = GaugeMetricFamily(
        "apbmm_worker_quiet_seconds", "Time without progress in an evaluation", labels=WORKER
    )
    for worker in workers:
        labels = [worker["name"], worker["host"], worker["gpu"]]
        states[worker["state"]] += 1
        age.add_metric(labels, worker["heartbeat_age"])
        quiet.add_metric(labels, worker["quiet"])
    yield _by_label("workers", "Workers by state", "state", states)
    yield from (age, quiet)


def _of_wire(wire: Mapping[str, Any]) -> Iterator[Metric]:
    refused = CounterMetricFamily(
        "apbmm_refusals", "Messages and connections that were refused", labels=("kind",)
    )
    for key, count in wire.items():
        if key.startswith(REFUSED):
            refused.add_metric([key.removeprefix(REFUSED)], count)
    yield refused


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(f"apbmm_{name}", meaning, value)


def _by_label(name: str, meaning: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"apbmm_{name}", meaning, labels=(label,))
    for key, value in values.items():
        family.add_metric([key], value)
    return family
