"""The verdicts of `apbmm doctor`: functions of gathered facts, without side effects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from apbmm.clean.command import in_bytes
from apbmm.doctor.facts import (
    CardProbe,
    Cards,
    Clock,
    CudaVersion,
    Keys,
    Locks,
    Package,
    Packages,
    Port,
    Reach,
    Run,
    SharedMemory,
    Space,
)
from apbmm_common.run_file import EngineSection

Verdict = Literal["ok", "warning", "failed"]

LEAST_FREE = 64 << 20
"""Bytes. Below this a master keeps no answers and a worker can hardly write its results."""
AMPLE_FREE = 1 << 30
"""Bytes. A journal with its answers, and a worker's logs and texts, stay below this."""
ENGINE_MEMORY = 256 << 20
"""Bytes of shared memory in which the processes of one tensor-parallel vLLM engine exchange
messages: ten chunks of 16 MiB to all of them, and a queue back from each. A container has 64 MiB
unless told otherwise."""
ENGINE_SHARE = EngineSection().gpu_memory_utilization
CLOCK_SECONDS = 5.0
"""A difference below this disturbs nobody who reads two logs side by side."""
SOURCES = "in the folder of apbmm's sources"
WORKER_ADDS_IT = f"pip install '.[worker]' {SOURCES} adds it"


@dataclass(frozen=True, slots=True)
class Check:
    """One line: what was looked at, the verdict, what was found, and what to do about it."""

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


def failed(checks: Iterable[Check]) -> bool:
    """Whether a check has failed, and not merely warned."""
    return any(check.verdict == "failed" for check in checks)


# ---- cards and what runs on them ---------------------------------------------------------------


def card_check(cards: Cards) -> Check:
    """GPUs and their driver."""
    if cards.names:
        cuda = f", for CUDA up to {_dotted(cards.cuda)}" if cards.cuda else ""
        found = f"{'; '.join(cards.names)}; driver {cards.driver}{cuda}"
        used = [
            f"{free / whole:.0%} of card {name.partition(':')[0]}"
            for name, whole, free in zip(cards.names, cards.memories, cards.free, strict=True)
            if free < whole * ENGINE_SHARE
        ]
        if not used:
            return Check("cards", "ok", found)
        return Check(
            "cards",
            "warning",
            f"{found}; free is {', '.join(used)}: vLLM does not start where less is free than it "
            f"takes, {ENGINE_SHARE:.0%} by default",
            "nvidia-smi names what uses the memory; gpu_memory_utilization in [engine], or "
            "apbmm-worker --engine-arg, has vLLM take less",
        )
    if cards.trouble:
        return Check(
            "cards",
            "failed",
            f"nvidia-smi: {cards.trouble}",
            "a driver that was just updated needs a restart of the host; in a container the cards "
            "have to be given to it (docker run --gpus all)",
        )
    if cards.has_device:
        return Check(
            "cards",
            "warning",
            "the kernel has NVIDIA devices, but nvidia-smi is not installed",
            "install the driver's tools (nvidia-utils), so that cards and driver can be named",
        )
    return Check("cards", "ok", "no NVIDIA card: workers run with --gpu cpu, or on cards for ROCm")


def torch_check(packages: Packages, cards: Cards) -> Check:
    """PyTorch's build, against the cards, the driver, and what the installed vLLM needs."""
    torch = packages.torch
    build = _build(packages)
    found = f"{torch.version}, a build for {build}"
    if not torch.version:
        return _not_installed("torch", WORKER_ADDS_IT)
    if not torch.fits:
        return Check(
            "torch",
            "failed",
            f"{found}; vLLM {packages.vllm.version} needs {torch.wanted.lstrip('=')}",
            f"{_install(torch)}, or install vLLM anew with its own PyTorch",
        )
    has_cards = bool(cards.names or cards.has_device)
    if build == "the CPU" and has_cards:
        return Check(
            "torch",
            "failed",
            f"{found}, and this host has cards",
            f"pip install '.[worker]' {SOURCES}, into an environment of its own; workers with "
            "--gpu cpu run as it is",
        )
    if packages.torch_cuda is None:
        return Check("torch", "ok", found)
    return _driver_check(packages.torch_cuda, cards, found)


def _driver_check(built: CudaVersion, cards: Cards, found: str) -> Check:
    """A CUDA build against the driver: it runs under any minor version of its own major version."""
    if not cards.names:
        return Check(
            "torch",
            "warning",
            f"{found}, and no card was found",
            f"on a host without cards: pip install '.[worker-cpu]' {SOURCES}, into an environment "
            "of its own",
        )
    if cards.cuda is None or cards.cuda >= built:
        return Check("torch", "ok", found)
    older = f"{found}; driver {cards.driver} is for CUDA up to {_dotted(cards.cuda)}"
    remedy = f"update the driver, or install a PyTorch built for CUDA {_dotted(cards.cuda)} or less"
    if cards.cuda[0] < built[0]:
        return Check("torch", "failed", older, remedy)
    return Check(
        "torch",
        "warning",
        f"{older}: kernels that are compiled when first used may be refused",
        remedy,
    )


