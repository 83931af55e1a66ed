"""What `apbmm doctor` knows of a host before it judges. Sizes are in bytes, times in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CudaVersion = tuple[int, int]
"""Major and minor number."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why something cannot be done, with the hint of the code that found it."""

    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Cards:
    """The GPUs that the driver names. ``cuda`` is the newest CUDA that the driver runs."""

    names: tuple[str, ...] = ()
    memories: tuple[int, ...] = ()
    """That of each card; 0 where the driver does not say."""
    free: tuple[int, ...] = ()
    """What no process uses of it."""
    driver: str = ""
    cuda: CudaVersion | None = None
    has_device: bool = False
    """Whether the kernel's driver has made its device files."""
    trouble: str = ""
    """What nvidia-smi said instead; "" where it is not installed."""


@dataclass(frozen=True, slots=True)
class Package:
    """A distribution that this release needs: its version, "" where it is not installed."""

    name: str
    version: str
    wanted: str
    fits: bool
    """Whether the version is one of those that are wanted."""

    @property
    def requirement(self) -> str:
        """As pip takes it."""
        return f"{self.name}{self.wanted}"


@dataclass(frozen=True, slots=True)
class Packages:
    """What is installed for a worker and for a master."""

    vllm: Package
    evalscope: Package
    torch: Package
    """``wanted`` is what the installed vLLM needs; "" without one."""
    others: tuple[Package, ...] = ()
    """The rest of what a worker needs."""
    search: tuple[Package, ...] = ()
    """What a master needs."""
    torch_cuda: CudaVersion | None = None
    """The CUDA that the installed PyTorch was built for; None for other builds."""
    torch_is_hip: bool = False


@dataclass(frozen=True, slots=True)
class CardProbe:
    """What PyTorch did with the cards. ``faults``: a line for each that computed nothing."""

    seen: int
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Space:
    """The disk of a folder, which need not exist yet."""

    folder: Path
    free: int
    needed: int = 0
    """What a run would put there at a time; 0 where that is not known."""


@dataclass(frozen=True, slots=True)
class SharedMemory:
    """The file system in memory. None of it where ``size`` is 0."""

    folder: Path
    size: int
    free: int
    writable: bool


@dataclass(frozen=True, slots=True)
class Locks:
    """Whether a run directory's file system has the locks that a journal needs."""

    folder: Path
    kind: str
    """Of the file system, as Linux names it."""
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class Port:
    """Whether a master could listen on an address now."""

    address: str
    trouble: Trouble | None = None
    own_master: bool = False
    """Whether the master of the run that is asked about lives, and so has the address."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys in a folder; ``folder`` is None where there is none."""

    folder: Path | None = None
    master: bool = False
    allowed: int = 0
    """Workers that the master lets in."""
    workers: tuple[str, ...] = ()
    """Workers whose secret key is here and can be used."""
    host: str = ""
    """What the names of this host's workers begin with, where --name gives no other."""
    troubles: tuple[Trouble, ...] = ()


@dataclass(frozen=True, slots=True)
class Reach:
    """What answers at the address that workers connect to."""

    address: str
    trouble: str = ""
    is_zmq: bool = True


@dataclass(frozen=True, slots=True)
class Clock:
    """How far the master's clock is ahead of this host's, from its status socket at ``address``."""

    address: str
    ahead: float = 0.0
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """What `apbmm check` finds wrong with a run file, without its questions."""

    file: Path
    faults: tuple[str, ...] = ()
