"""Find out the facts that `apbmm doctor` judges. Leaves nothing behind on disk."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from apbmm.doctor.facts import (
    CardProbe,
    Cards,
    Clock,
    CudaVersion,
    Keys,
    Locks,
    Port,
    Reach,
    SharedMemory,
    Space,
    Trouble,
)
from apbmm_common.errors import ApbmmError, RunDirectoryError, UsageError
from apbmm_common.process.locks import LockHeldError, lock_file
from apbmm_common.protocol import curve_keys
from apbmm_worker.daemon.options import host_in_names

SECONDS = 3.0
"""How long to wait for a connection."""
PROBE_SECONDS = 120.0
DEVICE_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")
_GREETING_BYTES = 10
_SIOCGIFADDR = 0x8915

# ---- cards -------------------------------------------------------------------------------------


def cards() -> Cards:
    """The NVIDIA cards of this host, by nvidia-smi, and the CUDA of their driver."""
    has_device = any(Path(file).exists() for file in DEVICE_FILES)
    query = ["nvidia-smi", "--query-gpu=index,name,memory.total,driver_version,memory.free"]
    try:
        told = subprocess.run(
            [*query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except FileNotFoundError:
        return Cards(has_device=has_device)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Cards(has_device=has_device, trouble=str(error))
    if told.returncode != 0:
        said = (told.stdout + told.stderr).strip().splitlines()
        status = f"exit status {told.returncode}"
        return Cards(has_device=has_device, trouble=said[0] if said else status)
    return read_cards(told.stdout, driver_cuda(), has_device=has_device)


def read_cards(table: str, cuda: CudaVersion | None, *, has_device: bool = True) -> Cards:
    """The cards in nvidia-smi's table of index, name, MiB, driver and free MiB."""
    rows = [[cell.strip() for cell in line.split(",")] for line in table.splitlines()]
    rows = [row for row in rows if len(row) == 5]
    return Cards(
        names=tuple(f"{row[0]}: {row[1]}{_memory(row[2])}" for row in rows),
        memories=tuple(_bytes(row[2]) for row in rows),
        free=tuple(_bytes(row[4]) for row in rows),
        driver=rows[0][3] if rows else "",
        cuda=cuda,
        has_device=has_device,
    )


def _bytes(mebibytes: str) -> int:
    return int(mebibytes) << 20 if mebibytes.isdecimal() else 0


def _memory(mebibytes: str) -> str:
    """The memory of a card in words; cards that share the host's have none of their own."""
    return f" ({int(mebibytes) / 1024:.0f} GiB)" if mebibytes.isdecimal() else ""


