"""`apbmm keys`: make, show and revoke the keys that a master lets in."""

from __future__ import annotations

import os
import sys

from apbmm_common import curve
from apbmm_common.errors import EXIT_DONE, UsageError


def make_master(folder: str | None, given: str | None = None) -> int:
    """Make a master's folder of keys, and say what to do with it.

    ``folder`` as an argument, ``given`` by --keys or the environment. Raises `UsageError`.
    """
    if folder and given not in (None, folder, os.environ.get("APBMM_KEYS")):
        raise UsageError(f"two folders: {folder} and --keys {given}", "name one")
    named = folder or given
    _require_keys(named)
    keys = curve.new_master(curve.named_folder(named) if named else curve.default_folder())
    _say(f"the master's keys are in {keys.folder}")
    _say(f"next, for each worker: apbmm keys new-worker NAME{_flag(keys)}")
    return EXIT_DONE


def make_worker(name: str, given: str | None) -> int:
    """Make a worker's key, let it in, and say where it belongs."""
    keys = _master(given)
    secret = curve.new_worker(keys, name)
    public = keys.folder / (curve.MASTER + curve.PUBLIC)
    _say(f"worker {name} is let in; its key is {secret}")
    _say("a worker on another host needs both files there, in a folder that is its own alone:")
    _say("  ssh HOST mkdir -p -m 700 .config/apbmm/keys")
    _say(f"  scp -p {secret} {public} HOST:.config/apbmm/keys/")
    _say(f"  rm {secret}")
    return EXIT_DONE


def revoke(name: str, given: str | None) -> int:
    """Shut a worker out; a living master notices by itself."""
    curve.revoke(_master(given), name)
    _say(f"worker {name} is let in no more")
    return EXIT_DONE


def show(given: str | None) -> int:
    """Name the workers that are let in."""
    for path in sorted(_master(given).allowed.glob("*" + curve.PUBLIC)):
        _say(f"{path.stem}  {curve.load_public(path).decode()}")
    return EXIT_DONE


def _require_keys(given: str | None) -> None:
    if given == curve.NO_KEYS:
        raise UsageError(
            f"{given} goes without keys (--keys, APBMM_KEYS), and this command is about keys",
            f"name a folder; ./{given} is one of that name",
        )


def _master(given: str | None) -> curve.MasterKeys:
    _require_keys(given)
    keys = curve.master_keys(given)
    if keys is None:
        raise UsageError(
            f"{curve.default_folder()}: there is no master's key", "apbmm keys new-master makes one"
        )
    return keys


def _flag(keys: curve.MasterKeys) -> str:
    return "" if keys.folder == curve.default_folder() else f" --keys {keys.folder}"


def _say(line: str) -> None:
    sys.stdout.write(line + os.linesep)
