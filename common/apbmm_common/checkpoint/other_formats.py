"""What a folder holds in place of the weights that are read, and what to do about it."""

from __future__ import annotations

from pathlib import Path

from apbmm_common.errors import SourceError

# The first that is found is named. A pattern of other layouts, and a hint.
_OTHERS = (
    ("adapter_model.*", "an adapter is no checkpoint: merge it into its base, as peft does"),
    (
        "consolidated*.safetensors",
        "that is Mistral's own layout: download the one that transformers reads",
    ),
    ("model-*-of-*.safetensors", "download model.safetensors.index.json, too"),
    ("*.safetensors", "save it anew: transformers' save_pretrained gives files their names"),
    ("*.gguf", "GGUF is not read: download the checkpoint that it was made from"),
)
_PICKLES = ("*.bin", "*.pt", "*.pth")


def no_weights(folder: Path, wanted: str) -> SourceError:
    """The error for a folder without the ``wanted`` files. Nothing is opened."""
    message = f"{folder}: holds {wanted}"
    for pattern, hint in _OTHERS:
        found = min((file.name for file in folder.glob(pattern)), default=None)
        if found is not None:
            return SourceError(f"{message}, but {found}", hint)
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles:
        return SourceError(
            f"{folder}: holds only pickle weights ({pickles[0]}), which can run code when opened",
            "convert them: save_pretrained writes safetensors",
        )
    return SourceError(message, "download the weights: files of Git LFS are apart from the others")
