"""A Hugging Face checkpoint folder, read without torch: `config.json` and safetensors headers.

Only headers are read, so a folder of any size takes milliseconds. Pickle files are never opened.
Whether two checkpoints can be merged is decided in `apbmm_common.checkpoint.compatibility`.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apbmm_common.errors import SourceError, unreadable

AGAIN = "download it again"  # said only where a length proves that a file is not complete
MIXED = "the index and the weight files do not belong together"
NOT_SAFETENSORS = "the safetensors library refuses such a file, too"
LAYOUT = "a source is a folder in Hugging Face layout"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
METADATA_KEY = "__metadata__"
MAX_HEADER = 100_000_000  # the limit of the safetensors library itself
_SHOWN_BYTES = 60

ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
DTYPE_CODES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""Dtypes that a merge may be stored in, by torch's names, as safetensors calls them."""
FLOAT_DTYPES = frozenset({"F16", "BF16", "F32", "F64"})

_ADAPTER = (
    "an adapter is no checkpoint: name it with its base, as { path = BASE, adapter = FOLDER }"
)
_GGUF = "GGUF is not read: download the checkpoint that it was made from"
# Patterns of files in place of the weights that are read, and hints. The first one found is named.
_OTHER_FORMATS = (
    ("adapter_model.*", _ADAPTER),
    (
        "consolidated*.safetensors",
        "that is Mistral's own layout: download the one that transformers reads",
    ),
    ("model-*-of-*.safetensors", "download model.safetensors.index.json, too"),
    ("*.safetensors", "save it anew: transformers' save_pretrained gives files their names"),
    ("*.gguf", _GGUF),
)
# The same for a folder without a config.
_OTHER_FOLDERS = (
    ("adapter_config.json", _ADAPTER),
    ("*.gguf", _GGUF),
    ("snapshots/*/config.json", "name the folder below snapshots, which holds the model's files"),
    ("*/config.json", "name the folder that holds the model's files"),
)
_PICKLES = ("*.bin", "*.pt", "*.pth")

LFS_HINT = "git lfs pull, in the folder that was cloned, brings the file itself"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""What a Git LFS pointer begins with."""
_PREDICTION_KEYS = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers")
_PREDICTION = re.compile(r"(?:(?:model|language_model)\.)*mtp(?:_\w+)?\.")

# Every component before the layer stack must be one of these, so that the layers of a vision or
# audio tower (`vision_tower.encoder.layers.0`) are not taken for the language model's.
_LAYER = re.compile(
    r"(?P<wrappers>(?:(?:model|language_model|text_model|transformer|decoder|gpt_neox|backbone)\.)*)"
    r"(?:layers|h|blocks)\.(?P<index>[0-9]+)\."
)
# Where the language model of a multimodal one is, and its output head, which may be beside it.
_LANGUAGE_MODEL = re.compile(r"(?:\w+\.)*?(?:language_model|text_model)\.")
_OUTER_HEAD = re.compile(r"(?:lm_head|embed_out|output)\.")
_TOWER_CONFIG = re.compile(r"(?:vision|visual|image|audio|speech|video)\w*_config")


@dataclass(frozen=True)
class TensorHeader:
    """Where one tensor lies: ``length`` bytes at ``offset`` (absolute) of ``file``."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    length: int

    @property
    def is_float(self) -> bool:
        """Whether the tensor can be interpolated (8-bit floats come with scales: they cannot)."""
        return self.dtype in FLOAT_DTYPES


@dataclass(frozen=True)
class Checkpoint:
    """A folder's configuration and tensors, the tensors in the order they have in their files.

    ``adapter``: the folder of a LoRA adapter whose changes are to be added to the tensors that
    ``changed`` names, as a source of `lora_adapters.read_adapted` has it.
    """

    path: Path
    config: dict[str, Any]
    tensors: dict[str, TensorHeader]
    adapter: Path | None = None
    changed: frozenset[str] = frozenset()

    @property
    def files(self) -> tuple[Path, ...]:
        """The weight files, in the order of their names."""
        return tuple(sorted({tensor.file for tensor in self.tensors.values()}))

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(tensor.length for tensor in self.tensors.values())


def layer_of(tensor_name: str) -> int | None:
    """The Transformer layer a tensor belongs to, or None if it belongs to none.

    The rule: wrappers (`model.`, `language_model.`, `transformer.`, ...), then the stack
    (`layers`, `h` or `blocks`), then the number between two dots. The whole number is compared, so
    layer 1 is not layer 10, and experts within a layer (`model.layers.3.mlp.experts.11.`) stay
    with their layer.
    """
    match = _LAYER.match(tensor_name)
    return int(match["index"]) if match else None


