"""The last sections: failures, settings, versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from apbmm.report.document import ReportSection, ReportTable
from apbmm.report.names import Names
from apbmm.results.run_results import RunResults
from apbmm_common import __version__
from apbmm_common.protocol.messages import Evaluated
from apbmm_master.journal.events import EpochStarted, WorkerJoined
from apbmm_master.journal.lifecycle import AttemptState, EvaluationState

MOST_ROWS = 100


def failures_section(results: RunResults, names: Names) -> ReportSection:
    """Every merge that failed, every attempt that gave no result, and workers in quarantine."""
    rows = list(_failures(results, names))
    if not rows:
        return ReportSection("Failures", paragraphs=("None: every attempt gave a result.",))
    more = f" The first {MOST_ROWS} of {len(rows)}." if len(rows) > MOST_ROWS else ""
    table = ReportTable(
        ("evaluation", "attempt", "worker", "what happened"),
        tuple(rows[:MOST_ROWS]),
        f"Attempts without a result are tried again, so most cost time alone.{more}",
        words=4,
    )
    return ReportSection("Failures", tables=(table,))


def _failures(results: RunResults, names: Names) -> Iterator[tuple[str, str, str, str]]:
    for evaluation in results.run_state.evaluations.values():
        for attempt in evaluation.attempts:
            if attempt.state in (AttemptState.FAILED, AttemptState.LOST):
                fault = f"{attempt.fault}: " if attempt.fault else "lost: "
                told = fault + names.message(attempt.message)
                yield evaluation.id, str(attempt.number), names.worker(attempt.worker), told
        if evaluation.state is EvaluationState.FAILED:
            yield evaluation.id, "", "", f"given up: {names.message(evaluation.message)}"
    for (worker, _), reason in results.run_state.sessions.quarantined.items():
        yield "", "", names.worker(worker), f"in quarantine: {names.message(reason)}"


def settings_section(results: RunResults, names: Names) -> ReportSection:
    """The run file as resolved, the digests of what was read, and who took part."""
    settings = results.spec.model_dump(mode="json", exclude_none=True)
    return ReportSection(
        "Settings and versions",
        tables=(
            ReportTable(
                ("setting", "value"),
                tuple(_flat(settings, names)),
                f"The run file with its defaults. {names.about_paths}",
                words=2,
            ),
            ReportTable(
                ("read by the workers", "SHA-256"),
                tuple(sorted(results.run_state.digests.items())),
                words=2,
            ),
            ReportTable(
                ("process", "host", "card", "versions"),
                tuple(dict.fromkeys(_processes(results, names))),
                f"Report by apbmm {__version__}.",
                words=4,
            ),
        ),
    )


def _flat(table: Mapping[str, Any], names: Names, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every setting by its dotted name; members of lists of tables by their ``name``."""
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _flat(value, names, f"{name}.")
        elif isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
            for member in value:
                rest = {k: v for k, v in member.items() if k != "name"}
                yield from _flat(rest, names, f"{name}.{member.get('name', '')}.")
        elif isinstance(value, list):
            yield name, ", ".join(names.paths(str(each)) for each in value)
        else:
            yield name, names.paths(str(value))


def _processes(results: RunResults, names: Names) -> Iterator[tuple[str, str, str, str]]:
    """Masters and workers as they joined, then the engines that gave results."""
    for record in results.records:
        match record.event:
            case EpochStarted() as event:
                yield "master", names.host(event.host), "", _listed(event.versions)
            case WorkerJoined() as event:
                host, versions = names.host(event.host), _listed(event.versions)
                yield names.worker(event.worker), host, event.gpu, versions
    for evaluation in results.evaluations:
        body = results.run_state.evaluations[evaluation.id].body
        if isinstance(body, Evaluated) and (found := body.engine.get("versions")):
            yield f"engine of {names.worker(evaluation.worker)}", "", "", _listed(found)


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
