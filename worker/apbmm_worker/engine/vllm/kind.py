"""vLLM as a kind of engine: see `engine.kinds`."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, get_args

from apbmm_common.errors import UsageError
from apbmm_common.run_file import EngineSection, GenerationSection
from apbmm_worker.engine.kinds import EngineKind
from apbmm_worker.engine.vllm.arguments import PACKAGES, engine_arguments, require_known
from apbmm_worker.engine.vllm.backend import VllmBackend
from apbmm_worker.engine_options import meant_instead
from apbmm_worker.environment import CPU


def arguments(
    settings: EngineSection,
    generation: GenerationSection,
    checkpoint: Path,
    device: str,
    own: Mapping[str, str],
) -> dict[str, Any]:
    """vLLM's arguments, checked against the installed vLLM; see `EngineKind`.

    Raises `RunFileError` or `UsageError` for an argument that vLLM does not have, and for batch
    invariance where it has none.
    """
    # vLLM takes seconds to import, so it is asked only about arguments that somebody has set.
    if settings.arguments:
        from apbmm_worker.engine.vllm.features import argument_types

        require_known(settings.arguments, argument_types())
    if settings.batch_invariant:
        _require_batch_invariance(device)
    typed = typed_arguments(own) if own else {}
    return engine_arguments(settings, generation, checkpoint, device) | typed


def _require_batch_invariance(device: str) -> None:
    """Raise `UsageError` where vLLM's answers cannot be made independent of their batch."""
    from apbmm_worker.engine.vllm.features import has_batch_invariance

    if device == CPU:
        raise UsageError(
            "vLLM has no batch invariance on a CPU",
            "take engine.batch_invariant out of the run file, or use workers with GPUs",
        )
    if not has_batch_invariance():
        raise UsageError(
            "the installed vLLM has no batch invariance",
            "take engine.batch_invariant out of the run file, or update vLLM",
        )


def typed_arguments(texts: Mapping[str, str]) -> dict[str, Any]:
    """Values of vLLM's arguments from their texts, as vLLM's own command line reads them.

    Switches are ``true`` or ``false``, for which that has two options each. Members of enumerations
    are checked here, because vLLM takes any text until it starts. Raises `UsageError` for a name
    that vLLM does not have, or a value that it does not take.
    """
    from vllm import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from apbmm_worker.engine.vllm.features import argument_types

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser(exit_on_error=False))
    types = argument_types()
    known = {name: types[name] for name in vars(parser.parse_args([])) if name in types}
    typed = {}
    for name, text in texts.items():
        if name not in known:
            raise UsageError(
                f"--engine-arg {name}: the installed vLLM has no such engine argument",
                meant_instead(name, known),
            )
        if choices := _choices(known[name]):
            if text.lower() not in choices:
                raise UsageError(
                    f"--engine-arg {name}: {text!r} is not one of {', '.join(choices)}",
                    meant_instead(text, choices, "these are all"),
                )
            typed[name] = choices[text.lower()]
            continue
        try:
            values = parser.parse_args([f"--{name.replace('_', '-')}={text}"])
        except (ArgumentError, ValueError) as error:
            said = " ".join(str(error).split())
            raise UsageError(
                f"--engine-arg {name}: {said}", "vllm serve --help says what it takes"
            ) from error
        typed[name] = getattr(values, name)
    return typed


def _choices(wanted: Any) -> dict[str, Any]:
    """The values of a switch or an enumeration by their texts; empty for any other type."""
    kinds = (wanted, *get_args(wanted))
    if bool in kinds:
        return {"true": True, "false": False}
    if str in kinds:
        return {}
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, Enum):
            # vLLM takes numbers of an enumeration by value, all others by name.
            if issubclass(kind, int):
                return {text: m.value for m in kind for text in (str(m.value), m.name.lower())}
            return {name.lower(): name for name in kind.__members__}
    return {}


ENGINE = EngineKind(arguments, VllmBackend, PACKAGES)
