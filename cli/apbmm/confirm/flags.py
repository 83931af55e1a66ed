"""The flags of `apbmm confirm`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

Switch = Annotated[bool, Parameter(negative=())]


@Parameter(name="*")
@dataclass(frozen=True)
class ConfirmOptions:
    """Without ``gpus`` the workers are those of other commands; a demo brings its own.

    Parameters
    ----------
    evaluations
        Confirm this evaluation, and not the front. May be given several times.
    run_file
        The run file of the search with other [[confirm.benchmarks]] than it was begun with.
    bind
        Address that workers connect to. Default: tcp://127.0.0.1:5711; with --gpus, and for a
        demo, a free port that only this host reaches.
    status_bind
        TCP address that answers status requests.
    keys
        Folder of keys. Default: ~/.config/apbmm/keys if there are keys in it; none goes without.
    insecure
        Without keys, allow addresses that other hosts can reach.
    gpus
        Start workers on these cards of this host too, as apbmm run does: 0,1 or all, or cpu.
    workers
        Workers on the CPU, with --gpus cpu (default: 1) or of a demo (default: 2).
    json
        Print one JSON object at the end.
    quiet
        Print nothing at the end.
    """

    evaluations: Annotated[tuple[str, ...], Parameter(name="--eval", negative=())] = ()
    run_file: Path | None = None
    bind: str | None = None
    status_bind: str | None = None
    keys: Annotated[str | None, Parameter(env_var="APBMM_KEYS")] = None
    insecure: Switch = False
    gpus: Annotated[str | None, Parameter(name=("--gpus", "--gpu"))] = None
    workers: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None
    json: Switch = False
    quiet: Switch = False


NONE_GIVEN = ConfirmOptions()
