"""`apbmm keys`: makes, lists and revokes the keys of a master and its workers."""

from __future__ import annotations

import os
import sys

from apbmm_common.errors import EXIT_DONE, UsageError
from apbmm_common.protocol import curve_keys


def make_master(folder: str | None, given: str | None = None) -> int:
    """Make a master's folder of keys, and print the next step.

    ``folder`` comes from the argument, ``given`` from --keys or the environment. Raises
    `UsageError`.
    """
    if folder and given not in (None, folder, os.environ.get("APBMM_KEYS")):
        raise UsageError(f"two folders: {folder} and --keys {given}", "name one")
    named = folder or given
    _require_keys(named)
    keys = curve_keys.new_master(
        curve_keys.named_folder(named) if named else curve_keys.default_folder()
    )
    _say(f"the master's keys are in {keys.folder}")
    _say(f"next, for each worker: apbmm keys new-worker NAME{_flag(keys)}")
    return EXIT_DONE


def make_worker(name: str, given: str | None) -> int:
    """Make and allow a worker's key, and print how to copy it to the worker's host."""
    keys = _master(given)
    secret = curve_keys.new_worker(keys, name)
    public = keys.folder / (curve_keys.MASTER + curve_keys.PUBLIC)
    _say(f"worker {name} is let in; its key is {secret}")
    _say("a worker on another host needs both files there, in a folder that is its own alone:")
    _say("  ssh HOST mkdir -p -m 700 .config/apbmm/keys")
    _say(f"  scp -p {secret} {public} HOST:.config/apbmm/keys/")
    _say(f"  rm {secret}")
    return EXIT_DONE


def revoke(name: str, given: str | None) -> int:
    """Revoke a worker's key; a living master notices by itself."""
    curve_keys.revoke(_master(given), name)
    _say(f"worker {name} is let in no more")
    return EXIT_DONE


def show(given: str | None) -> int:
    """Print the allowed workers and their public keys."""
    for path in sorted(_master(given).allowed.glob("*" + curve_keys.PUBLIC)):
        _say(f"{path.stem}  {curve_keys.load_public(path).decode()}")
    return EXIT_DONE


def _require_keys(given: str | None) -> None:
    if given == curve_keys.NO_KEYS:
        raise UsageError(
            f"{given} goes without keys (--keys, APBMM_KEYS), and this command is about keys",
            f"name a folder; ./{given} is one of that name",
        )


def _master(given: str | None) -> curve_keys.MasterKeys:
    _require_keys(given)
    keys = curve_keys.master_keys(given)
    if keys is None:
        raise UsageError(
            f"{curve_keys.default_folder()}: there is no master's key",
            "apbmm keys new-master makes one",
        )
    return keys


def _flag(keys: curve_keys.MasterKeys) -> str:
    return "" if keys.folder == curve_keys.default_folder() else f" --keys {keys.folder}"


def _say(line: str) -> None:
    sys.stdout.write(line + os.linesep)
