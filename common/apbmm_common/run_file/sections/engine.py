"""`[engine]` and `[evaluation]`: what evaluates the merges."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from apbmm_common.run_file.engine_limits import forbidden_arguments
from apbmm_common.run_file.sections.section import Name, Number, Scalar, Section, Unit, refuse

Layers = Annotated[int, Field(ge=1, le=4000, strict=True)]
"""The weights of so many layers, and of the tensors outside them, fit into one message."""


class EngineSection(Section):
    """The engine that stays resident on each worker and evaluates one merge after the other."""

    kind: Name = "vllm"
    """Name of the engine. There is one, `vllm`; workers and `apbmm check` refuse any other."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype that the engine computes in. `auto` is the one that the merge's config.json names."""
    gpu_memory_utilization: Annotated[Number, Field(gt=0, le=1)] = 0.9
    """Share of a card's memory that vLLM takes. Lower it where something else needs memory of the
    same card. Of no effect on a CPU."""
    hot_load: Literal["auto", "memory", "checkpoint"] = "auto"
    """How a merge reaches the engine: `memory` merges straight into the live engine, `checkpoint`
    writes a checkpoint that vLLM reloads. `auto` takes the faster of those that a worker has found
    equal to a fresh engine. Where the way that is chosen is not equal to a fresh engine, every
    merge gets a fresh engine."""
    remote_code: bool = False
    """The architecture is Python code in the checkpoints' folders, to be run by workers that were
    started with `--allow-remote-code`; other workers take no part. Set it once the code has been
    read. Without it none of that code is run."""
    batch_invariant: bool = False
    """Answers do not depend on what else the engine computes at the same time. Without it, rounding
    differs between batches: an evaluation that goes on from kept answers may then answer some
    questions otherwise than a whole one would have. It switches vLLM's batch invariance on, which
    is slower and needs GPUs: workers on a CPU refuse the run."""
    arguments: dict[str, Scalar] = Field(default_factory=dict)
    """vLLM's own engine arguments, by name (`max_num_seqs = 64`, say). Arguments that other keys
    decide, and arguments that name code, files or hosts, are refused. `apbmm-worker --engine-arg`
    sets one for a single worker, over these."""

    @field_validator("arguments")
    @classmethod
    def _only_what_a_run_file_may_set(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        refuse(forbidden_arguments(arguments))
        return arguments


class EvaluationSection(Section):
    """Whether models are evaluated, or measurements invented to try a cluster out."""

    kind: Literal["vllm", "rehearsal"] = "vllm"
    """`vllm` evaluates models, with the engine that `engine.kind` names. `rehearsal` invents
    measurements on a synthetic landscape, with workers started by `--gpu rehearsal`, and reads
    neither checkpoints nor benchmarks."""
    layers: Layers | None = None
    """Number of layers of a rehearsal's invented models. Required for a rehearsal, unused
    otherwise."""
    rehearsal_seconds: Annotated[Number, Field(ge=0), Unit("seconds")] = 1.0
    """How long a rehearsal's evaluation of the thinking model takes, on average; merges with fewer
    tokens take less."""

    @field_validator("layers")
    @classmethod
    def _rehearsal_needs_layers(cls, layers: int | None, info: ValidationInfo) -> int | None:
        if layers is None and info.data.get("kind") == "rehearsal":
            raise ValueError("a rehearsal has no checkpoints to count layers in: set layers")
        return layers
