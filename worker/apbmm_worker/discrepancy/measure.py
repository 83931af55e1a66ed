"""The discrepancies of two sources, layer by layer, from which the prior is made (Eq. 5, 7, 8).

The parameter discrepancy is computed from the files, in chunks. The activation discrepancy runs
both models, one after the other, on the same prompts (`apbmm_worker.discrepancy.activations`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from apbmm_common.checkpoint.contents import opened, read_into
from apbmm_common.checkpoint.headers import ITEM_BYTES, TensorHeader, layer_of
from apbmm_common.checkpoint.tensor_groups import optional_tensors, outside_group
from apbmm_common.protocol.messages import Measured
from apbmm_common.run_file import PriorSection
from apbmm_worker.discrepancy.activations import cosine_discrepancy, encode_prompts, pooled_states
from apbmm_worker.merging.sources import VerifiedSources
from apbmm_worker.merging.tensor_bytes import TORCH_DTYPES

EPSILON = 1e-12
CHUNK_ELEMENTS = 1 << 15  # small enough that torch does not spread it over threads


def measure(
    sources: VerifiedSources,
    prompts: Sequence[str],
    prior: PriorSection,
    template_from: str,
    device: str = "cpu",
    *,
    remote_code: bool = False,
) -> Measured:
    """Both discrepancies of the thinking and the instruct model: Eq. 5, and Eq. 7 and 8.

    The first ``prior.questions`` prompts are run, through the chat template of the source
    ``template_from`` for both models. ``device`` is ``cpu`` or ``cuda:N``; one model at a time is
    on it. ``remote_code``: run the Python code that comes with the models. Raises `SourceError`
    for unusable prompts, and for a model that cannot be loaded or whose activations are not finite.
    """
    start = time.monotonic()
    sources.require_unchanged()
    parameter, outside = parameter_discrepancy(sources)
    chosen = list(prompts[: prior.questions])
    encoded = encode_prompts(
        sources.checkpoints[template_from].path,
        chosen,
        max_tokens=prior.max_tokens,
        remote_code=remote_code,
    )
    thinking, instruct = (
        pooled_states(
            sources.checkpoints[role].path,
            encoded,
            layers=sources.layers,
            batch=prior.batch,
            pooling=prior.pooling,
            device=device,
            remote_code=remote_code,
        )
        for role in ("thinking", "instruct")
    )
    activation = cosine_discrepancy(thinking, instruct, prior.batch)
    return Measured(
        parameter=parameter,
        activation=activation,
        outside=outside,
        prompts=len(chosen),
        seconds=time.monotonic() - start,
    )


def parameter_discrepancy(
    sources: VerifiedSources,
) -> tuple[tuple[float, ...], dict[str, float]]:
    """Eq. 5: mean over a layer's tensors of ``||TV1 - TV2|| / (||base|| + eps)``.

    The base cancels in ``TV1 - TV2``, which is thinking minus instruct. Squares are summed in
    float64. Integer and boolean tensors do not count. Returns one number for each layer, and the
    same for each group of tensors outside the layers.
    """
    thinking, instruct = (sources.checkpoints[role] for role in ("thinking", "instruct"))
    base = sources.checkpoints.get("base", instruct)
    groups = sources.outside
    left_out = optional_tensors((thinking, instruct, base))
    keys: list[int | str] = [*range(sources.layers), *groups]
    ratios: dict[int | str, list[float]] = {key: [] for key in keys}
    with opened(thinking, instruct, base) as files:
        for name, tensor in instruct.tensors.items():
            layer = layer_of(name)
            key = outside_group(name) if layer is None else layer
            if key not in ratios or name in left_out or not tensor.is_float:
                continue
            trio = (thinking.tensors[name], tensor, base.tensors[name])
            difference, norm = _norms(trio, files)
            ratios[key].append(difference / (norm + EPSILON))
    means = {key: math.fsum(found) / len(found) for key, found in ratios.items()}
    return tuple(means[layer] for layer in range(sources.layers)), {g: means[g] for g in groups}


def _norms(
    trio: tuple[TensorHeader, TensorHeader, TensorHeader], files: Mapping[Path, int]
) -> tuple[float, float]:
    """``||thinking - instruct||_2`` and ``||base||_2`` of one tensor."""
    difference, base_squares = 0.0, 0.0
    count = math.prod(trio[0].shape)
    buffers = [bytearray(CHUNK_ELEMENTS * ITEM_BYTES[tensor.dtype]) for tensor in trio]
    for begin in range(0, count, CHUNK_ELEMENTS):
        size = min(CHUNK_ELEMENTS, count - begin)
        values = []
        for tensor, buffer in zip(trio, buffers, strict=True):
            item = ITEM_BYTES[tensor.dtype]
            data = memoryview(buffer)[: size * item]
            read_into(files[tensor.file], data, tensor.offset + begin * item, tensor.file)
            values.append(torch.frombuffer(data, dtype=TORCH_DTYPES[tensor.dtype]).double())
        delta = values[0] - values[1]
        difference += float(delta.dot(delta))
        base_squares += float(values[2].dot(values[2]))
    return math.sqrt(difference), math.sqrt(base_squares)
