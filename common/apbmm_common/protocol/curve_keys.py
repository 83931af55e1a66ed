"""CURVE keys on disk, and sockets that use them.

A folder of keys must be accessible to its owner only (mode 0700, files 0600). It holds:

    master.key           the master's public key, copied to every worker's host
    master.key_secret    the master's secret key, which stays with the master
    NAME.key_secret      the secret key of worker NAME, which is moved to its host
    allowed/NAME.key     the public key of worker NAME; deleting the file revokes it

The certificates are in pyzmq's format (`zmq.auth.certs`). Secret keys exist in a `Pair` and inside
libzmq only: never in a message, a log or a ``repr``.
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
PUBLIC = ".key"
SECRET = ".key_secret"  # noqa: S105 - the ending of a file name
NO_KEYS = "none"
"""``--keys none`` means no keys, even if the default folder has some."""
MOST_NAMES = 8
"""Names of workers in one hint."""
_KEY_BYTES = 32
_Z85_LENGTH = 40


@dataclass(frozen=True, slots=True)
class Pair:
    """A public key and its secret, as Z85 text."""

    public: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class MasterKeys:
    """A master's keys: its own pair, and the folder of the workers' public keys."""

    folder: Path
    pair: Pair

    @property
    def allowed(self) -> Path:
        """The folder of public certificates, one for each allowed worker."""
        return self.folder / ALLOWED

    def secure(self, server: zmq.Socket[Any], domain: str) -> None:
        """Make an unbound socket demand keys, which are checked over ZAP under ``domain``."""
        server.set(zmq.CURVE_SERVER, 1)
        server.set(zmq.CURVE_SECRETKEY, self.pair.secret)
        server.set(zmq.ZAP_DOMAIN, domain.encode())
        # Otherwise libzmq accepts every key while no ZAP handler runs.
        server.set(zmq.ZAP_ENFORCE_DOMAIN, 1)


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """The keys of a worker, or of a reader of the status."""

    folder: Path
    pair: Pair
    master: bytes
    """The master's public key."""

    def secure(self, client: zmq.Socket[Any]) -> None:
        """Make an unconnected socket prove its key, and accept this master only."""
        client.set(zmq.CURVE_SERVERKEY, self.master)
        client.set(zmq.CURVE_PUBLICKEY, self.pair.public)
        client.set(zmq.CURVE_SECRETKEY, self.pair.secret)


# ---- finding keys --------------------------------------------------------------------------


