"""What `apbmm run --gpus` makes of its text, and of what nvidia-smi says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from apbmm.run.devices import cards_of_this_host, devices_of
from apbmm_common.errors import UsageError

TWO_CARDS = "echo '0, NVIDIA H200, 143771, 580.1, 9'; echo '1, NVIDIA GB10, [N/A], 580.1, 9'"


def driver(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an nvidia-smi in PATH that does what the shell ``script`` says."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_all_is_a_worker_for_each_card_of_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(tmp_path, TWO_CARDS, monkeypatch)
    assert cards_of_this_host().memories == (143771 << 20, 0)
    assert devices_of("all", None, rehearsal=False) == ("0", "1")


def test_all_counts_within_cuda_visible_devices() -> None:
    visible = {"CUDA_VISIBLE_DEVICES": "4,6,7"}
    assert devices_of("all", None, rehearsal=False, environment=visible) == ("0", "1", "2")
    with pytest.raises(UsageError, match="hides every card") as caught:
        devices_of("all", None, rehearsal=False, environment={"CUDA_VISIBLE_DEVICES": "-1"})
    assert "--gpus cpu" in caught.value.hint


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'No devices were found'", "nvidia-smi names none"),
        ("echo 'NVIDIA-SMI has failed' >&2; exit 9", "nvidia-smi says: NVIDIA-SMI has failed"),
        ("exit 1", "nvidia-smi says: exit status 1"),
    ],
)
def test_a_driver_without_cards_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    driver(tmp_path, script, monkeypatch)
    with pytest.raises(UsageError, match=said) as caught:
        devices_of("all", None, rehearsal=False)
    assert caught.value.hint.startswith("--gpus cpu runs the workers on the CPU")


@pytest.mark.parametrize(
    ("gpus", "devices"),
    [
        ("0,1,2,3", ("0", "1", "2", "3")),
        ("03", ("3",)),
        ("0+1,2+3", ("0,1", "2,3")),
        ("cpu", ("cpu",)),
    ],
)
def test_cards_that_are_named(gpus: str, devices: tuple[str, ...]) -> None:
    assert devices_of(gpus, None, rehearsal=False) == devices


@pytest.mark.parametrize("gpus", ["", "0,", "gpu0", "0,cpu", "0+", "-1", "rehearsal", "0+1+"])
def test_what_is_no_card(gpus: str) -> None:
    with pytest.raises(UsageError, match="not a card"):
        devices_of(gpus, None, rehearsal=False)


@pytest.mark.parametrize("gpus", ["0,0", "0+1,1", "1,01"])
def test_a_card_has_one_worker(gpus: str) -> None:
    with pytest.raises(UsageError, match="names a card twice"):
        devices_of(gpus, None, rehearsal=False)


def test_workers_on_the_cpu_are_as_many_as_asked_up_to_its_processors() -> None:
    processors = len(os.sched_getaffinity(0))
    assert devices_of("cpu", processors, rehearsal=False) == ("cpu",) * processors
    with pytest.raises(UsageError, match=f"lets us use {processors} processor"):
        devices_of("cpu", processors + 1, rehearsal=False)
    with pytest.raises(UsageError, match="every card has one worker"):
        devices_of("0,1", 2, rehearsal=False)


def test_a_rehearsal_uses_no_device() -> None:
    assert devices_of("cpu", 1000, rehearsal=True) == ("rehearsal",) * 1000
    assert devices_of("all", None, rehearsal=True) == ("rehearsal",)
    assert devices_of("0,1,2", None, rehearsal=True) == ("rehearsal",) * 3
