"""CURVE keys on disk, and sockets that use them.

A folder of keys is for its owner alone (0700, files 0600; anything else is refused):

    master.key           the master's public key: every worker's host has a copy
    master.key_secret    stays with the master
    NAME.key_secret      the key of worker NAME: moved to its host
    allowed/NAME.key     public: whom the master lets in; deleting the file shuts NAME out

The certificates are pyzmq's (`zmq.auth.certs`). Secrets live in `Pair` and in libzmq only: they
are in no message, no log and no ``repr``.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import struct
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq
from zmq.auth import create_certificates, load_certificate
from zmq.utils import z85

from apbmm_common.errors import UsageError
from apbmm_common.process.home import home

WORKER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
WORKER_NAME_HINT = "up to 64 letters, digits, dots, dashes and underscores"
MASTER = "master"
ALLOWED = "allowed"
PUBLIC, SECRET = ".key", ".key_secret"
NO_KEYS = "none"
"""``--keys none`` goes without keys although there is a default folder."""
_Z85_LENGTH, _KEY_BYTES = 40, 32


@dataclass(frozen=True, slots=True)
class Pair:
    """A public key and its secret, as Z85 text."""

    public: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class MasterKeys:
    """What a master needs: its own pair, and the folder of those it lets in."""

    folder: Path
    pair: Pair

    @property
    def allowed(self) -> Path:
        """The folder of public certificates, one a worker."""
        return self.folder / ALLOWED

    def secure(self, server: zmq.Socket[Any], domain: str) -> None:
        """Make a socket that is not bound yet demand keys, which ZAP checks in ``domain``."""
        server.set(zmq.CURVE_SERVER, 1)
        server.set(zmq.CURVE_SECRETKEY, self.pair.secret)
        server.set(zmq.ZAP_DOMAIN, domain.encode())
        # Without a handler libzmq would let every key in.
        server.set(zmq.ZAP_ENFORCE_DOMAIN, 1)


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """What a worker, or someone who asks for the status, needs."""

    folder: Path
    pair: Pair
    master: bytes
    """Public key of the master."""

    def secure(self, client: zmq.Socket[Any]) -> None:
        """Make a socket that is not connected yet prove who it is, to this master only."""
        client.set(zmq.CURVE_SERVERKEY, self.master)
        client.set(zmq.CURVE_PUBLICKEY, self.pair.public)
        client.set(zmq.CURVE_SECRETKEY, self.pair.secret)


# ---- where they are ------------------------------------------------------------------------


def default_folder() -> Path:
    """``$XDG_CONFIG_HOME/apbmm/keys``, by default ``~/.config/apbmm/keys``."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else home() / ".config") / "apbmm" / "keys"


def master_keys(given: str | None) -> MasterKeys | None:
    """The keys of a master: of the folder ``given``, else of the default folder if it has any.

    Raises `UsageError` when they cannot be used.
    """
    folder = _chosen(given, MASTER + SECRET)
    return None if folder is None else _master(folder)


def _master(folder: Path) -> MasterKeys:
    require_private(folder)
    return MasterKeys(folder, load_pair(folder / (MASTER + SECRET), "apbmm keys new-master"))


def worker_keys(given: str | None, name: str) -> ClientKeys | None:
    """The keys of the worker ``name``, found as `master_keys` finds them. Raises `UsageError`."""
    folder = _chosen(given, name + SECRET)
    if folder is None:
        return None
    return _client(folder, folder / (name + SECRET), name)


def passed_over(given: str | None, name: str) -> Path | None:
    """The default folder where it holds keys, but not the one that the worker ``name`` looks for.

    Then `worker_keys` finds none, which may not be what is meant.
    """
    folder = _default_if_any()
    if given is not None or folder is None or (folder / (name + SECRET)).exists():
        return None
    others = any(folder.glob("*" + SECRET)) or (folder / (MASTER + PUBLIC)).exists()
    return folder if others else None


def reader_keys(given: str | None) -> ClientKeys | None:
    """Keys to ask for the status with: the master's own, else any worker's of the folder."""
    folder = _chosen(given, "*" + SECRET)
    if folder is None:
        return None
    secrets = sorted(folder.glob("*" + SECRET), key=lambda path: path.stem != MASTER)
    secret = secrets[0] if secrets else folder / (MASTER + SECRET)
    return _client(folder, secret, "NAME")


def _chosen(given: str | None, pattern: str) -> Path | None:
    if given == NO_KEYS:
        return None
    if given is not None:
        return named_folder(given)
    folder = _default_if_any()
    return folder if folder is not None and any(folder.glob(pattern)) else None


def _default_if_any() -> Path | None:
    """The default folder; None for a user without a home."""
    with suppress(UsageError):
        return default_folder()
    return None


def named_folder(given: str) -> Path:
    """The folder of keys that is named so; ~ stands for a home. Raises `UsageError`."""
    try:
        return Path(given).expanduser().resolve()
    except (OSError, RuntimeError):
        raise UsageError(f"{given}: cannot be a folder of keys") from None