def flat_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the keys of the text model's config within it, which count first."""
    return {**config, **text_config(config)}


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a config (multimodal folders nest it in ``text_config``)."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config


def is_multimodal(config: Mapping[str, Any]) -> bool:
    """Whether a config is of a language model with towers for images, video or sound."""
    return any(
        _TOWER_CONFIG.fullmatch(key) is not None and isinstance(value, dict)
        for key, value in config.items()
    )


def tower_tensors(checkpoint: Checkpoint) -> frozenset[str]:
    """Tensors of a multimodal model beside its language model: towers, and what projects them.

    Text alone does not reach them. `prediction_tensors` are not among them.
    """
    if not is_multimodal(checkpoint.config):
        return frozenset()
    match = next(filter(None, map(_LAYER.match, checkpoint.tensors)), None)
    wrappers = match["wrappers"] if match else ""
    inner = _LANGUAGE_MODEL.match(wrappers)
    root = inner[0] if inner else wrappers
    others = prediction_tensors(checkpoint)
    return frozenset(
        name
        for name in checkpoint.tensors
        if not name.startswith(root) and not _OUTER_HEAD.match(name) and name not in others
    )


def layer_count(checkpoint: Checkpoint) -> int:
    """The number L of layers found in the tensor names, `prediction_tensors` left out.

    Raises `SourceError` when there are none, when one is missing in 0..L-1, or when the config's
    ``num_hidden_layers`` says otherwise.
    """
    extra = prediction_tensors(checkpoint)
    names = (name for name in checkpoint.tensors if name not in extra)
    found = {layer for name in names if (layer := layer_of(name)) is not None}
    if not found:
        raise SourceError(
            f"{checkpoint.path}: no tensor name holds a layer number, as "
            f"model.layers.0.self_attn.q_proj.weight does; the first is {min(checkpoint.tensors)}",
            "save it anew with transformers' save_pretrained, without what wraps the model",
        )
    missing = sorted(set(range(max(found) + 1)) - found)
    if missing:
        raise SourceError(f"{checkpoint.path}: no tensors of layer {missing[0]}", MIXED)
    stated = _stated_layers(checkpoint)
    if not isinstance(stated, int | None):
        what = f"{checkpoint.path}: config.json says {stated!r} layers, which is not a whole number"
        raise SourceError(what)
    if stated is not None and stated != len(found):
        raise SourceError(
            f"{checkpoint.path}: config.json says {stated!r} layers, the tensors are of "
            f"{len(found)}",
            "config.json or a weight file belongs to another model, or config.json lacks the "
            f"number of layers for multi-token prediction ({_PREDICTION_KEYS[0]})",
        )
    return len(found)


def prediction_tensors(checkpoint: Checkpoint) -> frozenset[str]:
    """Tensors of the extra layers for multi-token prediction, which generation does not need.

    They are named ``mtp``, or stored as the layers that follow the last one, as many as the config
    says (GLM, DeepSeek, MiMo). Transformers ignores them, and so does vLLM unless it is asked to
    draft with them.
    """
    config, layers = text_config(checkpoint.config), _stated_layers(checkpoint)
    extra = next((config[key] for key in _PREDICTION_KEYS if key in config), None)
    numbers = range(0)
    if isinstance(layers, int) and isinstance(extra, int):
        numbers = range(layers, layers + extra)
    return frozenset(
        name for name in checkpoint.tensors if _PREDICTION.match(name) or layer_of(name) in numbers
    )


