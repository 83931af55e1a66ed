"""Environment and signs of life of the evaluation child."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from apbmm_common.errors import UsageError
from apbmm_worker.engine.token_progress import TokenProgress
from apbmm_worker.environment import cards, worker_environment
from apbmm_worker.evaluation.logging_guard import preserved_logging


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


def test_a_cpu_engine_is_one_process_and_one_thread(tmp_path: Path) -> None:
    values = worker_environment("cpu", tmp_path, {"OMP_NUM_THREADS": "4"})
    assert values["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert values["OMP_NUM_THREADS"] == "4"  # set on purpose by whoever started it
    assert values["HF_HUB_OFFLINE"] == "1"
    assert cards("cpu") == 0


class Stepper:
    steps = 0


def test_advancing_steps_are_a_sign_of_life() -> None:
    engine, reported, enough = Stepper(), list[tuple[int, int]](), threading.Event()

    def report(done: int, total: int) -> None:
        reported.append((done, total))
        if len(reported) > 2:
            enough.set()
        engine.steps += 1

    with TokenProgress(engine, report, interval=0.01) as signs:
        signs.answered(1, 9)
        assert enough.wait(5)
    assert set(reported) == {(1, 9)}


def test_a_hanging_engine_gives_none() -> None:
    engine, reported = Stepper(), list[tuple[int, int]]()
    with TokenProgress(engine, lambda done, total: reported.append((done, total)), 0.01):
        threading.Event().wait(0.1)
    assert reported == []


def test_logging_survives_a_library_that_rearranges_it() -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    with preserved_logging():
        logging.basicConfig(level=logging.DEBUG, force=True)
    assert (root.handlers, root.level) == (before, level)