def probe_check(probe: CardProbe, wanted: int) -> Check:
    """Whether PyTorch sees the ``wanted`` cards and computes on each."""
    if probe.faults:
        return Check(
            "computing",
            "failed",
            "; ".join(probe.faults),
            "PyTorch's build has to fit card and driver; nvidia-smi shows who uses a card",
        )
    if probe.seen < wanted:
        return Check(
            "computing",
            "failed" if not probe.seen else "warning",
            f"PyTorch sees {probe.seen} of {wanted} cards",
            "does CUDA_VISIBLE_DEVICES name cards that are there, and may this user open "
            "/dev/nvidia*?",
        )
    return Check("computing", "ok", f"PyTorch computes on {probe.seen} of {wanted} cards")


def vllm_check(packages: Packages) -> Check:
    """The installed vLLM against the versions that this release runs with."""
    vllm = packages.vllm
    if not vllm.version:
        return _not_installed("vllm", WORKER_ADDS_IT)
    if not vllm.fits:
        found = f"{vllm.name} {vllm.version}, and this release runs with {vllm.wanted}"
        return Check("vllm", "failed", found, _install(vllm))
    return Check("vllm", "ok", f"{vllm.name} {vllm.version}")


def evalscope_check(evalscope: Package) -> Check:
    """EvalScope against the one version that this release is pinned to."""
    if not evalscope.version:
        return _not_installed("evalscope", _install(evalscope))
    if not evalscope.fits:
        return Check(
            "evalscope",
            "failed",
            f"{evalscope.version}, and this release is pinned to {evalscope.wanted.lstrip('=')}: "
            "another may score answers otherwise",
            _install(evalscope),
        )
    return Check("evalscope", "ok", evalscope.version)


def worker_checks(packages: Packages, cards: Cards) -> Iterator[Check]:
    """All that a worker needs installed; one warning where none of it is."""
    if not packages.vllm.version and not packages.evalscope.version:
        yield Check(
            "worker",
            "warning",
            "this host cannot run apbmm-worker: vLLM and EvalScope are not installed",
            f"pip install '.[worker]', or '.[worker-cpu]', {SOURCES}",
        )
        return
    yield torch_check(packages, cards)
    yield vllm_check(packages)
    yield evalscope_check(packages.evalscope)
    if packages.others:
        yield rest_check("packages", packages.others)


def rest_check(name: str, packages: Sequence[Package]) -> Check:
    """The further packages of a worker or a master: one that is missing, or of another version."""
    missing = [package for package in packages if not package.version]
    other = [package for package in packages if package.version and not package.fits]
    if not missing and not other:
        return Check(name, "ok", ", ".join(f"{each.name} {each.version}" for each in packages))
    said = [f"{each.name} is not installed" for each in missing]
    said += [f"{each.name} {each.version} is not {each.wanted}" for each in other]
    verdict: Verdict = "failed" if missing else "warning"
    return Check(name, verdict, "; ".join(said), _install(*missing, *other))


def search_check(packages: Sequence[Package], remedy: str) -> Check:
    """What a master needs installed. ``remedy`` is for a host where none of it is."""
    if not any(package.version for package in packages):
        said, _, rest = remedy.partition(": ")
        return Check("search", "warning", said, rest)
    return rest_check("search", packages)


def _not_installed(name: str, remedy: str) -> Check:
    return Check(name, "failed", "not installed", remedy)


def _install(*packages: Package) -> str:
    """The command that installs the versions that this release wants."""
    return " ".join(["pip install", *(f"'{package.requirement}'" for package in packages)])


def _build(packages: Packages) -> str:
    if packages.torch_cuda is not None:
        return f"CUDA {_dotted(packages.torch_cuda)}"
    return "ROCm" if packages.torch_is_hip else "the CPU"


def _dotted(version: CudaVersion) -> str:
    return ".".join(map(str, version))


# ---- folders and memory ------------------------------------------------------------------------


def space_check(name: str, space: Space) -> Check:
    """Free space of the disk of a run directory, or of scratch."""
    found = f"{in_bytes(space.free)} free for {space.folder}"
    if space.free < LEAST_FREE:
        return Check(name, "failed", found, "free some space, or choose a folder on another disk")
    if space.free < space.needed:
        return Check(
            name,
            "warning",
            f"{found}, and one merged checkpoint takes {in_bytes(space.needed)}",
            "free some space, or start workers with --scratch on another disk",
        )
    if space.free < AMPLE_FREE:
        return Check(name, "warning", found, "free some space before a run of days")
    return Check(name, "ok", found)


def shared_memory_check(memory: SharedMemory, needed: int = 0) -> Check:
    """Shared memory: for tensor-parallel engines, and for merges on their way to the engine.

    ``needed``: bytes of one merged checkpoint; 0 where that is not known.
    """
    found = f"{in_bytes(memory.size)} in {memory.folder}, {in_bytes(memory.free)} free"
    remedy = "docker run --shm-size 16g or --ipc host; in Kubernetes a volume emptyDir of medium "
    remedy += f"Memory at {memory.folder}"
    if not memory.size or not memory.writable:
        return Check(
            "shared memory",
            "warning",
            f"{memory.folder} cannot be written to: merges go through the scratch folder, and "
            "tensor-parallel engines do not start",
            remedy,
        )
    if memory.free < ENGINE_MEMORY:
        return Check(
            "shared memory",
            "warning",
            f"{found}: too little for a tensor-parallel engine",
            remedy,
        )
    if needed > memory.free:
        found += "; a merged checkpoint does not fit and goes through the scratch folder"
    return Check("shared memory", "ok", found)


