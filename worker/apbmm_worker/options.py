"""What a worker is told on its command line or in its environment."""

from __future__ import annotations

import contextlib
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
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


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
        raise UsageError(f"--gpu {text}: not a card", "give a number, several as 0,1, or cpu")
    cards = text.split(",")
    if len(set(cards)) != len(cards):
        raise UsageError(f"--gpu {text} names a card twice")
    return text


def parse_name(text: str) -> str:
    """A worker's name: letters, digits, and ``._-`` within. Raises `UsageError`."""
    if not NAME.fullmatch(text):
        raise UsageError(
            f"--name {text}: not a name", "up to 64 letters, digits, dots, dashes and underscores"
        )
    return text


def parse_paths(items: Sequence[str]) -> dict[str, str]:
    """``NAME=PATH`` items. Raises `UsageError` for anything else or a missing path."""
    paths: dict[str, str] = {}
    for item in items:
        name, separator, path = item.partition("=")
        if not (name and separator and path):
            raise UsageError(
                f"--path {item}: expected NAME=PATH", "as in thinking=/models/thinking"
            )
        if not Path(path).exists():
            raise UsageError(f"--path {item}: no such file or folder")
        paths[name] = str(Path(path).resolve())
    return paths


def default_name(gpu: str) -> str:
    """Host and card, fit for the wire."""
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).lstrip("._-")[:40] or "host"
    card = gpu if gpu in ("cpu", "rehearsal") else f"gpu{gpu.replace(',', '-')}"
    return f"{host}-{card}"[:64]


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
        folder = _lock_folder()
        what = [("name", options.name)]
        if options.gpu not in ("cpu", "rehearsal"):
            what += [("GPU", str(int(card))) for card in options.gpu.split(",")]
        self._files: list[IO[str]] = []
        try:
            for kind, value in what:
                self._files.append(_claim(folder / f"{kind.lower()}-{value}.lock", kind, value))
        except UsageError:
            self.release()
            raise

    def release(self) -> None:
        """Give everything back."""
        for file in self._files:
            file.close()


def _lock_folder() -> Path:
    """A folder that the workers of every user of this host share."""
    folder = Path(os.environ.get("APBMM_LOCK_DIR", "/tmp/apbmm-locks"))  # noqa: S108
    with contextlib.suppress(OSError):  # what cannot be used is named when a lock is opened
        folder.mkdir(parents=True)
        folder.chmod(0o1777)
    return folder


def _open_shared(path: str, flags: int) -> int:
    """Open for whoever else claims it, and never through a link that someone laid there."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o666)
    with contextlib.suppress(PermissionError):  # someone else's file, who opened it to all
        os.fchmod(descriptor, 0o666)
    return descriptor


def _claim(path: Path, kind: str, value: str) -> IO[str]:
    try:
        file = open(path, "a+", encoding="utf-8", opener=_open_shared)  # noqa: SIM115
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
