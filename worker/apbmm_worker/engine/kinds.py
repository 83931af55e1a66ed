"""The kinds of engine, by the name that ``[engine] kind`` of a run file has for them.

A kind is a module with an `EngineKind` named ``ENGINE``, and its line in `KINDS`. The module is
imported when an engine of that kind is first needed: engines take seconds to import.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apbmm_common.errors import RunFileError
from apbmm_common.run_file import EngineSection, GenerationSection

if TYPE_CHECKING:
    from apbmm_worker.engine.driver import EngineBackend

KINDS = {"vllm": "apbmm_worker.engine.vllm.kind"}
"""The module of each kind."""
_SHARED_PACKAGES = ("torch", "transformers", "evalscope", "safetensors")


@dataclass(frozen=True)
class EngineKind:
    """How engines of one kind are started.

    ``arguments(settings, generation, checkpoint, device, own)`` are the engine's arguments for a
    run file on ``device`` (``cpu``, ``0`` or ``0,1``). ``checkpoint`` is the folder that the
    engine starts with, and ``own`` has the arguments that this host sets (``--engine-arg``), as
    text. It raises `RunFileError` or `UsageError` for an argument that cannot be.

    ``backend(arguments, generation, checkpoint)`` starts the engine, on the thread that drives it.
    ``packages`` are the distributions whose versions are recorded with each evaluation.
    """

    arguments: Callable[
        [EngineSection, GenerationSection, Path, str, Mapping[str, str]], dict[str, Any]
    ]
    backend: Callable[[dict[str, Any], GenerationSection, Path], EngineBackend]
    packages: tuple[str, ...] = ()

    def versions(self) -> dict[str, str]:
        """Installed versions of all that an evaluation with this engine depends on."""
        return installed_versions((*self.packages, *_SHARED_PACKAGES))


def require_kind(name: str) -> None:
    """Raise `RunFileError` unless there is an engine of that name. Imports nothing."""
    if name not in KINDS:
        raise RunFileError(
            f"engine.kind: there is no engine {name!r}", f"one of {', '.join(KINDS)}"
        )


def engine_kind(name: str) -> EngineKind:
    """The kind of that name. Raises `RunFileError` for an unknown one."""
    require_kind(name)
    kind: EngineKind = importlib.import_module(KINDS[name]).ENGINE
    return kind


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of those of ``packages`` that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
