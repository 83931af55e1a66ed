"""vLLM as a kind of engine: see `engine.kinds`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apbmm_common.run_file import EngineSection, GenerationSection
from apbmm_worker.engine.kinds import EngineKind
from apbmm_worker.engine.vllm.arguments import PACKAGES, engine_arguments, require_known
from apbmm_worker.engine.vllm.backend import VllmBackend
from apbmm_worker.engine_options import typed_arguments


def arguments(
    settings: EngineSection,
    generation: GenerationSection,
    checkpoint: Path,
    device: str,
    own: Mapping[str, str],
) -> dict[str, Any]:
    """vLLM's arguments, checked against the installed vLLM, which also gives ``own`` its types.

    Raises `RunFileError` or `UsageError` for an argument that vLLM does not have.
    """
    typed = dict[str, Any]()
    if settings.arguments or own:
        # vLLM takes seconds to import, and is not needed yet otherwise.
        from apbmm_worker.engine.vllm.features import argument_types

        known = argument_types()
        require_known(settings.arguments, known)
        typed = typed_arguments(own, known)
    return engine_arguments(settings, generation, checkpoint, device) | typed


ENGINE = EngineKind(arguments, VllmBackend, PACKAGES)