def remedy_for(name: str) -> str:
    """How the worker ``name`` comes by its key, wherever it is."""
    return f"on the master's host apbmm keys new-worker {name} makes one and says what to copy"


def _client(folder: Path, secret: Path, name: str) -> ClientKeys:
    require_private(folder, remedy_for(name))
    pair = load_pair(secret, remedy_for(name))
    public, _ = _load(folder / (MASTER + PUBLIC), "copy it from the master's folder of keys")
    return ClientKeys(folder, pair, public)


# ---- reading -------------------------------------------------------------------------------


def load_pair(path: Path, remedy: str) -> Pair:
    """A secret certificate, which nobody else may read. Raises `UsageError`."""
    _require_owner_only(path, "600", remedy)
    public, secret = _load(path, remedy)
    if secret is None:
        raise UsageError(f"{path}: holds no secret key", remedy)
    return Pair(public, secret)


def load_public(path: Path) -> bytes:
    """The public key of a certificate. Raises `UsageError`."""
    return _load(path, "apbmm keys new-worker NAME makes one")[0]


def _load(path: Path, remedy: str) -> tuple[bytes, bytes | None]:
    try:
        public, secret = load_certificate(path)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such key", remedy) from None
    except (OSError, ValueError) as error:
        reason = "no such key" if not path.exists() else f"cannot be read as a key: {error}"
        raise UsageError(f"{path}: {reason}", remedy) from None
    if not all(_is_key(key) for key in (public, secret) if key is not None):
        raise UsageError(f"{path}: damaged: what it holds is no key", remedy)
    return public, secret


def _is_key(text: bytes) -> bool:
    try:
        return len(text) == _Z85_LENGTH and len(z85.decode(text)) == _KEY_BYTES
    except (KeyError, struct.error):
        return False


def require_private(folder: Path, remedy: str = "apbmm keys new-master makes one") -> None:
    """Refuse a folder of keys that others can enter. Raises `UsageError`.

    ``remedy`` is the hint where there is none.
    """
    _require_owner_only(folder, "700", remedy)


def _require_owner_only(path: Path, mode: str, remedy: str) -> None:
    try:
        present = path.stat().st_mode
    except OSError as error:
        reason = "no such folder" if mode == "700" else "no such key"
        known = isinstance(error, FileNotFoundError)
        raise UsageError(f"{path}: {reason if known else error.strerror}", remedy) from None
    if stat.S_ISDIR(present) != (mode == "700"):
        raise UsageError(f"{path}: not a {'folder' if mode == '700' else 'file'}", remedy)
    if present & 0o077:
        raise UsageError(f"{path}: others than its owner have access to it", f"chmod {mode} {path}")


# ---- making --------------------------------------------------------------------------------


def new_master(folder: Path) -> MasterKeys:
    """Make a master's folder of keys. Raises `UsageError` when there is one, or it cannot be."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_private(folder)
        _create(folder, MASTER, public=folder)
        (folder / ALLOWED).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written: {error.strerror}") from error
    return _master(folder)


def new_worker(keys: MasterKeys, name: str) -> Path:
    """Make a key for the worker ``name`` and let it in; the path of its secret.

    Raises `UsageError`.
    """
    if not WORKER_NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not a worker's name", WORKER_NAME_HINT)
    if name == MASTER:
        raise UsageError("a worker with a key cannot be called master", "choose another name")
    try:
        keys.allowed.mkdir(mode=0o700, exist_ok=True)
        return _create(keys.folder, name, public=keys.allowed)
    except OSError as error:
        raise UsageError(f"{keys.folder}: cannot be written: {error.strerror}") from error


def revoke(keys: MasterKeys, name: str) -> None:
    """Shut the worker ``name`` out. Raises `UsageError` when it is not let in."""
    try:
        (keys.allowed / (Path(name).name + PUBLIC)).unlink()
    except FileNotFoundError:
        here = ", ".join(sorted(path.stem for path in keys.allowed.glob("*" + PUBLIC)))
        raise UsageError(f"worker {name} is not let in", f"let in: {here or 'nobody'}") from None
    except OSError as error:
        raise UsageError(f"{keys.allowed}: cannot be written: {error.strerror}") from error


def _create(folder: Path, name: str, public: Path) -> Path:
    """Write a new pair's files whole or not at all, never over others; the secret one's path."""
    target, certificate = folder / (name + SECRET), public / (name + PUBLIC)
    for path in (target, certificate):
        if path.exists():
            raise UsageError(f"{path} is there already", "move it away if it is to be replaced")
    work = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
    try:
        made = [Path(path) for path in create_certificates(work, name)]
        for path in made:
            path.chmod(0o600)
        # The secret first: a key that is let in but was never kept would be of no use.
        made[1].rename(target)
        made[0].rename(certificate)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target
