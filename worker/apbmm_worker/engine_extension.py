"""What runs inside vLLM's workers: finishing a hot-load, and checking that it took.

vLLM mixes this class into its worker class (``worker_extension_cls``) and calls the methods by
name through ``collective_rpc``, in the engine's process. Arguments and results are plain values,
because they may cross a process border.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open as _safe_open

safe_open: Any = _safe_open  # untyped
_PROBES = 4
_TIED_HEAD = {"lm_head.weight": "model.embed_tokens.weight"}


class HotLoadExtension:
    """Mixed into vLLM's worker: ``self.model_runner`` is the worker's own."""

    model_runner: Any

    def apbmm_end_with(self, client: int) -> None:
        """End this engine's processes when the evaluation child (process ``client``) ends.

        On a GPU the engine runs in processes of its own, which would outlive a child that is
        killed and go on holding the card. The child leads their process group.
        """
        if client in (os.getpid(), 0) or os.getpgrp() != client:
            return
        handle = os.pidfd_open(client)

        def watch() -> None:
            select.select([handle], [], [])
            os.killpg(client, signal.SIGKILL)

        threading.Thread(target=watch, name="apbmm-end-with", daemon=True).start()

    def apbmm_repack_head(self) -> int:
        """Pack again what vLLM packed from weights that it keeps; return how many modules.

        On a CPU a matrix product runs on a packed copy of its weight. ``reload_weights`` renews
        the copy of every module that it loads, but a tied lm_head is not loaded: it shares the
        embedding's weight and would go on computing with the packed copy of the old one. On a GPU
        nothing is packed and nothing is done here.
        """
        repacked = 0
        for module in self.model_runner.get_model().modules():
            weight = getattr(module, "weight", None)
            # The packed linear layers proper hold no weight any more (numel 0): they are loaded.
            if hasattr(module, "cpu_linear") and weight is not None and weight.numel() > 0:
                module.quant_method.process_weights_after_loading(module)
                repacked += 1
        return repacked

    def apbmm_verify(self, checkpoint: str) -> tuple[int, list[str]]:
        """Compare the live model with a checkpoint folder.

        Returns how many of its tensors were compared, and the names of those that differ. What
        the model holds as it was stored is compared bit for bit (after the cast to the engine's
        dtype). A packed matrix cannot be read back, so it is asked to multiply fixed random
        vectors, and the product is compared with the checkpoint's.
        """
        compared: set[str] = set()
        different: list[str] = []
        model = self.model_runner.get_model()
        with _Tensors(Path(checkpoint)) as tensors, torch.inference_mode():
            for module, name, parts in _parameters(model, tensors.names):
                expected = torch.cat([tensors.read(part) for part in parts])
                verdict = _agrees(module, name, expected)
                if verdict is None:
                    continue
                compared.update(parts)
                if not verdict:
                    different += parts
        return len(compared), sorted(set(different))


class _Tensors:
    """The tensors of a checkpoint folder by name, read on demand."""

    def __init__(self, folder: Path) -> None:
        self._files = [safe_open(file, "pt") for file in sorted(folder.glob("*.safetensors"))]
        self._file_of = {name: file for file in self._files for name in file.keys()}  # noqa: SIM118

    def __enter__(self) -> _Tensors:
        for file in self._files:
            file.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files:
            file.__exit__(*error)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._file_of)

    def read(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._file_of[name].get_tensor(name)
        return tensor


def _parameters(
    model: Any, names: frozenset[str]
) -> Iterator[tuple[torch.nn.Module, str, list[str]]]:
    """Each live parameter with the checkpoint tensors that it was stacked from.

    vLLM stacks q, k and v (and gate and up) into one matrix; the model class says which.
    """
    stacked: dict[str, list[str]] = getattr(model, "packed_modules_mapping", {})
    for path, module in model.named_modules():
        prefix, _, last = path.rpartition(".")
        prefix = f"{prefix}." if prefix else ""
        for name in ("weight", "bias"):
            if getattr(module, name, None) is None:
                continue
            parts = [f"{prefix}{part}.{name}" for part in stacked.get(last, [last])]
            if not names.issuperset(parts):
                parts = [_TIED_HEAD.get(part, part) for part in parts]
            if names.issuperset(parts):
                yield module, name, parts


def _agrees(module: Any, name: str, expected: torch.Tensor) -> bool | None:
    """Whether a live parameter holds ``expected``; None where it cannot be told.

    It cannot for what tensor parallelism has split over cards or quantisation has re-encoded.
    """
    live: torch.Tensor = getattr(module, name)
    packed = name == "weight" and hasattr(module, "cpu_linear")
    verdict: bool | None = None
    if live.numel() > 0:
        rows = live[: expected.shape[0]]  # the vocabulary is padded with rows of zeros
        if rows.shape == expected.shape and rows.is_floating_point():
            verdict = torch.equal(rows, expected.to(rows.device, rows.dtype))
    if packed and verdict is not False:
        verdict = _multiplies_like(module, expected)
    return verdict


def _multiplies_like(module: Any, expected: torch.Tensor) -> bool | None:
    """Whether a packed matrix gives the products of ``expected`` [out, in] with random vectors."""
    dtype = module.weight.dtype
    source = torch.Generator().manual_seed(0)
    vectors = torch.randn(_PROBES, expected.shape[1], generator=source).to(dtype)
    weight = expected.to(dtype).float()
    product = module.quant_method.apply(module, vectors, None)[:, : expected.shape[0]].float()
    if product.shape != (_PROBES, expected.shape[0]):
        return None
    wanted = vectors.float() @ weight.T
    # Rounding: of the sums (relative to the sum of magnitudes), and of the result in its dtype.
    magnitude = vectors.float().abs() @ weight.abs().T
    tolerance = 1e-5 * magnitude + 2 * torch.finfo(dtype).eps * wanted.abs()
    return bool(((product - wanted).abs() <= tolerance).all())
