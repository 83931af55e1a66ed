"""What a worker is told on its command line or in its environment."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from apbmm_common.errors import UsageError

GPU = re.compile(r"cpu|rehearsal|\d+(,\d+)*")


@dataclass(frozen=True)
class Options:
    """Settings of one worker process.

    ``paths`` maps names of the run file (``thinking``, ``instruct``, ``base``, ``prompts``, or a
    benchmark's name) to folders of this host.
    """

    name: str
    gpu: str
    master: str
    state: Path
    scratch: Path
    paths: Mapping[str, str] = field(default_factory=dict)


def parse_gpu(text: str) -> str:
    """``cpu``, ``rehearsal``, a card's number, or several for tensor parallelism: ``0,1``."""
    if not GPU.fullmatch(text):
        raise UsageError(
            f"--gpu {text}: not a card", "give a number, several as 0,1, or cpu"
        )
    cards = text.split(",")
    if len(set(cards)) != len(cards):
        raise UsageError(f"--gpu {text} names a card twice")
    return text


def parse_paths(items: Sequence[str]) -> dict[str, str]:
    """``NAME=PATH`` items. Raises `UsageError` for anything else or a missing path."""
    paths: dict[str, str] = {}
    for item in items:
        name, separator, path = item.partition("=")
        if not (name and separator and path):
            raise UsageError(f"--path {item}: expected NAME=PATH", "as in thinking=/models/thinking")
        if not Path(path).exists():
            raise UsageError(f"--path {item}: no such file or folder")
        paths[name] = str(Path(path).resolve())
    return paths


def default_name(gpu: str) -> str:
    """Host and card, fit for the wire."""
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()) or "host"
    return f"{host}-{gpu.replace(',', '-')}" if gpu in ("cpu", "rehearsal") else (
        f"{host}-gpu{gpu.replace(',', '-')}"
    )


def state_folder(name: str, given: Path | None) -> Path:
    """Where the worker keeps its outbox and log: given, systemd's, or the user's state folder."""
    if given is not None:
        return given
    base = os.environ.get("STATE_DIRECTORY") or os.environ.get("XDG_STATE_HOME")
    root = Path(base) if base else Path.home() / ".local" / "state"
    return root / ("apbmm" if "STATE_DIRECTORY" not in os.environ else "") / "workers" / name


class Claim:
    """Exclusive use of this worker's cards and name on this host, for as long as it is held."""

    def __init__(self, options: Options) -> None:
        folder = Path(os.environ.get("APBMM_LOCK_DIR", "/tmp/apbmm-locks"))  # noqa: S108
        folder.mkdir(mode=0o1777, parents=True, exist_ok=True)
        what = [("name", options.name)]
        if options.gpu not in ("cpu", "rehearsal"):
            what += [("GPU", card) for card in options.gpu.split(",")]
        self._files: list[IO[str]] = []
        for kind, value in what:
            self._files.append(_claim(folder / f"{kind.lower()}-{value}.lock", kind, value))

    def release(self) -> None:
        """Give everything back."""
        for file in self._files:
            file.close()


def _claim(path: Path, kind: str, value: str) -> IO[str]:
    try:
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{path}: {error}", "set APBMM_LOCK_DIR to a folder that all workers can write"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        other = "--gpu" if kind == "GPU" else "--name"
        raise UsageError(
            f"{kind} {value} is in use by another worker on this host ({holder})",
            f"stop it, or give this one another {other}",
        ) from None
    file.truncate(0)
    file.write(json.dumps({"pid": os.getpid()}))
    file.flush()
    return file
