"""LoRA adapters in the format of PEFT, read without torch: what they change in their base.

An adapter's folder has ``adapter_config.json`` and ``adapter_model.safetensors``. With the matrices
A (r rows) and B (r columns) of a module, and the scaling s, the module's weight becomes

    W + s B A,   s = lora_alpha / r,   or lora_alpha / sqrt(r) where use_rslora is set

(Hu et al. 2021, arXiv 2106.09685; Kalajdzievski 2023, arXiv 2312.03732). Of an embedding, and where
``fan_in_fan_out`` is set, it is the transpose of B A. Modules that are saved whole
(``modules_to_save``) and biases take the place of the base's.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apbmm_common.checkpoint.headers import (
    DTYPE_CODES,
    Checkpoint,
    TensorHeader,
    read_checkpoint,
    read_headers,
    read_object,
)
from apbmm_common.checkpoint.tensor_groups import heads, outside_group, stated_tie
from apbmm_common.errors import SourceError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

_BY_HAND = "merge it into its base with peft's merge_and_unload, and name the folder of that"
_PREFIX = "base_model.model."
_KEY = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B)(\.default)?(\.weight)?"
)
_HALVES = {"lora_A": 0, "lora_embedding_A": 0, "lora_B": 1, "lora_embedding_B": 1}
# Settings that make another computation, or another base, of what is stored.
_UNKNOWN_KINDS = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "alora_invocation_tokens": "an activated LoRA",
    "target_parameters": "LoRA on parameters (target_parameters)",
    "trainable_token_indices": "training of single tokens (trainable_token_indices)",
    "layer_replication": "replicated layers (layer_replication)",
    "lora_bias": "LoRA with biases of its own (lora_bias)",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
}
# Ways to begin that change the base's weights, which an adapter does not hold.
_CHANGES_BASE = re.compile(r"pissa.*|olora|loftq|corda|lora_ga", re.IGNORECASE)


@dataclass(frozen=True)
class LowRank:
    """The change ``scale * B A`` of a tensor, transposed if ``transposed``."""

    down: TensorHeader
    up: TensorHeader
    scale: float
    transposed: bool


@dataclass(frozen=True)
class LoraAdapter:
    """An adapter that fits its base: by the name of the base's tensor, its change or what replaces
    it."""

    path: Path
    low_rank: dict[str, LowRank]
    replaced: dict[str, TensorHeader]

    @property
    def changed(self) -> frozenset[str]:
        """The names of the base's tensors that it changes."""
        return frozenset((*self.low_rank, *self.replaced))


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model."""
    return (folder / CONFIG_FILE).is_file() and not (folder / "config.json").exists()


def base_of(adapter: Path) -> str:
    """What an adapter's config calls its base: a folder or an id on the Hub; "" without one."""
    return str(read_object(adapter / CONFIG_FILE).get("base_model_name_or_path") or "")


def read_adapted(folder: Path, adapter: Path | None) -> Checkpoint:
    """The checkpoint in ``folder``, marked with what an adapter changes in it.

    Tensors are the base's. Raises `SourceError` as `read_checkpoint` and `read_adapter` do.
    """
    base = read_checkpoint(folder)
    if adapter is None:
        return base
    return replace(base, adapter=adapter, changed=read_adapter(adapter, base).changed)


def read_adapter(path: Path, base: Checkpoint) -> LoraAdapter:
    """Read the headers of an adapter on ``base``.

    Raises `SourceError` that names what is missing, what kind of adapter is not understood, and
    the modules that the base does not have or has with another shape.
    """
    config = _config(path)
    halves, embeddings, replaced = _sorted(path, _tensors(path))
    low_rank = {}
    for name, (down, up) in halves.items():
        if down is None or up is None:
            missing = "A" if down is None else "B"
            raise SourceError(f"{path / WEIGHTS_FILE}: {name} has no lora_{missing}")
        low_rank[name] = _low_rank(path, config, name, down, up, embedding=name in embeddings)
    found = LoraAdapter(path, low_rank, replaced)
    if faults := list(_faults(found, base)):
        raise SourceError(f"{path}: does not fit {base.path}: {'; '.join(faults)}", _hint(base))
    return found


_Halves = dict[str, list[TensorHeader | None]]


def _sorted(
    path: Path, tensors: Mapping[str, TensorHeader]
) -> tuple[_Halves, set[str], dict[str, TensorHeader]]:
    """The matrices A and B by the names of the tensors that they change, which of these are
    embeddings, and the tensors that replace the base's."""
    halves: _Halves = defaultdict(lambda: [None, None])
    embeddings: set[str] = set()
    replaced: dict[str, TensorHeader] = {}
    for key, tensor in tensors.items():
        if tensor.dtype not in DTYPE_CODES.values():
            raise SourceError(f"{tensor.file}: {key} is of dtype {tensor.dtype}", _BY_HAND)
        if "lora_magnitude_vector" in key:
            raise _unknown(path, _UNKNOWN_KINDS["use_dora"])
        match = _KEY.fullmatch(key.removeprefix(_PREFIX))
        if match is not None:
            name = f"{match['module']}.weight"
            halves[name][_HALVES[match["part"]]] = tensor
            if "embedding" in match["part"]:
                embeddings.add(name)
        elif "lora_" in key:
            raise SourceError(f"{tensor.file}: {key} is no part of a LoRA known here", _BY_HAND)
        else:
            replaced[_whole(key.removeprefix(_PREFIX))] = tensor
    if not halves and not replaced:
        raise SourceError(f"{path / WEIGHTS_FILE}: holds no tensors of a LoRA")
    return halves, embeddings, replaced


