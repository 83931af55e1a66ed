"""Environment variables of a worker's processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from apbmm_common.errors import UsageError
from apbmm_worker.environment import BATCH_INVARIANT, cards, worker_environment


@pytest.mark.parametrize(
    ("device", "present", "expected"),
    [
        ("0", None, "0"),
        ("1,0", None, "1,0"),
        ("1", "4,6", "6"),
        ("0,1", "GPU-a,GPU-b", "GPU-a,GPU-b"),
        ("2", "", "2"),
    ],
)
def test_gpu_numbers_count_within_what_is_visible(
    tmp_path: Path, device: str, present: str | None, expected: str
) -> None:
    before = {} if present is None else {"CUDA_VISIBLE_DEVICES": present}
    values = worker_environment(device, tmp_path, before)
    assert values["CUDA_VISIBLE_DEVICES"] == expected
    assert cards(device) == device.count(",") + 1
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in values


@pytest.mark.parametrize(
    ("device", "present"), [("2", "4,6"), ("gpu", None), ("0,0", None), ("-1", None)]
)
def test_a_card_that_is_not_there(tmp_path: Path, device: str, present: str | None) -> None:
    with pytest.raises(UsageError):
        worker_environment(device, tmp_path, {"CUDA_VISIBLE_DEVICES": present or ""})


def test_cards_are_numbered_as_by_nvidia_smi_and_engines_are_not_forked(tmp_path: Path) -> None:
    values = worker_environment("0", tmp_path, {})
    assert values["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert values["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    own = {"CUDA_DEVICE_ORDER": "FASTEST_FIRST", "VLLM_WORKER_MULTIPROC_METHOD": "fork"}
    assert worker_environment("0", tmp_path, own).items() >= own.items()


def test_vllm_is_told_of_batch_invariance_before_it_is_imported(tmp_path: Path) -> None:
    values = worker_environment("0", tmp_path, {}, batch_invariant=True)
    assert values[BATCH_INVARIANT] == "1"
    assert BATCH_INVARIANT not in worker_environment("0", tmp_path, {})


def test_a_cpu_engine_is_one_process_and_one_thread(tmp_path: Path) -> None:
    values = worker_environment("cpu", tmp_path, {"OMP_NUM_THREADS": "4"})
    assert values["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert values["OMP_NUM_THREADS"] == "4"  # the operator's own setting stays
    assert values["HF_HUB_OFFLINE"] == "1"
    assert cards("cpu") == 0
