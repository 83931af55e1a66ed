"""Settings of a worker, from its command line and environment, and the locks that it holds."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from apbmm_common.errors import UsageError
from apbmm_common.process.home import state_home
from apbmm_common.process.locks import FileLock, LockHeldError, lock_file
from apbmm_common.protocol.addresses import is_local, own_name_replaced, reached_at
from apbmm_common.protocol.curve_keys import (
    WORKER_NAME,
    WORKER_NAME_HINT,
    ClientKeys,
    passed_over,
    remedy_for,
)
from apbmm_worker.environment import worker_environment

log = logging.getLogger(__name__)

STATE_LOCK = "worker.lock"
"""File in a worker's state folder that it holds while it runs."""
GPU = re.compile(r"cpu|rehearsal|[0-9]{1,4}(,[0-9]{1,4})*")


@dataclass(frozen=True)
class Options:
    """Settings of one worker process.

    ``paths`` maps names of the run file (``thinking``, ``instruct``, ``base``, ``prompts``, or a
    benchmark's name) to paths of this host. ``roots`` are the folders that all other paths must be
    in; None allows any. ``engine`` has engine arguments of this host as text, by name. With
    ``allow_remote_code`` a run may execute the code that comes with its checkpoints, and its own
    file of adapters. ``leave_after``: after so many seconds without a run it ends; None: never.
    """

    name: str
    gpu: str
    master: str
    state: Path
    scratch: Path
    paths: Mapping[str, str] = field(default_factory=dict)
    keys: ClientKeys | None = None
    roots: tuple[Path, ...] | None = None
    engine: Mapping[str, str] = field(default_factory=dict)
    allow_remote_code: bool = False
    leave_after: float | None = None

    @property
    def outbox(self) -> Path:
        """Folder of the results that are not delivered yet."""
        return self.state / "outbox"


def parse_gpu(text: str) -> str:
    """``cpu``, ``rehearsal``, the number of a card, or several for tensor parallelism: ``0,1``.

    Returns numbers without leading zeros, so that a card has one name on a host. Raises
    `UsageError`.
    """
    if not GPU.fullmatch(text):
        raise UsageError(f"--gpu {text}: not a card", "give a number, several as 0,1, or cpu")
    cards = [str(int(card)) if card.isdigit() else card for card in text.split(",")]
    if len(set(cards)) != len(cards):
        raise UsageError(f"--gpu {text} names a card twice", "give each number once")
    return ",".join(cards)


def parse_name(text: str) -> str:
    """A worker's name: letters, digits, and ``._-`` after the first. Raises `UsageError`."""
    if not WORKER_NAME.fullmatch(text):
        raise UsageError(f"--name {text}: not a name", WORKER_NAME_HINT)
    return text


def require_known_master(
    name: str, master: str, given: str | None, keys: ClientKeys | None, *, insecure: bool
) -> None:
    """Refuse what is no address, and, unless ``insecure``, a master on another host without keys.

    Without keys such a master cannot prove its identity. ``given`` is the text of ``--keys``. Warns
    if the folder has keys of other workers, but none for ``name``. Raises `UsageError`.
    """
    local = is_local(master, "--master")
    if (here := reached_at(master)) != master:
        raise UsageError(
            f"--master {master}: every address of a host, where a master listens",
            f"name the master's host in its place; on this host it is {here}",
        )
    if keys is not None:
        return
    folder = passed_over(given, name)
    missing = f"{folder} has keys, but none for worker {name}" if folder else "there are no keys"
    if not insecure and not local:
        here = own_name_replaced(master)
        raise UsageError(
            f"the master at {master} is on another host, and {missing}",
            f"{remedy_for(name, folder)}; --keys names the folder of keys, and --insecure goes "
            "without" + (f"; a master of this host that has no keys is at {here}" if here else ""),
        )
    if folder is not None:
        log.warning(
            "%s, so it goes without: a master with keys will not let it in (%s; --keys none, if "
            "none is meant)",
            missing,
            remedy_for(name, folder),
        )


def parse_paths(items: Sequence[str]) -> dict[str, str]:
    """Absolute paths by name, from ``NAME=PATH`` items.

    Raises `UsageError` for an item of another form, or a path that does not exist.
    """
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


