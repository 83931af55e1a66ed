"""Code that runs inside vLLM's workers: it loads merges and verifies them.

vLLM mixes this class into its worker class (``worker_extension_cls``). ``collective_rpc`` calls its
methods by name, in the engine's process. Arguments and results are plain values, because they may
pass between processes. So an error of apbmm's own code is returned as a value too.
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

from apbmm_common.checkpoint.headers import read_checkpoint
from apbmm_common.errors import EvaluationError, SourceError
from apbmm_common.process.failpoints import reach
from apbmm_worker.engine.resident_sources import ResidentSources
from apbmm_worker.engine.vllm import features
from apbmm_worker.engine.vllm.live_weights import LiveWeights, Shapes, Tensors
from apbmm_worker.engine.vllm.weight_verification import WeightVerification
from apbmm_worker.merging.merge import Place, nowhere
from apbmm_worker.merging.planning.shards import UNSHARDED, Shards
from apbmm_worker.merging.stream import MergeStream

safe_open: Any = _safe_open  # untyped
Verdict = dict[str, Any]


class HotLoadExtension:
    """Methods that vLLM's worker gets; ``self.model_runner`` is the worker's."""

    model_runner: Any
    _apbmm_loads = 0
    _apbmm_sources: ResidentSources | None = None

    def apbmm_end_with(self, client: int) -> None:
        """End this engine's processes when the evaluation child (process ``client``) ends.

        On a GPU the engine runs in processes of its own. These would outlive a child that is
        killed, and keep the card's memory. The child leads their process group.
        """
        if client in (os.getpid(), 0) or os.getpgrp() != client:
            return
        handle = os.pidfd_open(client)

        def watch() -> None:
            select.select([handle], [], [])
            os.killpg(client, signal.SIGKILL)

        threading.Thread(target=watch, name="apbmm-end-with", daemon=True).start()

    def apbmm_load_merge(self, plans: bytes) -> Verdict:
        """Merge straight from the sources into the live model, tensor by tensor."""
        try:
            stream = MergeStream(plans)
            live = self._apbmm_live(stream.shapes)
            # vLLM's own loader takes whole tensors only.
            writable = live.writable
            shards = live.shards if writable else UNSHARDED
            expectation = self._apbmm_expectation(live, shards)

            def made(place: Place) -> Tensors:
                return _counted(expectation.watch(self._apbmm_tensors(stream, place, shards)))

            if writable:
                live.write(made, shards)
                features.forget_derived(self)
            else:
                features.reload_from_stream(self, made(nowhere))
                live.repack()
        except EvaluationError as error:
            return {"kind": error.kind, "message": error.message, "hint": error.hint}
        except (SourceError, OSError) as error:
            return {"kind": "infrastructure", "message": str(error), "hint": ""}
        return _verdict(expectation)

    def apbmm_load_folder(self, folder: str) -> Verdict:
        """Reload a checkpoint folder with vLLM's own code, then do what that leaves out."""
        features.reload_from_folder(self, folder)
        with _Folder(Path(folder)) as checkpoint:
            self._apbmm_live(checkpoint.shapes).repack()
        return self.apbmm_verify(folder)

    def apbmm_verify(self, folder: str) -> Verdict:
        """Compare the live model with a checkpoint folder."""
        with _Folder(Path(folder)) as checkpoint:
            expectation = self._apbmm_expectation(self._apbmm_live(checkpoint.shapes))
            for _ in expectation.watch(checkpoint.tensors()):
                pass
        return _verdict(expectation)

    def apbmm_fingerprint(self, folder: str) -> str:
        """A digest of the live model; ``folder`` holds any checkpoint of the same shapes."""
        with _Folder(Path(folder)) as checkpoint:
            return self._apbmm_live(checkpoint.shapes).fingerprint()

    def _apbmm_tensors(self, stream: MergeStream, place: Place, shards: Shards) -> Tensors:
        """The wanted shards of the merge, made on the card, or on a CPU where ``place`` says."""
        device = next(self.model_runner.get_model().parameters()).device
        if device.type == "cpu":
            return stream.tensors(place, shards)
        if self._apbmm_sources is None:
            self._apbmm_sources = ResidentSources(device)
        return self._apbmm_sources.tensors(stream.plans, shards)

    def _apbmm_live(self, shapes: Shapes) -> LiveWeights:
        dtype = features.computing_dtype(self)
        return LiveWeights(self.model_runner.get_model(), shapes, dtype)

    def _apbmm_expectation(
        self, live: LiveWeights, shards: Shards = UNSHARDED
    ) -> WeightVerification:
        self._apbmm_loads += 1
        return WeightVerification(live, self._apbmm_loads, shards)


class _Folder:
    """The tensors of a checkpoint folder, read on demand."""

    def __init__(self, folder: Path) -> None:
        self._files = [safe_open(file, "pt") for file in read_checkpoint(folder).files]

    def __enter__(self) -> _Folder:
        for file in self._files:
            file.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files:
            file.__exit__(*error)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape, by name."""
        return {
            name: tuple(file.get_slice(name).get_shape())
            for file in self._files
            for name in file.keys()  # noqa: SIM118 - no dict
        }

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and value of every tensor."""
        for file in self._files:
            for name in file.keys():  # noqa: SIM118 - no dict
                yield name, file.get_tensor(name)


def _counted(tensors: Tensors) -> Iterator[tuple[str, torch.Tensor]]:
    """The same tensors; a failpoint lets a test fail any of them."""
    for name, tensor in tensors:
        reach("load.tensor")
        yield name, tensor


def _verdict(expectation: WeightVerification) -> Verdict:
    compared, tensors, different = expectation.verdict()
    return {
        "compared": compared,
        "tensors": tensors,
        "different": different,
        "digest": expectation.digest,
    }
