"""`apbmm merge`: one merge of checkpoints, by the code that the workers use."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apbmm.merge.flags import MergeRequest, given
from apbmm.merge.places import adapted, digest_cache, expanded, output_folder, with_adapter
from apbmm_common.checkpoint.roles import BASE_ROLE
from apbmm_common.errors import EXIT_DONE, ApbmmError, EvaluationError, UsageError
from apbmm_common.merge_methods import LINEAR, METHODS
from apbmm_common.process.signals import stack_unwound_by_signals

if TYPE_CHECKING:
    from apbmm_common.checkpoint.headers import Checkpoint
    from apbmm_worker.merging.planning.plan import ModelLevelMerge, TensorPlan
    from apbmm_worker.merging.planning.source_weights import SourceWeights
    from apbmm_worker.merging.sources import VerifiedSources

_NAMED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)=(?P<path>.+)", re.DOTALL)


def run_merge(request: MergeRequest) -> int:
    """Write the merge and print one line about it.

    Raises `UsageError`, before the sources are read, for flags or weights that are not valid and
    for an output folder that cannot be used; `SourceError` for sources that cannot be merged;
    `ApbmmError` for a full disk.
    """
    paths, adapters = _named_sources(request.source)
    _check_flags(request, paths)
    _check_names(request, paths)
    out = output_folder(request.out)
    rule = _rule(request, paths)
    import torch

    torch.set_num_threads(1)  # the merge has threads of its own
    if request.base is not None:
        paths[BASE_ROLE] = expanded(request.base, "--base")
    named = {role: with_adapter(path, adapters.get(role)) for role, path in paths.items()}
    with stack_unwound_by_signals(), adapted(paths, adapters, out) as folders:
        return _write(request, rule, folders, named, out)


def _write(
    request: MergeRequest,
    rule: SourceWeights | ModelLevelMerge,
    paths: Mapping[str, Path],
    named: Mapping[str, str],
    out: Path,
) -> int:
    """Write the merge of the sources in ``paths``, which are ``named`` so in its recipe."""
    from apbmm_common.checkpoint.compatibility import compatibility_warnings
    from apbmm_worker.merging.merge import write_merge
    from apbmm_worker.merging.planning.plan import with_prediction_layers
    from apbmm_worker.merging.sources import verify_sources

    template = request.template_from or next(iter(paths))
    sources = verify_sources(
        paths,
        digest_cache(),
        without_tokenizers=True,
        common_vocabulary=request.vocabulary == "common",
    )
    _warn_of_missing_tokenizers(sources, template)
    for warning in compatibility_warnings(sources.checkpoints):
        _warn(warning.replace("template_from", "--template-from"))
    started = time.monotonic()
    try:
        plans, recipe = _planned(request, rule, sources, named)
        last = [c for role, c in sources.checkpoints.items() if role != BASE_ROLE][-1]
        plans = with_prediction_layers(plans, last)
        report = write_merge(sources, plans, recipe, template, out, dtype=request.dtype)
    except EvaluationError as error:
        raise ApbmmError(error.message, error.hint) from error
    seconds = time.monotonic() - started
    names = ", ".join(f"{name}={path}" for name, path in named.items())
    print(  # noqa: T201
        f"{out}: {request.method} merge of {names}; {report.bytes / 1e9:.3f} GB in "
        f"{seconds:.1f} s after {sources.seconds:.1f} s of verification; tokenizer and "
        f"templates of {template}"
    )
    return EXIT_DONE


def _warn_of_missing_tokenizers(sources: VerifiedSources, template: str) -> None:
    """Name the sources whose vocabularies could not be compared, and a merge without tokenizer."""
    from apbmm_common.checkpoint.settings_files import has_tokenizer

    missing = [role for role, c in sources.checkpoints.items() if not has_tokenizer(c.path)]
    for role in missing:
        if role != BASE_ROLE:
            where = sources.checkpoints[role].path
            _warn(f"{where}: no tokenizer, so the vocabulary of {role} was not compared")
    if template in missing:
        _warn(f"the merge gets no tokenizer: {template} has none (--template-from names another)")


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)  # noqa: T201


def _rule(request: MergeRequest, paths: Mapping[str, Path]) -> SourceWeights | ModelLevelMerge:
    """How the sources are merged; ``paths`` are their folders, without the base's.

    Reads the headers of the first source to count its layers. Raises `UsageError`, naming the flag
    or the file of weights, for numbers that are not valid.
    """
    from apbmm.merge.weights import WeightsReader
    from apbmm_common.checkpoint.headers import layer_count, read_checkpoint
    from apbmm_worker.merging.planning.plan import ModelLevelMerge

    if request.weights is None and request.method != LINEAR:
        assert request.weight is not None
        try:
            return ModelLevelMerge(
                request.method, request.weight, given(request.parameters), request.seed or 0
            )
        except EvaluationError as error:  # it begins with the name of the setting
            raise UsageError(f"--{error.message}", error.hint) from error
    first = read_checkpoint(next(iter(paths.values())))
    reader = WeightsReader(
        layer_count(first), tuple(paths), simplex=request.method == LINEAR, tensors=first.tensors
    )
    if request.weights is not None:
        return reader.file(expanded(request.weights, "--weights"), request.outside_layers)
    assert request.weight is not None
    return reader.number(request.weight, request.outside_layers or "mean")


def _planned(
    request: MergeRequest,
    rule: SourceWeights | ModelLevelMerge,
    sources: VerifiedSources,
    named: Mapping[str, str],
) -> tuple[tuple[TensorPlan, ...], dict[str, Any]]:
    """The plan of each tensor, and the recipe to keep beside the weights."""
    from apbmm_worker.merging.planning.plan import ModelLevelMerge, plan_sum, plan_task_vectors

    merged = {role: c for role, c in sources.checkpoints.items() if role != BASE_ROLE}
    recipe: dict[str, Any] = {"method": request.method, "sources": dict(named)}
    if isinstance(rule, ModelLevelMerge):
        outside = request.outside_layers or "mean"
        recipe |= {"task_vectors": rule.recipe, "outside_layers": outside}
        base = sources.checkpoints[BASE_ROLE]
        return plan_task_vectors(merged, base, rule, outside, request.dtype), recipe
    recipe |= {"weights": {key: value for key, value in asdict(rule).items() if value}}
    parts: Mapping[str, Checkpoint] = merged
    if request.method != LINEAR:
        parts = {BASE_ROLE: sources.checkpoints[BASE_ROLE], **merged}
        rule = rule.against_base()
    return plan_sum(parts, rule, request.dtype), recipe


def _named_sources(given: Sequence[str]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Folders and adapters by name, in the order given; without NAME= the names are 1, 2, ..."""
    paths: dict[str, Path] = {}
    adapters: dict[str, Path] = {}
    for number, text in enumerate(given, start=1):
        match = _NAMED.fullmatch(text)
        # An existing folder whose name contains = is taken as a path.
        if match and Path(text).exists():
            match = None
        name, path = (match["name"], match["path"]) if match else (str(number), text)
        if name in paths:
            raise UsageError(f"--source: two sources are called {name}")
        if name in (BASE_ROLE, "mean"):
            raise UsageError(f"--source: a source cannot be called {name}", "choose another name")
        folder, plus, adapter = path.rpartition("+")
        # As mergekit writes a model with an adapter, unless a folder has such a name.
        if plus and folder and adapter and not expanded(path, "--source").exists():
            adapters[name] = expanded(adapter, "--source")
            path = folder
        paths[name] = expanded(path, "--source")
    return paths, adapters


