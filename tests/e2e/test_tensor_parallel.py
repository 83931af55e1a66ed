"""Hot-loading into an engine of two processes that share every matrix, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from apbmm_worker import environment
from apbmm_worker.engine.driver import EngineBackend
from apbmm_worker.engine.resident import ResidentEngine
from apbmm_worker.engine.vllm.backend import VllmBackend
from e2e.test_hot_load import GENERATION, SETTINGS, answers, load, make_merges
from tiny_checkpoints import load_tensors

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),  # vLLM's own
]

PROCESSES = 2


def test_each_process_is_given_its_share_and_answers_as_when_it_was_fresh(tmp_path: Path) -> None:
    merges = make_merges(tmp_path, torch.float32, tied=False, count=2)
    own = {"tensor_parallel_size": str(PROCESSES)}
    engine = ResidentEngine(SETTINGS, GENERATION, merges.folders[0], environment.CPU, own)

    def rpc(method: str, folder: str) -> list[Any]:
        def call(backend: EngineBackend) -> list[Any]:
            assert isinstance(backend, VllmBackend)
            return backend._rpc(method, folder)

        return engine.call(call)

    def differing(index: int) -> list[set[str]]:
        """What each process finds to differ from a merge's folder, in what it can compare."""
        folder = str(merges.folders[index])
        verdicts: list[Any] = rpc("apbmm_verify", folder)
        assert [found["compared"] for found in verdicts] == [len(names)] * PROCESSES
        return [set(found["different"]) for found in verdicts]

    def fingerprints() -> tuple[str, ...]:
        folder = str(merges.folders[0])
        found: list[str] = rpc("apbmm_fingerprint", folder)
        assert len(found) == PROCESSES
        return tuple(found)

    names = set(load_tensors(merges.folders[0]))
    try:
        fresh, held = answers(engine), fingerprints()
        for way in ("memory", "checkpoint"):
            load(engine, merges, 1, way)
            assert answers(engine) != fresh
            assert all(one != other for one, other in zip(fingerprints(), held, strict=True))
            assert differing(0) == [names] * PROCESSES
            load(engine, merges, 0, way)
            assert answers(engine) == fresh
            assert fingerprints() == held
            assert differing(0) == [set()] * PROCESSES
    finally:
        engine.close()
