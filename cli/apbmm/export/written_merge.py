"""Writes one merge of a run as a folder, and compares its weights with those evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apbmm.export.eval_results import write_eval_results
from apbmm.export.layer_picture import layer_picture
from apbmm.export.mergekit_config import mergekit_config
from apbmm.export.model_card import (
    CARD_FILE,
    CONFIG_FILE,
    PICTURE_FILE,
    CardFacts,
    model_card,
    versions,
)
from apbmm.export.sources import SourceFolder
from apbmm.results.run_results import EvaluationResult, RunResults
from apbmm.results.words import REHEARSAL
from apbmm_common.checkpoint.headers import prediction_tensors
from apbmm_common.errors import ApbmmError, EvaluationError
from apbmm_common.protocol.messages import Evaluated
from apbmm_common.run_file import LEAST_SOURCES
from apbmm_worker.engine.checksum import MergeChecksums, folder_digest
from apbmm_worker.merging.folders.folder import stated_dtype
from apbmm_worker.merging.merge import MergeReport, write_merge
from apbmm_worker.merging.planning.plan import with_prediction_layers
from apbmm_worker.merging.run_merges import merge_of

if TYPE_CHECKING:
    from apbmm_common.run_file import RunSpec
    from apbmm_worker.merging.planning.plan import TensorPlan
    from apbmm_worker.merging.sources import VerifiedSources


@dataclass(frozen=True, slots=True)
class Order:
    """One merge to write: which, where, why, and in which dtype (``source``: as evaluated)."""

    evaluation: EvaluationResult
    out: Path
    reason: str = ""
    dtype: str = "source"
    allow_different: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """What was written, and what its card tells."""

    report: MergeReport
    facts: CardFacts


def write(
    results: RunResults,
    sources: VerifiedSources,
    folders: Mapping[str, SourceFolder],
    order: Order,
) -> Written:
    """Write the folder of a merge; it appears under its name only when it is complete.

    Raises `ApbmmError` where it cannot be written, and where its weights are not those that were
    evaluated, unless the order allows this.
    """
    spec, evaluation = results.spec, order.evaluation
    if order.dtype != "source":
        merge_section = spec.merge.model_copy(update={"dtype": order.dtype})
        spec = spec.model_copy(update={"merge": merge_section})
    try:
        merge = merge_of(
            spec,
            sources,
            evaluation.vector,
            reference=evaluation.purpose == "reference",
            borders=results.run_state.borders or (),
        )
        plans = with_prediction_layers(merge.plans, sources.checkpoints[spec.sources.names[-1]])
        export = _Export(results, spec, sources, folders, order, plans)
        report = write_merge(
            sources,
            plans,
            merge.recipe,
            spec.generation.template_from,
            order.out,
            dtype=spec.merge.dtype,
            additions=export,
        )
    except EvaluationError as error:
        raise ApbmmError(error.message, error.hint) from error
    return Written(report, export.facts)


class _Export:
    """What an export has beside the merge: `apbmm_worker.merging.merge.Additions`.

    ``spec`` is the run's, with the dtype that was ordered. ``facts`` are there at the end.
    """

    facts: CardFacts

    def __init__(
        self,
        results: RunResults,
        spec: RunSpec,
        sources: VerifiedSources,
        folders: Mapping[str, SourceFolder],
        order: Order,
        plans: Sequence[TensorPlan],
    ) -> None:
        self._results, self._spec, self._order = results, spec, order
        self._sources, self._folders, self._plans = sources, folders, plans
        self._last = sources.checkpoints[spec.sources.names[-1]]
        self._checksums = MergeChecksums(plans)

    def written(self, tensor: TensorPlan, offset: int, data: memoryview) -> None:
        """Take the checksum of a part."""
        self._checksums.written(tensor, offset, data)

    def finish(self, folder: Path) -> dict[str, Any]:
        """Compare the weights, and write what stands beside them."""
        results, evaluation = self._results, self._order.evaluation
        left_out = prediction_tensors(self._last)  # they take no part in evaluations
        # An odd tensor moves those behind it off the words; then the files are read.
        digest = self._checksums.digest(left_out) or folder_digest(folder, left_out)
        dtype = self._spec.merge.dtype
        stored = (stated_dtype(self._last) or "the sources' dtype") if dtype == "source" else dtype
        facts = CardFacts(
            results,
            evaluation,
            self._folders,
            self._order.out.name,
            self._order.reason,
            stored,
            _compared(results, self._order, digest),
        )
        self.facts = facts
        names = {role: each.named for role, each in self._folders.items()}
        config = mergekit_config(self._plans, self._sources, names, self._spec)
        (folder / CONFIG_FILE).write_text(config.text(_heading(results, evaluation)), "utf-8")
        if evaluation.source_weights and self._spec.merge.combine == "simplex":
            weights = {name: evaluation.named_weights(name) for name in evaluation.source_weights}
            picture = layer_picture(weights, _title(results, evaluation))
            (folder / PICTURE_FILE).write_text(picture, encoding="utf-8")
        write_eval_results(folder, facts)
        model_card(facts).save(folder / CARD_FILE)
        return _record(facts, digest)


def _compared(results: RunResults, order: Order, digest: str) -> str:
    """What the weights were compared with. Raises `ApbmmError` for other weights."""
    evaluation = order.evaluation
    body = results.run_state.evaluations[evaluation.id].body
    journaled = body.engine.get("weights", "") if isinstance(body, Evaluated) else ""
    if digest == journaled:
        return "bit for bit those that were evaluated (compared with the journaled digest)"
    if order.dtype != "source":
        return f"those that were evaluated, stored as {order.dtype}"
    if results.rehearsal:
        return "REHEARSAL: they were never evaluated"
    if not journaled:
        return (
            "the same rule applied to the same sources (their digests were compared); the run "
            "journaled no digest of the weights that were evaluated"
        )
    if not order.allow_different:
        raise ApbmmError(
            f"{evaluation.id}: the merge made here is not bit for bit the one that was evaluated",
            "--allow-different-weights writes it all the same and says so in its card; arithmetic "
            "may differ between hosts",
        )
    return "NOT bit for bit those that were evaluated: the merge was made anew on another host"


def _record(facts: CardFacts, digest: str) -> dict[str, Any]:
    """What `apbmm_merge.json` has beside the vector, the rule and the sources' digests."""
    results, evaluation = facts.results, facts.evaluation
    return {
        **({"rehearsal": REHEARSAL} if results.rehearsal else {}),
        "run": results.run,
        "evaluation": evaluation.id,
        "point": evaluation.vector,
        "sources": {role: _source_record(each) for role, each in facts.sources.items()},
        "weights_digest": digest,
        "weights": facts.weights,
        "metrics": {name: dict(each.metrics) for name, each in evaluation.benchmarks.items()},
        "objectives": dict(zip(results.objectives, evaluation.objectives or (), strict=False)),
        "versions": versions(results, evaluation),
    }


def _source_record(source: SourceFolder) -> dict[str, str]:
    found = {"hub_id": source.hub_id} if source.hub_id else {"folder": str(source.folder.resolve())}
    if source.adapter is not None:
        found["adapter"] = source.adapter_id or str(source.adapter.resolve())
    return found


def _heading(results: RunResults, evaluation: EvaluationResult) -> str:
    lines = [f"{evaluation.id} of the apbmm run {results.run}"]
    if results.rehearsal:
        lines.insert(0, REHEARSAL)
    return "\n".join(lines)


def _title(results: RunResults, evaluation: EvaluationResult) -> str:
    mark = "REHEARSAL: " if results.rehearsal else ""
    names = list(evaluation.source_weights)
    whose = f"weight of {names[0]}" if len(names) == LEAST_SOURCES else "weights of the sources"
    return f"{mark}{whose} by layer, {evaluation.id}"
