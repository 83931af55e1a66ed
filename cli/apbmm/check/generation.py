"""What `apbmm check` says of the sources' generation configs beside the run's own settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from apbmm_common.checkpoint.headers import Checkpoint, flat_config, read_object
from apbmm_common.checkpoint.roles import BASE_ROLE
from apbmm_common.checkpoint.settings_files import GENERATION_FILE
from apbmm_common.errors import SourceError
from apbmm_common.run_file import GenerationSection

_DRAWN = ("temperature", "top_p", "top_k", "min_p")
_UNUSED = {"min_p": 0, "repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0}
"""Settings of a generation config that no run uses, with the values that say nothing."""


def generation_notes(
    checkpoints: Mapping[str, Checkpoint], generation: GenerationSection
) -> Iterator[str]:
    """Recommended settings that the run decodes without, and ends of answers that it does not know.

    A generation config that cannot be read is a fault of its own.
    """
    configs = {}
    for role, checkpoint in checkpoints.items():
        with suppress(SourceError):
            configs[role] = _generation_config(checkpoint.path)
    template = generation.template_from
    if template not in configs:
        return
    recommended = dict(_recommended(configs[template], generation))
    if recommended:
        said = ", ".join(f"{key} {value}" for key, value in recommended.items())
        yield (
            f"generation: {GENERATION_FILE} of {template} says {said}, and the run decodes at "
            f"temperature {generation.temperature:g} without penalties: answers follow [generation]"
        )
    ends = {
        role: _ids(
            config.get("eos_token_id", flat_config(checkpoints[role].config).get("eos_token_id"))
        )
        for role, config in configs.items()
        if role != BASE_ROLE
    }
    for role, ids in ends.items():
        unknown = sorted(ids - ends[template])
        if unknown and ends[template]:
            yield (
                f"generation: {role} also ends its answers with the tokens {unknown}, but only "
                f"those of {template} ({sorted(ends[template])}) end an answer: answers of "
                f"{role} may go on to the limit"
            )


def unused_settings(folder: Path) -> dict[str, Any]:
    """Penalties and the like that the generation config of a checkpoint asks for, and no run uses.

    None for a folder without a generation config that can be read.
    """
    config: Mapping[str, Any] = {}
    with suppress(SourceError):
        config = _generation_config(folder)
    return {
        key: config[key] for key, none in _UNUSED.items() if config.get(key) not in (None, none)
    }


def _generation_config(folder: Path) -> Mapping[str, Any]:
    """Empty for a folder without one. Raises `SourceError` for one that cannot be read."""
    file = folder / GENERATION_FILE
    return read_object(file) if file.exists() else {}


def _recommended(
    config: Mapping[str, Any], generation: GenerationSection
) -> Iterator[tuple[str, Any]]:
    """The settings of a generation config that evaluations do not follow."""
    own = {
        **_UNUSED,
        **{key: getattr(generation, key) for key in ("temperature", "top_p", "top_k")},
    }
    for key, value in own.items():
        if key in _DRAWN and not config.get("do_sample"):
            continue
        if key in _DRAWN and key != "temperature" and generation.temperature == 0:
            continue
        if config.get(key) not in (None, value):
            yield key, config[key]


def _ids(value: Any) -> set[int]:
    """Token ids of a config: one, a list, or none."""
    found = value if isinstance(value, list) else [value]
    return {token for token in found if isinstance(token, int)}