def _config(path: Path) -> dict[str, Any]:
    """The adapter's config. Raises `SourceError` for a kind of adapter that is not understood."""
    if not path.is_dir():
        raise SourceError(f"{path}: no such folder", f"an adapter is a folder with {CONFIG_FILE}")
    if not (path / CONFIG_FILE).is_file():
        raise SourceError(f"{path}: holds no {CONFIG_FILE}", "an adapter is a folder of PEFT's")
    config = read_object(path / CONFIG_FILE)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise _unknown(path, f"peft_type {kind!r}")
    for key, words in _UNKNOWN_KINDS.items():
        if config.get(key):
            raise _unknown(path, words)
    begun = config.get("init_lora_weights")
    if isinstance(begun, str) and _CHANGES_BASE.fullmatch(begun):
        raise SourceError(
            f"{path}: its training began with {begun}, which changes the weights of the base, and "
            "the adapter does not hold these",
            "save it with peft's path_initial_model_for_weight_conversion",
        )
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise SourceError(f"{path / CONFIG_FILE}: alpha_pattern is {patterns!r}, not a table")
    alphas = {"lora_alpha": config.get("lora_alpha")}
    alphas |= {f"alpha_pattern of {module}": alpha for module, alpha in patterns.items()}
    for key, alpha in alphas.items():
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not -1e9 < alpha < 1e9:
            raise SourceError(f"{path / CONFIG_FILE}: {key} is {alpha!r}, not a number")
    return config


def _unknown(path: Path, kind: str) -> SourceError:
    return SourceError(f"{path}: {kind} is not understood: only plain LoRA is", _BY_HAND)


def _tensors(path: Path) -> dict[str, TensorHeader]:
    file = path / WEIGHTS_FILE
    if not file.exists():
        pickled = (path / "adapter_model.bin").exists()
        raise SourceError(
            f"{path}: holds no {WEIGHTS_FILE}" + (", but adapter_model.bin" if pickled else ""),
            "save it with safe_serialization=True: pickled weights can run code when opened"
            if pickled
            else "download the adapter's weights, too",
        )
    return read_headers(file)


def _whole(key: str) -> str:
    """The base's name of a tensor that an adapter holds whole."""
    for wrapper in (".base_layer.", ".modules_to_save.default.", ".modules_to_save."):
        key = key.replace(wrapper, ".")
    return key


def _low_rank(
    path: Path,
    config: Mapping[str, Any],
    name: str,
    down: TensorHeader,
    up: TensorHeader,
    *,
    embedding: bool,
) -> LowRank:
    fits = len(down.shape) == len(up.shape) == 2 and 0 < down.shape[0] == up.shape[1]
    if not fits:
        raise SourceError(
            f"{path / WEIGHTS_FILE}: {name} has matrices {list(down.shape)} and {list(up.shape)}",
            _BY_HAND,
        )
    module = name.removesuffix(".weight")
    alpha = _of_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
    rank = down.shape[0]
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return LowRank(down, up, scale, transposed=embedding or bool(config.get("fan_in_fan_out")))


def _of_pattern(patterns: Any, module: str, default: float) -> float:
    """The value of the first of PEFT's patterns that ends a module's name, else the default."""
    for pattern, value in (patterns or {}).items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return float(value)
        except re.error:
            continue
    return default


def _faults(adapter: LoraAdapter, base: Checkpoint) -> Iterator[str]:
    for name, change in adapter.low_rank.items():
        shape = (change.up.shape[0], change.down.shape[1])
        yield from _shape_faults(name, shape[::-1] if change.transposed else shape, base)
    for name, tensor in adapter.replaced.items():
        yield from _shape_faults(name, tensor.shape, base)
    if _is_tied(base):
        tied = [name for name in adapter.changed if outside_group(name) in ("embeddings", "head")]
        for name in sorted(tied):
            yield f"it changes {name}, and the base ties its head to its embeddings"


def _shape_faults(name: str, shape: tuple[int, ...], base: Checkpoint) -> Iterator[str]:
    own = base.tensors.get(name)
    if own is None:
        yield f"the base has no tensor {name}"
    elif own.shape != shape:
        yield f"{name} is {list(own.shape)} in the base, {list(shape)} by the adapter"
    elif not own.is_float:
        yield f"{name} is of dtype {own.dtype} in the base"


def _is_tied(base: Checkpoint) -> bool:
    """Whether the output head is the embeddings, as the config says or as there is no other."""
    stated = stated_tie(base.config)
    return not heads(base) if stated is None else stated


def _hint(base: Checkpoint) -> str:
    return _BY_HAND if _is_tied(base) else "name the model that it was trained on"
