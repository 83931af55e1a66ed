"""`apbmm export`: merges of a run as complete Hugging Face folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from apbmm.export.flags import ExportRequest
from apbmm.merge.flags import MergeRequest
from apbmm.merge.places import RECIPE, adapted, output_folder, require_room
from apbmm.pick.choice import choose, no_objectives, preference_of
from apbmm.pick.flags import NO_PREFERENCE
from apbmm.results.run_directories import find_run
from apbmm_common.checkpoint.headers import DTYPE_CODES, ITEM_BYTES, read_checkpoint
from apbmm_common.errors import EXIT_DONE, ApbmmError, UsageError
from apbmm_common.process.signals import stack_unwound_by_signals

if TYPE_CHECKING:
    from apbmm.export.sources import SourceFolder
    from apbmm.export.written_merge import Order, Written
    from apbmm.results.run_results import EvaluationResult, RunResults


def run_export(run: str | None, request: ExportRequest) -> int:
    """Write the folders and print a few lines about each; returns the exit code.

    Raises `UsageError`, before any weights are read, for flags that do not go together, an
    evaluation that has no result, an output folder that cannot be used or a disk without room;
    `SourceError` for sources that are not those that the run merged; `ApbmmError` where a merge
    cannot be written or uploaded.
    """
    from apbmm.results.run_results import read_results

    _check_flags(request)
    results = read_results(find_run(run))
    orders = _orders(request, results)
    from apbmm.export.sources import source_folders, verified_sources

    folders = source_folders(results, request.paths, request.base_models)
    anchor = folders[results.spec.sources.names[-1]]
    require_room(orders[0].out, len(orders) * _size(anchor, request))
    import torch

    from apbmm.export.written_merge import write

    torch.set_num_threads(1)  # the merge has threads of its own
    bases = {role: each.folder for role, each in folders.items()}
    adapters = {role: each.adapter for role, each in folders.items() if each.adapter is not None}
    with adapted(bases, adapters, orders[0].out) as merged:
        sources = verified_sources(results, merged)
        for order in orders:
            with stack_unwound_by_signals():
                written = write(results, sources, folders, order)
            _print(results, folders, order, written)
            if request.push_to_hub is not None:
                _push(results, order, request.push_to_hub, public=request.public)
    return EXIT_DONE


def run_merge_of_evaluation(run: str, evaluation: str | None, request: MergeRequest) -> int:
    """`apbmm merge RUN EVALUATION`, which is `apbmm export RUN --eval EVALUATION`.

    Raises `UsageError` for flags that say how to merge, which the run has said.
    """
    if evaluation is None:
        raise UsageError(
            f"{run}: an evaluation is missing", "apbmm merge RUN EVALUATION --out DIR, as e0017"
        )
    if request != MergeRequest(out=request.out, dtype=request.dtype):
        raise UsageError(
            f"{evaluation} of {run} is merged as the run merged it",
            "only --out and --dtype go with it; --source merges without a run",
        )
    return run_export(
        run, ExportRequest(out=request.out, evaluation=evaluation, dtype=request.dtype)
    )


def _check_flags(request: ExportRequest) -> None:
    ways = {
        "--eval": request.evaluation is not None,
        "--front": request.front,
        "a preference": request.preference != NO_PREFERENCE,
    }
    chosen = [way for way, given in ways.items() if given]
    if len(chosen) > 1:
        raise UsageError(
            f"{' and '.join(chosen)} do not go together",
            "a preference is --min-accuracy, --max-tokens, --min, --max or --knee",
        )
    if request.push_to_hub is None:
        if request.public:
            raise UsageError("--public has no effect without --push-to-hub", "leave it out")
        return
    if request.front:
        raise UsageError("--push-to-hub takes one merge, not the front", "name one with --eval")
    from apbmm.export.hub import require_hub_id

    require_hub_id(request.push_to_hub)


def _orders(request: ExportRequest, results: RunResults) -> list[Order]:
    """The merges to write. Raises `UsageError` for one without a result, or a bad folder."""
    from apbmm.export.written_merge import Order

    if request.push_to_hub is not None and results.rehearsal:
        raise UsageError(
            "a rehearsal is not uploaded: its figures are invented", "leave out --push-to-hub"
        )

    def order(evaluation: EvaluationResult, out: Path, reason: str = "") -> Order:
        where = output_folder(out, replace=request.force)
        return Order(evaluation, where, reason, request.dtype, request.allow_different)

    if request.front:
        if not results.front:
            raise ApbmmError(
                f"{results.label}: the run has no front yet: {no_objectives(results)}",
                "apbmm status",
            )
        return [order(each, request.out / each.id) for each in results.front]
    if request.evaluation is not None:
        return [order(_completed(results, request.evaluation), request.out)]
    choice = choose(results, preference_of(request.preference))
    if choice.evaluation is None:
        near = ", ".join(each.id for each in choice.nearest)
        raise ApbmmError(
            f"nothing fits: {choice.reason}",
            f"--eval names one; near to it: {near}" if near else "",
        )
    return [order(choice.evaluation, request.out, choice.in_words)]


def _completed(results: RunResults, name: str) -> EvaluationResult:
    evaluation = results.evaluation(name)
    if not evaluation.benchmarks:
        raise UsageError(
            f"{results.label}: {name} has no result: it is {evaluation.state.value}",
            "apbmm status --all lists the evaluations that have one",
        )
    return evaluation


def _size(anchor: SourceFolder, request: ExportRequest) -> int:
    """Bytes of a merge's weights, from the header of the source whose layout it gets."""
    checkpoint = read_checkpoint(anchor.folder)
    total = checkpoint.weight_bytes
    if request.dtype != "source":
        floats = [each for each in checkpoint.tensors.values() if each.is_float]
        item = ITEM_BYTES[DTYPE_CODES[request.dtype]]
        total += sum(t.length // ITEM_BYTES[t.dtype] * item - t.length for t in floats)
    return total


def _print(
    results: RunResults, folders: dict[str, SourceFolder], order: Order, written: Written
) -> None:
    from apbmm.doctor.packages import has_cpu_vllm
    from apbmm.export.model_card import CONFIG_FILE, serve_command
    from apbmm.pick.remarks import against
    from apbmm.results.words import REHEARSAL

    lines = [REHEARSAL] if results.rehearsal else []
    report = written.report
    lines.append(
        f"{order.out}: {order.evaluation.id} of {results.run}; {report.bytes / 1e9:.3f} GB in "
        f"{report.seconds:.1f} s"
    )
    if order.reason:
        lines.append(f"  {order.reason}")
    lines += [f"  {against(results, order.evaluation, name)}" for name in results.references]
    lines.append(f"  weights: {written.facts.weights}")
    unknown = [role for role, each in folders.items() if not each.hub_id]
    if unknown:
        lines.append(
            f"  the card names no base_model for {', '.join(unknown)}, and {CONFIG_FILE} and "
            f"{RECIPE} have the folder of this host: --base-model NAME=ORG/MODEL"
        )
    server = serve_command(str(order.out), written.facts, cpu_build=has_cpu_vllm())
    lines.append(f"  serve it: {server}")
    print("\n".join(lines))  # noqa: T201


def _push(results: RunResults, order: Order, repository: str, *, public: bool) -> None:
    from apbmm.export.hub import upload

    message = f"{order.evaluation.id} of the apbmm run {results.run}"
    address = upload(order.out, repository, message, public=public)
    print(f"  uploaded to {address}")  # noqa: T201