def _stated_layers(checkpoint: Checkpoint) -> Any:
    config = text_config(checkpoint.config)
    return next((config[k] for k in ("num_hidden_layers", "n_layer") if k in config), None)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read config and tensor headers of a folder.

    Raises `SourceError` naming the file, and the tensor where there is one, for anything missing,
    damaged, truncated or inconsistent.
    """
    try:
        if not path.is_dir():
            raise _no_folder(path)
        if not (path / "config.json").exists():
            raise _no_config(path)
    except OSError as error:  # a folder above it may not be entered
        raise unreadable(path, error) from error
    config = read_object(path / "config.json")
    tensors = _read_weights(path)
    if not tensors:
        raise SourceError(f"{path}: its weight files hold no tensors", LAYOUT)
    return Checkpoint(path, config, tensors)


def _read_weights(path: Path) -> dict[str, TensorHeader]:
    """The tensors of a folder, from its one weight file or from those that its index names."""
    single, index = path / SINGLE_FILE, path / INDEX_FILE
    for file in (single, index):
        if is_broken_link(file):
            raise broken_link(file)
    if not index.exists():
        if not single.exists():
            raise _no_weights(path, f"neither {SINGLE_FILE} nor {INDEX_FILE}")
        others = sorted(file.name for file in path.glob("*.safetensors") if file != single)
        if others:
            raise SourceError(
                f"{path}: {others[0]} lies beside {SINGLE_FILE}, and there is no index: vLLM reads "
                "every .safetensors file of such a folder, transformers that one alone",
                "move what is not meant to another folder",
            )
        return read_headers(single)
    weight_map = _weight_map(index)
    if single.exists() and set(weight_map.values()) != {SINGLE_FILE}:
        raise SourceError(
            f"{path}: holds both {SINGLE_FILE} and {INDEX_FILE}, so its weights are ambiguous",
            "remove the one that is not meant",
        )
    return _read_shards(path, weight_map)


def read_headers(file: Path) -> dict[str, TensorHeader]:
    """The tensors of one safetensors file, in file order.

    The header is held to the format's own rules: every tensor's bytes are as many as its shape and
    dtype need, and all tensors together fill the file with neither hole nor overlap.
    """
    header, data_start, size = _read_header(file)
    tensors = [
        _tensor(file, name, entry, data_start)
        for name, entry in header.items()
        if name != METADATA_KEY
    ]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.length))
    end = data_start
    for tensor in tensors:
        if tensor.offset < end:
            raise _damaged(file, f"tensor {tensor.name} overlaps the one before it")
        if tensor.offset > end:
            raise _damaged(file, f"unused bytes before tensor {tensor.name}")
        end = tensor.offset + tensor.length
        if end > size:
            raise SourceError(
                f"{file}: truncated: tensor {tensor.name} ends at byte {end}, the file at {size}",
                AGAIN,
            )
    if end != size:
        raise SourceError(f"{file}: damaged: {size - end} bytes after the last tensor", AGAIN)
    return {tensor.name: tensor for tensor in tensors}


def _read_header(file: Path) -> tuple[dict[str, Any], int, int]:
    """The header's JSON object, where the data begin, and the file's size (bytes)."""
    try:
        with file.open("rb") as stream:
            size = file.stat().st_size
            prefix = stream.read(8)
            if len(prefix) < 8:
                raise SourceError(f"{file}: damaged: shorter than a safetensors header", AGAIN)
            (length,) = struct.unpack("<Q", prefix)
            if length > MAX_HEADER or 8 + length > size:
                raise _no_header(file, prefix + stream.read(_SHOWN_BYTES), length, size)
            text = stream.read(length)
    except OSError as error:
        raise unreadable(file, error) from error
    try:
        header = json.loads(text, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise _damaged(file, f"its header is not valid JSON ({error})") from error
    if not isinstance(header, dict):
        raise _damaged(file, "its header is not a JSON object")
    return header, 8 + length, size


def _no_header(file: Path, start: bytes, length: int, size: int) -> SourceError:
    """The error for a file that does not begin as a safetensors file; ``start`` are its bytes."""
    if start.startswith(LFS_POINTER):
        return lfs_pointer(file)
    if start.isascii() and start.decode().replace("\n", " ").isprintable():
        shown = start.decode().split("\n")[0]
        return SourceError(f"{file}: holds text, not weights: it begins with {shown!r}")
    what = f"{file}: damaged: a header of {length} bytes in a file of {size}"
    return SourceError(what, AGAIN if length <= MAX_HEADER else NOT_SAFETENSORS)


def is_broken_link(file: Path) -> bool:
    """Whether a link lies there, and not the file that it points to."""
    return file.is_symlink() and not file.exists()


def broken_link(file: Path) -> SourceError:
    """The error for a link whose file is not there, as in a cache that was cleaned or moved."""
    return SourceError(
        f"{file}: a link to {file.readlink()}, which is not there",
        "download that file: only the link is here",
    )


def lfs_pointer(file: Path) -> SourceError:
    """The error for a Git LFS pointer in place of a file."""
    return SourceError(f"{file}: a Git LFS pointer, in place of the file itself", LFS_HINT)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice} appears twice")
    return result


def _tensor(file: Path, name: str, entry: Any, data_start: int) -> TensorHeader:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise _damaged(file, f"tensor {name} has no dtype, shape and data_offsets") from None
    if dtype not in ITEM_BYTES:
        raise SourceError(
            f"{file}: tensor {name} has the unknown dtype {dtype}",
            f"save it anew with one of {', '.join(sorted(FLOAT_DTYPES))}",
        )
    numbers = (*shape, begin, end)
    if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers):
        raise _damaged(file, f"tensor {name}: shape and offsets must be whole numbers >= 0")
    needed = math.prod(shape) * ITEM_BYTES[dtype]
    if end - begin != needed:
        raise _damaged(
            file, f"tensor {name} has {end - begin} bytes, its shape and dtype need {needed}"
        )
    return TensorHeader(name, dtype, shape, file, data_start + begin, needed)


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SourceError(f"{index}: has no weight_map", LAYOUT)
    for name, file in weight_map.items():
        # A name with a separator could point outside the folder.
        if not isinstance(file, str) or Path(file).name != file or "\0" in file:
            what = f"{index}: tensor {name} is said to be in {file!r}, not a file name"
            raise SourceError(what, "an index names files of its own folder")
        if not file.endswith(".safetensors"):
            raise SourceError(
                f"{index}: tensor {name} is in {file}; only safetensors are read",
                "download the checkpoint's safetensors, or save it anew with transformers",
            )
    return weight_map


def _read_shards(path: Path, weight_map: dict[str, str]) -> dict[str, TensorHeader]:
    """The tensors of all files that an index names.

    Loaders read all tensors of these files, whether the index names them or not. A tensor in two
    files is refused: which of the two a loader takes depends on its order of reading.
    """
    tensors: dict[str, TensorHeader] = {}
    for file in sorted(set(weight_map.values())):
        if is_broken_link(path / file):
            raise broken_link(path / file)
        if not (path / file).exists():
            placed = [name for name, where in weight_map.items() if where == file]
            more = f" and {len(placed) - 1} more tensors" if len(placed) > 1 else ""
            raise SourceError(
                f"{path / file}: no such file, and {path / INDEX_FILE} places {placed[0]}{more} "
                "there",
                "download it, or save the checkpoint anew if the file is of another tool",
            )
        for name, tensor in read_headers(path / file).items():
            if name in tensors:
                raise SourceError(
                    f"{path}: tensor {name} is in {tensors[name].file.name} and in {file} "
                    f"(the index places it in {weight_map.get(name, 'neither')}), and loaders "
                    "disagree about which counts",
                    "save the checkpoint anew with the tensor that is meant, in one file",
                )
            tensors[name] = tensor
    for name, file in weight_map.items():
        if name not in tensors or tensors[name].file.name != file:
            instead = f"; it is in {tensors[name].file.name}" if name in tensors else ""
            what = f"{path / file}: lacks tensor {name}, which the index places there{instead}"
            raise SourceError(what, MIXED)
    return tensors


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file, which may begin with a byte-order mark.

    Raises `SourceError` where there is none.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        if is_broken_link(file):
            raise broken_link(file) from None
        raise SourceError(f"{file}: no such file", LAYOUT) from None
    except OSError as error:
        raise unreadable(file, error) from error
    if data.startswith(LFS_POINTER):
        raise lfs_pointer(file)
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        what = f"{file}: not UTF-8 text (byte {error.start})"
        raise SourceError(what, "save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{file}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise SourceError(f"{file}: not a JSON object")
    return value


def _damaged(file: Path, what: str) -> SourceError:
    return SourceError(f"{file}: damaged: {what}", NOT_SAFETENSORS)


def _no_folder(path: Path) -> SourceError:
    """The error for a path that is no folder."""
    if is_broken_link(path):
        return broken_link(path)
    if not path.exists():
        return SourceError(f"{path}: no such folder", f"{LAYOUT}, and nothing is downloaded")
    hint = _GGUF if path.suffix == ".gguf" else f"{LAYOUT}: name the folder that the file is in"
    return SourceError(f"{path}: is not a folder", hint)


def _no_config(folder: Path) -> SourceError:
    """The error for a folder without config.json. Nothing is opened."""
    file = folder / "config.json"
    if is_broken_link(file):
        return broken_link(file)
    for pattern, hint in _OTHER_FOLDERS:
        found = min(folder.glob(pattern), default=None)
        if found is not None:
            what = f"{folder}: holds no config.json, but {found.relative_to(folder)}"
            return SourceError(what, hint)
    return SourceError(f"{file}: no such file", LAYOUT)


def _no_weights(folder: Path, wanted: str) -> SourceError:
    """The error for a folder without the ``wanted`` files. Nothing is opened."""
    message = f"{folder}: holds {wanted}"
    for pattern, hint in _OTHER_FORMATS:
        found = min((file.name for file in folder.glob(pattern)), default=None)
        if found is not None:
            return SourceError(f"{message}, but {found}", hint)
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles:
        return SourceError(
            f"{folder}: holds only pickle weights ({pickles[0]}), which can run code when opened",
            "convert them: save_pretrained writes safetensors",
        )
    return SourceError(message, "download the weights, too")
