"""`apbmm keys`: makes, lists and revokes the keys of a master and its workers."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from apbmm_common.errors import EXIT_DONE, UsageError
from apbmm_common.protocol import curve_keys

app = App(name="keys", help="Make, list and revoke the keys of a master and its workers.")

Keys = Annotated[str | None, Parameter(env_var="APBMM_KEYS")]


@app.command
def new_master(folder: str | None = None, /, *, keys: Keys = None) -> int:
    """Make a master's folder of keys. With it a master accepts only workers that have a key.

    Parameters
    ----------
    folder
        The same as --keys.
    keys
        The folder. Default: ~/.config/apbmm/keys, where master and workers look by themselves.
    """
    if folder and keys not in (None, folder, os.environ.get("APBMM_KEYS")):
        raise UsageError(f"two folders: {folder} and --keys {keys}", "name one")
    named = folder or keys
    _require_keys(named)
    made = curve_keys.new_master(
        curve_keys.named_folder(named) if named else curve_keys.default_folder()
    )
    _say(f"the master's keys are in {made.folder}")
    _say(f"next, for each worker: apbmm keys new-worker NAME{curve_keys.flag_for(made)}")
    return EXIT_DONE


@app.command
def new_worker(name: str, /, *, keys: Keys = None) -> int:
    """Make a key for one worker and let it in, without a restart of the master.

    Parameters
    ----------
    name
        The worker's --name, by default host and card, as hostA-gpu0. The key is good for no other.
    keys
        The master's folder of keys. Default: ~/.config/apbmm/keys.
    """
    master = _master(keys)
    secret = curve_keys.new_worker(master, name)
    public = master.folder / (curve_keys.MASTER + curve_keys.PUBLIC)
    _say(f"worker {name} is let in; its key is {secret}")
    if (owner := _other_owner(master.folder)) is not None:
        certificate = master.allowed / (name + curve_keys.PUBLIC)
        _say(f"the folder is user {owner}'s, who cannot read what is new in it before")
        _say(f"  chown {owner} {secret} {certificate}")
    _say("a worker on another host needs both files there, in a folder that is its own alone:")
    _say("  ssh HOST mkdir -p -m 700 .config/apbmm/keys")
    _say(f"  scp -p {secret} {public} HOST:.config/apbmm/keys/")
    _say(f"  rm {secret}")
    return EXIT_DONE


@app.command
def revoke(name: str, /, *, keys: Keys = None) -> int:
    """Shut a worker out at its next message; what it holds is given to another.

    Parameters
    ----------
    name
        The worker's name.
    keys
        The master's folder of keys. Default: ~/.config/apbmm/keys.
    """
    curve_keys.revoke(_master(keys), name)
    _say(f"worker {name} is let in no more")
    return EXIT_DONE


@app.command(name="list")
def list_keys(*, keys: Keys = None) -> int:
    """List the workers that the master accepts, and their public keys.

    Parameters
    ----------
    keys
        The master's folder of keys. Default: ~/.config/apbmm/keys.
    """
    for path in sorted(_master(keys).allowed.glob("*" + curve_keys.PUBLIC)):
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


def _other_owner(folder: Path) -> str | None:
    """The user that a folder belongs to; None where that is the present one, who is root if not."""
    number = folder.stat().st_uid
    if number == os.geteuid():
        return None
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _say(line: str) -> None:
    sys.stdout.write(line + os.linesep)
