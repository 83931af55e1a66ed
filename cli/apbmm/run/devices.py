"""What the workers of one host run on: its cards, each with a worker, or the CPU.

Cards are found by nvidia-smi, which comes with their driver, and not by importing PyTorch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from apbmm.doctor.facts import Cards
from apbmm.doctor.gather import cards
from apbmm_common.errors import UsageError
from apbmm_worker.daemon.options import parse_gpu

ALL, CPU, REHEARSAL = "all", "cpu", "rehearsal"
ON_THE_CPU = "--gpus cpu runs the workers on the CPU"
HIDDEN = "-1"
"""CUDA_VISIBLE_DEVICES=-1 is the usual way to hide every card."""


def devices_of(
    gpus: str, workers: int | None, *, rehearsal: bool, environment: Mapping[str, str] = os.environ
) -> tuple[str, ...]:
    """The device of each worker, as ``apbmm-worker --gpu`` takes it.

    ``gpus`` is ``all``, ``cpu``, or cards as ``0,1`` and ``0+1,2+3``. In a ``rehearsal``, which
    uses no device, it only says how many workers there are. Raises `UsageError`.
    """
    if gpus == CPU or (rehearsal and gpus == ALL):
        _require_processors(workers, rehearsal=rehearsal)
        return (REHEARSAL if rehearsal else CPU,) * (workers or 1)
    if workers is not None:
        raise UsageError(
            "--workers is for the CPU: every card has one worker",
            "name as many cards with --gpus, or --gpus cpu",
        )
    if gpus == ALL:
        return tuple(str(number) for number in range(_visible_cards(environment)))
    devices = tuple(_parse_cards(part) for part in gpus.split(","))
    named = [card for device in devices for card in device.split(",")]
    if len(set(named)) != len(named):
        raise UsageError(f"--gpus {gpus} names a card twice", "give each number once")
    return (REHEARSAL,) * len(devices) if rehearsal else devices


def uses_card(device: str) -> bool:
    """Whether a worker's device can have no other worker beside it."""
    return device not in (CPU, REHEARSAL)


def _parse_cards(part: str) -> str:
    """The cards of one worker, ``0`` or ``0+1``, as ``apbmm-worker --gpu`` takes them."""
    if not part.replace("+", "").isdecimal():
        raise UsageError(
            f"--gpus {part}: not a card",
            "numbers as in 0,1,2,3, two for each worker as in 0+1,2+3, or all, or cpu",
        )
    return parse_gpu(part.replace("+", ","))


def _require_processors(workers: int | None, *, rehearsal: bool) -> None:
    processors = len(os.sched_getaffinity(0))
    if workers is not None and workers > processors and not rehearsal:
        raise UsageError(
            f"--workers {workers}: this host lets us use {processors} "
            f"processor{'s' if processors > 1 else ''}",
            "a worker on the CPU computes on one processor; more would only share them",
        )


def _visible_cards(environment: Mapping[str, str]) -> int:
    """The number of cards that CUDA shows to the workers. Raises `UsageError` where it is 0.

    Numbers of cards count within CUDA_VISIBLE_DEVICES, as workers count.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES", "").strip()
    if visible == HIDDEN:
        raise UsageError("--gpus all: CUDA_VISIBLE_DEVICES=-1 hides every card", ON_THE_CPU)
    return len(visible.split(",")) if visible else len(cards_of_this_host().names)


def memory_of(devices: Sequence[str]) -> int:
    """Bytes of the cards of one worker, of the smallest where they differ; 0 if not known."""
    if not all(map(uses_card, devices)):
        return 0
    try:
        smallest = min(cards_of_this_host().memories)
    except UsageError:  # this host has no card
        return 0
    return smallest * min(len(device.split(",")) for device in devices)


def cards_of_this_host() -> Cards:
    """The cards that the driver names. Raises `UsageError` where there is none."""
    found = cards()
    if not found.names:
        said = f"nvidia-smi says: {found.trouble}" if found.trouble else "nvidia-smi names none"
        raise UsageError(f"no card was found: {said}", f"{ON_THE_CPU}; apbmm doctor says more")
    return found