def driver_cuda() -> CudaVersion | None:
    """The newest CUDA that the driver runs, from the driver's own library."""
    version = ctypes.c_int()
    try:
        answer = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return (version.value // 1000, version.value % 1000 // 10) if answer == 0 else None


def visible_cards(found: Cards, environment: Mapping[str, str]) -> int:
    """How many of the cards a process may use: CUDA_VISIBLE_DEVICES can hide some."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return len(found.names)
    return len([part for part in visible.split(",") if part.strip() not in ("", "-1")])


def probe_cards() -> CardProbe:
    """What PyTorch does with the cards, in a process of its own. Takes some seconds."""
    command = [sys.executable, "-P", "-m", "apbmm.doctor.card_probe"]
    try:
        told = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            check=False,
            env={"CUDA_DEVICE_ORDER": "PCI_BUS_ID", **os.environ},
        )
        found = json.loads(told.stdout.strip().splitlines()[-1])
        return CardProbe(found["seen"], tuple(found["faults"]))
    except subprocess.TimeoutExpired:
        return CardProbe(0, (f"PyTorch did not answer within {PROBE_SECONDS:.0f} s",))
    except (ValueError, IndexError):
        lines = told.stderr.strip().splitlines() or [f"exit status {told.returncode}"]
        return CardProbe(0, (f"PyTorch cannot be used: {lines[-1]}",))


# ---- folders and memory ------------------------------------------------------------------------


def nearest(folder: Path) -> Path:
    """The folder itself, or else the nearest one above it that exists."""
    folder = folder.absolute()
    return next((each for each in (folder, *folder.parents) if each.is_dir()), Path("/"))


def space(folder: Path, needed: int = 0) -> Space:
    """Free space on the disk where a folder is or would be."""
    return Space(folder, shutil.disk_usage(nearest(folder)).free, needed)


def shared_memory(folder: Path) -> SharedMemory:
    """The file system in memory at ``folder``."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return SharedMemory(folder, 0, 0, writable=False)
    return SharedMemory(folder, usage.total, usage.free, os.access(folder, os.W_OK))


def locks(run_dir: Path) -> Locks:
    """Whether files in a run directory, or where it would be made, can be written and locked."""
    from apbmm_master.journal.storage.run_directory import (
        file_system,
        refuse_network_file_system,
        unusable,
    )

    folder = nearest(run_dir)
    kind = file_system(folder)
    try:
        if run_dir.exists() and not run_dir.is_dir():
            raise RunDirectoryError(unusable(run_dir, FileExistsError()), "choose another folder")
        refuse_network_file_system(folder)
        with tempfile.NamedTemporaryFile(prefix=".apbmm-doctor-", dir=folder) as file:
            trouble = _lock_twice(Path(file.name))
    except RunDirectoryError as error:
        trouble = Trouble(error.message, error.hint)
    except OSError as error:
        trouble = Trouble(unusable(folder, error), "choose another folder, or make it writable")
    return Locks(folder, kind, trouble)


def _lock_twice(file: Path) -> Trouble | None:
    """A lock that is held must keep a second one out. Raises OSError for a file system without."""
    lock = lock_file(file, create=False)
    try:
        lock_file(file, create=False).release()
    except LockHeldError:
        return None
    finally:
        lock.release()
    return Trouble(
        f"{file.parent}: a lock on a file there keeps nobody out", "is it on a local disk?"
    )


# ---- network and keys --------------------------------------------------------------------------


def port(address: str, *, own_master: bool = False) -> Port:
    """Whether a master could listen on an address now."""
    from apbmm_master.serve import require_free

    try:
        require_free(address, None)
    except UsageError as error:
        return Port(address, Trouble(error.message, error.hint), own_master)
    return Port(address)


def reachable_addresses() -> tuple[str, ...]:
    """The addresses of this host's interfaces, without those that only this host can reach."""
    return (*_ipv4_addresses(), *_ipv6_addresses())


def _ipv4_addresses() -> Iterator[str]:
    """The first address of each interface that is up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            with suppress(OSError):  # it has no IPv4 address
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
                address = socket.inet_ntoa(answer[20:24])
                if not address.startswith("127."):
                    yield address


def _ipv6_addresses(table: Path = Path("/proc/net/if_inet6")) -> Iterator[str]:
    """Addresses that are good beyond the link, in brackets."""
    with suppress(OSError):
        for line in table.read_text(encoding="ascii").splitlines():
            digits, _, _, scope, *_ = line.split()
            if scope == "00":  # global
                yield f"[{socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))}]"


def keys(given: str | None) -> Keys:
    """The keys of the folder that is given, or else of the default one, each read once."""
    if given == curve_keys.NO_KEYS:
        return Keys()
    try:
        folder = curve_keys.named_folder(given) if given else curve_keys.default_folder()
        if given is None and not folder.is_dir():
            return Keys()
        curve_keys.require_private(folder)
    except UsageError as error:
        return Keys(Path(given or "."), troubles=(Trouble(error.message, error.hint),))
    master, troubles, workers = None, [], []
    for secret in sorted(folder.glob("*" + curve_keys.SECRET)):
        try:
            if secret.stem == curve_keys.MASTER:
                master = curve_keys.master_keys(str(folder))
            else:
                curve_keys.worker_keys(str(folder), secret.stem)
                workers.append(secret.stem)
        except UsageError as error:
            troubles.append(Trouble(error.message, error.hint))
    allowed = len(list(master.allowed.glob("*" + curve_keys.PUBLIC))) if master else 0
    return Keys(
        folder, master is not None, allowed, tuple(workers), host_in_names(), tuple(troubles)
    )


def reach(address: str) -> Reach:
    """Whether ZeroMQ answers at a TCP address. Raises `UsageError` for what is no address."""
    from apbmm_common.protocol.addresses import require_tcp

    host = require_tcp(address, "--master")
    try:
        with socket.create_connection((host, int(address.rpartition(":")[2])), SECONDS) as link:
            link.settimeout(SECONDS)
            return Reach(address, is_zmq=_greets(link))
    except OSError as error:
        return Reach(address, error.strerror or str(error))


def _greets(link: socket.socket) -> bool:
    """Whether the other side sends the greeting of ZeroMQ's protocol, as it does unasked."""
    said = b""
    try:
        while len(said) < _GREETING_BYTES and (more := link.recv(_GREETING_BYTES - len(said))):
            said += more
    except OSError:
        return False
    return len(said) == _GREETING_BYTES and said[0] == 0xFF and said[-1] == 0x7F


def clock(address: str, given: str | None) -> Clock:
    """The difference of clocks, from a status socket; ``given`` is the folder of keys."""
    from apbmm_common.protocol.curve_keys import reader_keys
    from apbmm_common.protocol.status_requests import ask

    try:
        known = None if address.startswith("ipc://") else reader_keys(given)
        asked = time.time()
        answer = ask(address, known, request=b"time")
        ended = time.time()
    except ApbmmError as error:
        return Clock(address, trouble=Trouble(error.message, error.hint))
    return Clock(address, float(answer["time"]) - (asked + ended) / 2)
