"""The resident engine: started once, then given one merge after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from apbmm_common.errors import ApbmmError, EvaluationError
from apbmm_common.run_file import EngineSection, GenerationSection
from apbmm_worker.engine.driver import EngineBackend, EngineDriver, Prompt
from apbmm_worker.engine.kinds import engine_kind
from apbmm_worker.merging.planning.plan import TensorPlan


class ResidentEngine(EngineDriver[EngineBackend]):
    """One engine on one device, of the kind that ``settings`` name.

    It answers from the merge that was loaded last. ``checkpoint`` is the first one: config,
    tokenizer and generation config are taken from it and must be the same in every later one.
    ``own`` has the engine arguments that this host sets, as text. `environment.apply` must have
    been called for ``device`` before torch or the engine's library was imported. Raises
    `EvaluationError` (infrastructure) if the engine does not start, and `RunFileError` or
    `UsageError` for arguments that it does not take.
    """

    def __init__(
        self,
        settings: EngineSection,
        generation: GenerationSection,
        checkpoint: Path,
        device: str,
        own: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._kind = engine_kind(settings.kind)
        self.arguments = self._kind.arguments(settings, generation, checkpoint, device, own)

        def build() -> EngineBackend:
            return self._kind.backend(self.arguments, generation, checkpoint)

        try:
            super().__init__(build)
        except ApbmmError:
            raise
        except Exception as error:
            raise EvaluationError(
                f"the engine ({settings.kind}) did not start: {type(error).__name__}: {error}",
                "the worker's log has its own account; [engine] arguments are passed to it",
                kind="infrastructure",
            ) from error

    @property
    def compared_all(self) -> bool:
        """Whether all tensors of the last load could be compared with the live weights."""
        return self.call(lambda backend: backend.compared_all)

    @property
    def weights_digest(self) -> str:
        """`checksum.WeightsDigest` of the last load; empty where it is not known."""
        return self.call(lambda backend: backend.weights_digest)

    def load(self, checkpoint: Path) -> None:
        """Hot-load a complete, finite checkpoint of the same architecture, and prove it.

        Raises `EvaluationError` (infrastructure) if the engine fails half way or the live weights
        are not the checkpoint's; the engine is unusable after that.
        """
        self.call(lambda backend: backend.load(checkpoint))

    def load_merge(self, plans: Sequence[TensorPlan]) -> None:
        """Merge straight from the sources into the live engine, and prove it.

        Raises `EvaluationError`; the engine is unusable after that.
        """
        self.call(lambda backend: backend.load_merge(plans))

    def state(self, checkpoint: Path, prompts: Sequence[Prompt], tokens: int) -> tuple[Any, ...]:
        """All that the model holds, as digests, and its first greedy answers to ``prompts``.

        For equality only; ``checkpoint`` is any folder of the same shapes.
        """
        return self.call(lambda backend: backend.state(checkpoint, prompts, tokens))

    def greedy(self, prompts: Sequence[Prompt], tokens: int) -> tuple[tuple[int, ...], ...]:
        """The first ``tokens`` greedy tokens for each prompt, whatever ends an answer."""
        return self.call(lambda backend: backend.greedy(prompts, tokens))

    def description(self) -> dict[str, Any]:
        """Versions, arguments and the digest of the live weights, for the journal."""
        return {
            "versions": self._kind.versions(),
            "arguments": {**self.arguments, "model": None},
            "weights": self.weights_digest,
        }
