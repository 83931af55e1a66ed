"""`apbmm doctor`: gathers facts, judges them, and prints a line for each check."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apbmm.check.inspect import NO_SEARCH, inspect
from apbmm.doctor import gather, verdicts
from apbmm.doctor.facts import Run
from apbmm.doctor.packages import installed_packages
from apbmm.doctor.verdicts import Check
from apbmm.results.json_form import print_json
from apbmm.results.run_directories import RUNS, local_address
from apbmm_common import __version__
from apbmm_common.errors import EXIT_DONE, EXIT_FAILED, UsageError
from apbmm_common.process.home import state_home
from apbmm_common.protocol.addresses import require_tcp
from apbmm_master.app import MasterFlags
from apbmm_worker.merging.folders.orphaned_folders import MEMORY

if TYPE_CHECKING:
    from apbmm.check.inspect import Inspection

SCHEMA = 1


@dataclass(frozen=True)
class DoctorRequest:
    """What the command line asks for."""

    run_file: Path | None = None
    run_dir: Path | None = None
    scratch: Path | None = None
    master: str | None = None
    status: str | None = None
    keys: str | None = None
    as_json: bool = False


def run_doctor(request: DoctorRequest) -> int:
    """Print every check; returns the exit code, 1 where one has failed.

    Raises `UsageError` for an address that is none.
    """
    if request.master is not None:
        require_tcp(request.master, "--master")
    done = []
    for check in checks(request):
        done.append(check)
        if not request.as_json:
            sys.stdout.write(as_text(check))
            sys.stdout.flush()
    failed = verdicts.failed(done)
    if request.as_json:
        found = {"schema": SCHEMA, "version": __version__, "failed": failed}
        print_json({**found, "checks": [asdict(check) for check in done]})
    return EXIT_FAILED if failed else EXIT_DONE


def as_text(check: Check) -> str:
    """The line of a check, and below it what to do."""
    line = f"{check.verdict:<8} {check.name:<14} {check.found}\n"
    return line + (f"{'':<8} {'':<14} -> {check.remedy}\n" if check.remedy else "")


def checks(request: DoctorRequest) -> Iterator[Check]:
    """All checks, each as soon as its facts are known."""
    yield from _installed()
    inspected = inspect(request.run_file) if request.run_file else None
    run_dir = _run_dir(request, inspected)
    yield from _folders(run_dir, request.scratch, inspected)
    address = request.status or local_address(run_dir)
    yield from _network(request, has_master=bool(local_address(run_dir)))
    if inspected is not None:
        yield verdicts.run_check(Run(inspected.run_file, tuple(inspected.faults)))
    if request.master is not None:
        yield verdicts.reach_check(gather.reach(request.master))
    if address:
        yield verdicts.clock_check(gather.clock(address, request.keys))


def _installed() -> Iterator[Check]:
    """Cards, and what is installed to use them."""
    cards, packages = gather.cards(), installed_packages()
    yield verdicts.card_check(cards)
    yield from verdicts.worker_checks(packages, cards)
    if packages.torch_is_hip or (packages.torch_cuda is not None and cards.names):
        probe = gather.probe_cards()
        wanted = probe.seen if packages.torch_is_hip else gather.visible_cards(cards, os.environ)
        yield verdicts.probe_check(probe, wanted)
    if packages.search:
        yield verdicts.search_check(packages.search, NO_SEARCH)


def _run_dir(request: DoctorRequest, inspected: Inspection | None) -> Path:
    """The run directory that apbmm-master would take."""
    if request.run_dir is not None:
        return request.run_dir
    return RUNS / inspected.spec.name if inspected and inspected.spec else RUNS


def _folders(run_dir: Path, scratch: Path | None, inspected: Inspection | None) -> Iterator[Check]:
    """Disks, shared memory and locks, for one merged checkpoint of the run at a time."""
    checkpoints = inspected.checkpoints.values() if inspected else ()
    size = max((checkpoint.weight_bytes for checkpoint in checkpoints), default=0)
    yield verdicts.space_check("run directory", gather.space(run_dir))
    try:
        scratch = scratch or state_home()
    except UsageError as error:  # a user without a home
        yield Check("scratch", "warning", error.message, f"{error.hint}, or give workers --state")
    else:
        yield verdicts.space_check("scratch", gather.space(scratch, size))
    yield verdicts.shared_memory_check(gather.shared_memory(MEMORY), size)
    yield verdicts.locks_check(gather.locks(run_dir))


def _network(request: DoctorRequest, *, has_master: bool) -> Iterator[Check]:
    """The port of a master, the addresses of this host, and keys."""
    bind = MasterFlags().bind
    keys = gather.keys(request.keys)
    yield verdicts.port_check(gather.port(bind, own_master=has_master))
    number = bind.rpartition(":")[2]
    yield verdicts.addresses_check(gather.reachable_addresses(), number, keys)
    yield verdicts.keys_check(keys)