def locks_check(locks: Locks) -> Check:
    """Whether the run directory can be written to and locked, on a file system for a journal."""
    if locks.trouble is not None:
        return Check("file locks", "failed", locks.trouble.message, locks.trouble.hint)
    return Check("file locks", "ok", f"work in {locks.folder} ({locks.kind or 'unknown'})")


# ---- network and keys --------------------------------------------------------------------------


def port_check(port: Port) -> Check:
    """Whether a master can listen on its address."""
    if port.trouble is None:
        return Check("port", "ok", f"{port.address} is free")
    if port.own_master:
        return Check("port", "ok", f"{port.address} is in use, and the run's master lives")
    return Check("port", "warning", port.trouble.message, port.trouble.hint)


def addresses_check(addresses: Sequence[str], port: str, keys: Keys) -> Check:
    """The addresses at which other hosts may reach a master on this one.

    ``addresses`` are those of the interfaces; IPv6 addresses are in brackets.
    """
    if not addresses:
        return Check(
            "addresses",
            "warning",
            "no network interface but the loopback: workers on this host only",
            "connect the host to a network, if other hosts are to have workers",
        )
    shown = ", ".join(f"tcp://{address}:{port}" for address in addresses)
    how = f"with --bind tcp://0.0.0.0:{port}"
    if any(address.startswith("[") for address in addresses):
        how += f" (tcp://[::]:{port} with IPv6)"
    if not keys.master:
        how += " and keys (apbmm keys new-master)"
    return Check("addresses", "ok", f"other hosts may reach a master as {shown}, {how}")


def keys_check(keys: Keys) -> Check:
    """Keys, and who else can read them."""
    if keys.folder is None:
        return Check("keys", "ok", "none: a master and workers on one host need none")
    if keys.troubles:
        hints = dict.fromkeys(trouble.hint for trouble in keys.troubles if trouble.hint)
        return Check(
            "keys",
            "failed",
            "; ".join(trouble.message for trouble in keys.troubles),
            "; ".join(hints),
        )
    said = []
    if keys.master:
        said.append(f"a master's, which lets {keys.allowed} workers in")
    if keys.workers:
        said.append(f"of {', '.join(keys.workers)}")
    if not said:
        return Check(
            "keys",
            "warning",
            f"{keys.folder} holds no secret key",
            "apbmm keys new-master makes a master's, apbmm keys new-worker NAME a worker's",
        )
    found = f"{'; '.join(said)} ({keys.folder})"
    if not keys.master and not any(name.startswith(f"{keys.host}-") for name in keys.workers):
        own = f"{keys.host}-gpu0"
        return Check(
            "keys",
            "warning",
            f"{found}, but workers of this host call themselves {own} and the like",
            f"start them with --name, or apbmm keys new-worker {own} on the master's host",
        )
    return Check("keys", "ok", found)


def reach_check(reach: Reach) -> Check:
    """Whether a master listens where workers are to connect."""
    if reach.trouble:
        return Check(
            "master",
            "failed",
            f"{reach.address} cannot be reached: {reach.trouble}",
            "does the master run, with --bind on an address that other hosts reach, and does a "
            "firewall let the port through? (workers wait for a master that starts later)",
        )
    if not reach.is_zmq:
        return Check(
            "master",
            "failed",
            f"{reach.address}: something else than apbmm-master answers there",
            "is it the master's --bind address?",
        )
    return Check("master", "ok", f"{reach.address} answers")


def clock_check(clock: Clock) -> Check:
    """This host's clock against the master's."""
    if clock.trouble is not None:
        return Check("clock", "failed", clock.trouble.message, clock.trouble.hint)
    said = f"the master's clock ({clock.address}) is {abs(clock.ahead):.1f} s "
    said += "ahead of this host's" if clock.ahead > 0 else "behind this host's"
    if abs(clock.ahead) > CLOCK_SECONDS:
        return Check(
            "clock",
            "warning",
            f"{said}: times in logs do not compare, those of the run stay right",
            "let both hosts follow one time server: timedatectl set-ntp true",
        )
    return Check("clock", "ok", said)


def run_check(run: Run) -> Check:
    """Whether the run file and the folders that it names are in order."""
    count = len(run.faults)
    if not count:
        return Check("run file", "ok", f"{run.file}: its folders are there and fit")
    errors = "1 error" if count == 1 else f"{count} errors"
    more = f", and {count - 1} more" if count > 1 else ""
    return Check(
        "run file",
        "failed",
        f"{run.file}: {errors}: {run.faults[0]}{more}",
        f"apbmm check {run.file} names them all",
    )
