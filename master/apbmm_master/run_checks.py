"""A run file that a search can start from: what its tables say, and what the search makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from apbmm_common.errors import ApbmmError, RunFileError, UsageError, WireError
from apbmm_common.protocol.codec import MAX_BYTES, decode, encode
from apbmm_common.protocol.messages import FROM_MASTER, Welcome
from apbmm_common.run_file.diagnostics import Salvage
from apbmm_common.run_file.engine_limits import forbidden
from apbmm_common.run_file.load import Algorithm, RunSpec, load_run_file, not_valid, read_table
from apbmm_master.search.errors import SearchError
from apbmm_master.search.methods import create, require_known


def load_run(run_file: Path) -> RunSpec:
    """Read and validate a run file. Raises `RunFileError` naming every fault at once.

    Faults are of its tables, of the search method with its settings, of the engine's arguments,
    and of what does not go into a message; of a file that is not valid as a whole, too.
    """
    faults: list[str] = []
    spec: RunSpec | None = None
    part: object
    try:
        part = spec = load_run_file(run_file)
    except RunFileError as error:
        if not error.faults:  # it could not be read at all
            raise
        faults += error.faults
        part = Salvage().section(RunSpec, read_table(run_file))
    faults += _method_faults(getattr(part, "algorithm", None))
    arguments = getattr(getattr(part, "engine", None), "arguments", ())
    faults += map(str, forbidden(arguments))
    if spec is not None:
        faults += _message_faults(spec.model_dump(mode="json"))
    if faults or spec is None:
        raise not_valid(str(run_file), faults)
    return spec


def _method_faults(algorithm: object) -> Iterator[str]:
    """What the search says of the run file's table; of one that is not sound, of its name alone."""
    name, place = getattr(algorithm, "name", None), "algorithm.name"
    try:
        if name is not None:
            require_known(name)
        place = "algorithm.settings"
        # A host that only looks at runs need not have what the methods are made of.
        if isinstance(algorithm, Algorithm) and find_spec("botorch") is not None:
            require_settings(algorithm)
    except ApbmmError as error:
        yield f"{place}: {error}"


def _message_faults(spec: dict[str, Any]) -> Iterator[str]:
    """Workers are told all of it in one message: names the tables that do not go in."""
    fault = _untold(spec)
    if fault:
        guilty = ", ".join(name for name, part in spec.items() if _untold({name: part}))
        hint = f"altogether at most {MAX_BYTES >> 20} MiB of plain values, none nested deeply"
        yield f"{guilty or 'all tables'}: workers cannot be told: {fault} (hint: {hint})"


def _untold(spec: dict[str, Any]) -> str:
    """Why a WELCOME with this, and with all that one may hold besides, cannot be sent or read."""
    leases = ("x" * 128,) * 16
    try:
        welcome = Welcome(run="x" * 128, epoch=2**31, spec=spec, keep=leases, abandon=leases)
        decode(encode(welcome), FROM_MASTER)
    except WireError as error:
        return error.message
    return ""


def require_settings(algorithm: Algorithm) -> None:
    """Refuse settings that the search method does not have. Raises `UsageError`.

    Only their presence costs the import of the method, which may take seconds.
    """
    if not algorithm.settings:
        return
    try:
        create(algorithm.name, 2, **algorithm.settings)
    except SearchError as error:
        raise UsageError(error.message, error.hint) from error
    except TypeError as error:  # a setting with the name of an argument of create
        raise UsageError(f"{algorithm.name}: a setting that cannot be: {error}") from error