def parse_roots(items: Sequence[str], master: str) -> tuple[Path, ...] | None:
    """Folders that the run file's paths must be in; None allows any path.

    Without ``items`` a master on this host may name any path, and one on another host none. Raises
    `UsageError`.
    """
    if not items:
        return None if is_local(master, "--master") else ()
    for item in items:
        if not Path(item).is_dir():
            raise UsageError(f"--root {item}: no such folder")
    return tuple(Path(item).resolve() for item in items)


def default_name(gpu: str) -> str:
    """A worker's name made of host and card."""
    card = gpu if gpu in ("cpu", "rehearsal") else f"gpu{gpu.replace(',', '-')}"
    return f"{host_in_names()}-{card}"[:64]


def host_in_names() -> str:
    """What the names of this host's workers begin with, where none is given."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).lstrip("._-")[:40] or "host"


def state_folder(name: str, given: Path | None) -> Path:
    """Folder for outbox and log: the given one, or one within systemd's or the user's state."""
    if given is not None:
        return given
    return state_home() / "workers" / name


class Claim:
    """Exclusive use of the worker's name and cards on this host, until `release`.

    With ``once`` nobody else will have the name, whose lock is then not left behind. Raises
    `UsageError` if another worker uses one of them.
    """

    def __init__(self, options: Options, *, once: bool = False) -> None:
        self._once = once
        folder = lock_folder()
        with contextlib.suppress(OSError):  # `_claim` reports a folder that cannot be used
            folder.mkdir(parents=True)
            folder.chmod(0o1777)
        what = [("name", options.name, "--name")]
        if options.gpu not in ("cpu", "rehearsal"):
            what += [("GPU", card, "--gpu") for card in _cards(options)]
        self._locks: list[FileLock] = []
        try:
            for kind, value, flag in what:
                file = folder / f"{kind.lower()}-{value}.lock"
                self._locks.append(_claim(file, kind, value, flag))
        except UsageError:
            self.release()
            raise

    def release(self) -> None:
        """Release all locks."""
        for number, lock in enumerate(self._locks):
            if number == 0 and self._once:
                lock.remove()
            else:
                lock.release()


def _cards(options: Options) -> list[str]:
    """The host's names of the worker's cards: --gpu counts within CUDA_VISIBLE_DEVICES."""
    visible = worker_environment(options.gpu, options.scratch, os.environ)["CUDA_VISIBLE_DEVICES"]
    return [str(int(c)) if c.isdecimal() else c.replace("/", "_") for c in visible.split(",")]


def claim_folders(options: Options) -> FileLock:
    """Make the worker's folders, and lock them for this worker until the lock is released.

    Two workers with one outbox would deliver and drop each other's results. Raises `UsageError`.
    """
    for folder in (options.state, options.outbox):
        _make_folder(folder, "--state")
    _make_folder(options.scratch, "--scratch")
    lock = options.state / STATE_LOCK
    return _claim(lock, "state folder", str(options.state), "--state", all_users=False)


def _make_folder(folder: Path, flag: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "it is not a folder" if isinstance(error, FileExistsError) else error.strerror
        raise UsageError(
            f"{folder} cannot be one of the worker's folders: {reason}",
            f"name a folder that it can write to with {flag}",
        ) from error


def lock_folder() -> Path:
    """The folder with the locks of the workers of every user of this host."""
    return Path(os.environ.get("APBMM_LOCK_DIR", "/tmp/apbmm-locks"))  # noqa: S108


def _claim(path: Path, kind: str, value: str, flag: str, *, all_users: bool = True) -> FileLock:
    """Lock the file that stands for one resource of this worker. Raises `UsageError`."""
    try:
        return lock_file(path, all_users=all_users)
    except LockHeldError as error:
        raise UsageError(
            f"{kind} {value} is in use by another worker on this host ({error.holder})",
            f"stop it, or give this one another {flag}",
        ) from None
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be written: {error.strerror}",
            "set APBMM_LOCK_DIR to a folder that all workers can write"
            if all_users
            else f"name another folder with {flag}",
        ) from error