def default_folder() -> Path:
    """``$XDG_CONFIG_HOME/apbmm/keys``, by default ``~/.config/apbmm/keys``."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else home() / ".config") / "apbmm" / "keys"


def master_keys(given: str | None) -> MasterKeys | None:
    """The master's keys in the folder ``given``, by default in the default folder; None if none.

    Raises `UsageError` for keys that cannot be used.
    """
    folder = _chosen(given, MASTER + SECRET)
    return None if folder is None else _master(folder)


def _master(folder: Path) -> MasterKeys:
    require_private(folder)
    return MasterKeys(folder, load_pair(folder / (MASTER + SECRET), "apbmm keys new-master"))


def worker_keys(given: str | None, name: str) -> ClientKeys | None:
    """The keys of the worker ``name``, found as by `master_keys`. Raises `UsageError`."""
    folder = _chosen(given, name + SECRET)
    if folder is None:
        return None
    return _client(folder, folder / (name + SECRET), name)


def passed_over(given: str | None, name: str) -> Path | None:
    """The default folder, if it holds keys but none for the worker ``name``; else None.

    `worker_keys` then finds no keys, and the operator may have expected some.
    """
    folder = _default_if_any()
    if given is not None or folder is None or (folder / (name + SECRET)).exists():
        return None
    others = any(folder.glob("*" + SECRET)) or (folder / (MASTER + PUBLIC)).exists()
    return folder if others else None


def reader_keys(given: str | None) -> ClientKeys | None:
    """Keys for reading the status: the master's own, or else any worker's in the folder."""
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
    """The default folder; None for a user without a home folder."""
    with suppress(UsageError):
        return default_folder()
    return None


def named_folder(given: str) -> Path:
    """The folder ``given``, absolute and with ~ expanded. Raises `UsageError`."""
    try:
        return Path(given).expanduser().resolve()
    except (OSError, RuntimeError):
        raise UsageError(f"{given}: cannot be a folder of keys") from None


def remedy_for(name: str, folder: Path | None = None) -> str:
    """The hint for a worker without a key; it names the workers whose keys ``folder`` has."""
    make = f"on the master's host apbmm keys new-worker {name} makes one and says what to copy"
    others = [] if folder is None else sorted(path.stem for path in folder.glob("*" + SECRET))
    others = [other for other in others if other not in (MASTER, name)]
    if not others:
        return make
    shown = ", ".join(others[:MOST_NAMES]) + (", ..." if len(others) > MOST_NAMES else "")
    return f"{make}; or --name takes a name whose key is there: {shown}"


def _client(folder: Path, secret: Path, name: str) -> ClientKeys:
    require_private(folder, remedy_for(name))
    pair = load_pair(secret, remedy_for(name, folder))
    public, _ = _load(folder / (MASTER + PUBLIC), "copy it from the master's folder of keys")
    return ClientKeys(folder, pair, public)


def flag_for(keys: MasterKeys) -> str:
    """What a command of these keys ends with: their folder, unless it is the default one."""
    return "" if keys.folder == _default_if_any() else f" --keys {keys.folder}"


# ---- reading keys --------------------------------------------------------------------------


def load_pair(path: Path, remedy: str) -> Pair:
    """The pair in a secret certificate. Raises `UsageError`, also if others can read the file."""
    _require_owner_only(path, "600", remedy)
    public, secret = _load(path, remedy)
    if secret is None:
        raise UsageError(f"{path}: holds no secret key", remedy)
    return Pair(public, secret)


def load_public(path: Path) -> bytes:
    """The public key in a certificate. Raises `UsageError`."""
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
    """Raise `UsageError` if others than the owner can enter a folder of keys.

    ``remedy`` is the hint if the folder does not exist.
    """
    _require_owner_only(folder, "700", remedy)


def _require_owner_only(path: Path, mode: str, remedy: str) -> None:
    try:
        present = path.stat().st_mode
    except OSError as error:
        reason = "no such folder" if mode == "700" else "no such key"
        if not isinstance(error, FileNotFoundError):
            reason = str(error.strerror)
        if isinstance(error, PermissionError):
            remedy = "is it another user's? keys belong to whom reads them: sudo -u USER, or chown"
        raise UsageError(f"{path}: {reason}", remedy) from None
    if stat.S_ISDIR(present) != (mode == "700"):
        raise UsageError(f"{path}: not a {'folder' if mode == '700' else 'file'}", remedy)
    if present & 0o077:
        raise UsageError(f"{path}: others than its owner have access to it", f"chmod {mode} {path}")


# ---- making and revoking keys --------------------------------------------------------------


def new_master(folder: Path) -> MasterKeys:
    """Make a master's folder of keys. Raises `UsageError` if it has keys or cannot be written."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_private(folder)
        _create(folder, MASTER, public=folder)
        (folder / ALLOWED).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be written: {error.strerror}",
            f"make it yours first: install -d -m 700 -o USER {folder}"
            if isinstance(error, PermissionError)
            else "",
        ) from error
    return _master(folder)


def new_worker(keys: MasterKeys, name: str) -> Path:
    """Make and allow a key for the worker ``name``; returns the path of its secret certificate.

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
    """Delete the public key of the worker ``name``. Raises `UsageError` if there is none."""
    try:
        (keys.allowed / (Path(name).name + PUBLIC)).unlink()
    except FileNotFoundError:
        here = ", ".join(sorted(path.stem for path in keys.allowed.glob("*" + PUBLIC)))
        raise UsageError(f"worker {name} is not let in", f"let in: {here or 'nobody'}") from None
    except OSError as error:
        raise UsageError(f"{keys.allowed}: cannot be written: {error.strerror}") from error


def _create(folder: Path, name: str, public: Path) -> Path:
    """Write both certificates of a new pair, or none; returns the path of the secret one.

    Raises `UsageError` rather than replace a file.
    """
    target = folder / (name + SECRET)
    certificate = public / (name + PUBLIC)
    for path in (target, certificate):
        if path.exists():
            hint = "move it away if it is to be replaced"
            if public != folder and not certificate.exists():
                hint = f"its key is not let in: rm {path}, and the same command makes a new one"
            raise UsageError(f"{path} is there already", hint)
    work = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
    try:
        made = [Path(path) for path in create_certificates(work, name)]
        for path in made:
            path.chmod(0o600)
        # The secret first: an allowed key without its secret is useless.
        made[1].rename(target)
        made[0].rename(certificate)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target
