"""The discrepancies of the sources, layer by layer, from which the prior is made (Eq. 5, 7, 8).

The parameter discrepancy is computed from the files, in chunks. The activation discrepancy runs
the models, one after the other, on the same prompts (`apbmm_worker.discrepancy.activations`). Of
more than two sources, a layer's discrepancy is that of the two that differ most in it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch

from apbmm_common.checkpoint.contents import opened, read_into
from apbmm_common.checkpoint.headers import ITEM_BYTES, TensorHeader, layer_of, tower_tensors
from apbmm_common.checkpoint.roles import BASE_ROLE
from apbmm_common.checkpoint.tensor_groups import optional_tensors, outside_group
from apbmm_common.protocol.messages import Measured
from apbmm_common.run_file import PriorSection
from apbmm_worker.discrepancy.activations import cosine_discrepancy, encode_prompts, pooled_states
from apbmm_worker.merging.arithmetic.tensor_bytes import TORCH_DTYPES
from apbmm_worker.merging.sources import VerifiedSources

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
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Measured:
    """Both discrepancies of the sources: Eq. 5, and Eq. 7 and 8.

    The first ``prior.questions`` prompts are run, through the chat template of the source
    ``template_from`` for all models. ``device`` is ``cpu`` or ``cuda:N``; one model at a time is
    on it. ``remote_code``: run the Python code that comes with the models. ``progress`` is told how
    many tensors are compared and prompts run, of how many, for all sources. Raises `SourceError`
    for unusable prompts, and for a model that cannot be loaded or whose activations are not finite.
    """
    start = time.monotonic()
    sources.require_unchanged()
    chosen = list(prompts[: prior.questions])
    roles = merged_roles(sources)
    tensors = len(sources.checkpoints[roles[-1]].tensors)
    done, total = 0, tensors + len(roles) * len(chosen)

    def step(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    step(0)
    found = parameter_discrepancy(sources, step)
    return Measured(
        parameter=found.layers,
        activation=activation_discrepancy(
            sources, chosen, prior, template_from, device, remote_code, step
        ),
        outside=found.outside,
        parts=found.parts,
        prompts=len(chosen),
        seconds=time.monotonic() - start,
    )


def activation_discrepancy(
    sources: VerifiedSources,
    prompts: Sequence[str],
    prior: PriorSection,
    template_from: str,
    device: str,
    remote_code: bool,
    step: Callable[[int], None],
) -> tuple[float, ...]:
    """Eq. 7 and 8 of each layer on the prompts; the arguments are those of `measure`.

    ``step`` is told of each prompt that a model has run.
    """
    encoded = encode_prompts(
        sources.checkpoints[template_from].path,
        prompts,
        max_tokens=prior.max_tokens,
        remote_code=remote_code,
    )
    states = [
        pooled_states(
            sources.checkpoints[role].path,
            encoded,
            layers=sources.layers,
            batch=prior.batch,
            pooling=prior.pooling,
            device=device,
            remote_code=remote_code,
            step=step,
        )
        for role in merged_roles(sources)
    ]
    pairs = combinations(states, 2)
    return largest([cosine_discrepancy(*pair, prior.batch) for pair in pairs])


def merged_roles(sources: VerifiedSources) -> list[str]:
    """The sources that are merged: all but the base."""
    return [role for role in sources.checkpoints if role != BASE_ROLE]


def largest(of_pairs: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """For each layer the largest of the discrepancies that pairs of sources have in it."""
    return tuple(map(max, zip(*of_pairs, strict=True)))


@dataclass(frozen=True, slots=True)
class ParameterDiscrepancy:
    """Eq. 5 for each layer, for each group of tensors outside them, and for each part of a layer.

    ``parts`` has a number for each layer, None where a layer has no such part.
    """

    layers: tuple[float, ...]
    outside: dict[str, float]
    parts: dict[str, tuple[float | None, ...]]


def parameter_discrepancy(
    sources: VerifiedSources, step: Callable[[int], None] = lambda _count: None
) -> ParameterDiscrepancy:
    """Eq. 5: mean over a layer's tensors of ``||TV1 - TV2|| / (||base|| + eps)``.

    The base cancels in ``TV1 - TV2``, which is source 1 minus source 2. Squares are summed in
    float64. Integer and boolean tensors do not count. Each number is that of the pair of sources
    that differs most. ``step`` is called with 1 for each tensor.
    """
    merged = [sources.checkpoints[role] for role in merged_roles(sources)]
    base = sources.checkpoints.get(BASE_ROLE, merged[-1])
    left_out = optional_tensors((*merged, base)) | tower_tensors(merged[-1])
    keys = {*range(sources.layers), *sources.outside}
    ratios: dict[int | str | tuple[str, int], list[list[float]]] = {}
    with opened(*merged, base) as files:
        for name, tensor in merged[-1].tensors.items():
            step(1)
            layer = layer_of(name)
            key = outside_group(name) if layer is None else layer
            if key not in keys or name in left_out or not tensor.is_float:
                continue
            tensors = [checkpoint.tensors[name] for checkpoint in (*merged, base)]
            differences, norm = _norms(tensors, files)
            of_pairs = [difference / (norm + EPSILON) for difference in differences]
            ratios.setdefault(key, []).append(of_pairs)
            if layer is not None and name in sources.part_of:
                ratios.setdefault((sources.part_of[name], layer), []).append(of_pairs)
    means = {
        key: max(math.fsum(of_pair) / len(found) for of_pair in zip(*found, strict=True))
        for key, found in ratios.items()
    }
    return ParameterDiscrepancy(
        tuple(means[layer] for layer in range(sources.layers)),
        {group: means[group] for group in sources.outside},
        {
            part: tuple(means.get((part, layer)) for layer in range(sources.layers))
            for part in sources.parts
        },
    )


def _norms(tensors: Sequence[TensorHeader], files: Mapping[Path, int]) -> tuple[list[float], float]:
    """``||source 1 - source 2||_2`` of each pair of sources, and ``||base||_2``, of one tensor.

    ``tensors``: that of each source, then the base's.
    """
    pairs = list(combinations(range(len(tensors) - 1), 2))
    squares, base_squares = [0.0] * len(pairs), 0.0
    count = math.prod(tensors[0].shape)
    buffers = [bytearray(CHUNK_ELEMENTS * ITEM_BYTES[tensor.dtype]) for tensor in tensors]
    for begin in range(0, count, CHUNK_ELEMENTS):
        size = min(CHUNK_ELEMENTS, count - begin)
        values = []
        for tensor, buffer in zip(tensors, buffers, strict=True):
            item = ITEM_BYTES[tensor.dtype]
            data = memoryview(buffer)[: size * item]
            read_into(files[tensor.file], data, tensor.offset + begin * item, tensor.file)
            values.append(torch.frombuffer(data, dtype=TORCH_DTYPES[tensor.dtype]).double())
        for number, (one, two) in enumerate(pairs):
            delta = values[one] - values[two]
            squares[number] += float(delta.dot(delta))
        base_squares += float(values[-1].dot(values[-1]))
    return [math.sqrt(square) for square in squares], math.sqrt(base_squares)
