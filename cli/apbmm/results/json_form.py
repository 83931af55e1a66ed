"""Results as JSON objects, the same in the output of every command."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from apbmm.results.figures import Figure
from apbmm.results.run_results import EvaluationResult, RunResults
from apbmm_common import __version__


def print_json(found: Mapping[str, Any]) -> None:
    """One object in one line of standard output."""
    json.dump(found, sys.stdout)
    sys.stdout.write("\n")


def run_as_json(results: RunResults) -> dict[str, Any]:
    """The run that an output is about, and the version that wrote the output."""
    return {
        "version": __version__,
        "run": results.run,
        "run_dir": str(results.run_dir.resolve()),
        "rehearsal": results.rehearsal,
        "condition": results.condition,
        "objectives": list(results.objectives),
    }


def evaluation_as_json(results: RunResults, evaluation: EvaluationResult) -> dict[str, Any]:
    """One evaluation; ``mean`` has the metrics that every benchmark has, averaged over all."""
    each = evaluation
    names = dict.fromkeys(name for b in each.benchmarks.values() for name in b.metrics)
    means = {name: figure for name in names if (figure := each.figure(name)) is not None}
    return {
        "id": each.id,
        "purpose": each.purpose,
        "state": str(each.state),
        "vector": list(each.vector),
        "layer_weights": list(each.layer_weights),
        "outside_weights": dict(each.outside_weights),
        "source_weights": {name: list(row) for name, row in each.source_weights.items()},
        "part_weights": {
            name: {part: list(row) for part, row in parts.items()}
            for name, parts in each.part_weights.items()
            if parts
        },
        "parameters": dict(each.parameters),
        "objectives": dict(zip(results.objectives, each.objectives, strict=True))
        if each.objectives is not None
        else None,
        "breaks": list(each.breaks),
        "on_front": each.on_front,
        "benchmarks": {
            name: {
                "questions": found.questions,
                "repeats": found.repeats,
                "truncated": found.truncated,
                "malformed": found.malformed,
                "metrics": {m: _figure(found.figure(m)) for m in found.metrics},
            }
            for name, found in each.benchmarks.items()
        },
        "mean": {name: _figure(figure) for name, figure in means.items()},
        "seconds": each.seconds,
        "gpu_seconds": each.gpu_seconds,
        "tokens": each.tokens,
        "begun_at": each.begun_at,
        "done_at": each.done_at,
        "attempts": each.attempts,
        "worker": each.worker,
        "message": each.message,
    }


def _figure(figure: Figure | None) -> dict[str, float | None] | None:
    return None if figure is None else asdict(figure)