def _check_flags(request: MergeRequest, paths: Mapping[str, Path]) -> None:
    """Raise `UsageError` for a flag that is missing, and for a flag that would do nothing."""
    method, layerwise = request.method, request.weights is not None
    model_level = METHODS.get(method)
    if (request.weight is None) == (request.weights is None):
        raise UsageError(
            "give either --weight or --weights", "--weight is one number for all layers"
        )
    if method == LINEAR and len(paths) < 2:
        raise UsageError("a linear merge needs at least two --source")
    if method == LINEAR and len(paths) > 2 and not layerwise:
        raise UsageError(
            f"--weight is the first source's, of two: {len(paths)} sources need --weights",
            "a JSON list with a list of weights, one for each source, for each layer",
        )
    if method == LINEAR and request.base is not None:
        raise UsageError(
            "--base has no effect on a linear merge: its weights sum to 1, so the base cancels",
            "--method task_arithmetic adds weighted task vectors to a base",
        )
    if method != LINEAR and request.base is None:
        raise UsageError(f"{method} needs --base, which task vectors are taken from")
    if layerwise and model_level is not None and model_level.merge is not None:
        raise UsageError(f"{method} takes one --weight for the whole model, not --weights")
    takes = {parameter.name for parameter in model_level.parameters} if model_level else set()
    useless = [name for name in given(request.parameters) if name not in takes]
    if request.seed is not None and not (model_level and model_level.random):
        useless.append("seed")
    for name in useless:
        raise UsageError(f"--{name} has no effect on {method}", "leave it out")


def _check_names(request: MergeRequest, paths: Mapping[str, Path]) -> None:
    """Raise `UsageError` for a flag that names a source that was not given."""
    names = list(paths) + ([BASE_ROLE] if request.base is not None else [])
    if request.template_from is not None and request.template_from not in names:
        raise UsageError(
            f"--template-from {request.template_from}: no such source", f"one of {', '.join(names)}"
        )
    followed = request.outside_layers
    if followed is not None and followed != "mean" and followed not in names:
        raise UsageError(
            f"--outside-layers {followed}: no such source", f"mean, or one of {', '.join(names)}"
        )
