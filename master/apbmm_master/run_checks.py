"""Reads a run file and checks everything about it that needs no other file.

`apbmm_common.run_file` knows the schema. This module adds what only the master knows: the search
methods and their settings, and whether the run fits into the message that tells workers of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from apbmm_common.errors import RunFileError, UsageError, WireError
from apbmm_common.protocol.codec import MAX_BYTES, decode, encode
from apbmm_common.protocol.messages import FROM_MASTER, Welcome
from apbmm_common.run_file import LEAST_SOURCES, AlgorithmSection, RunSpec, parse_run
from apbmm_common.run_file.load import not_valid, read_table
from apbmm_master.search.errors import SearchError
from apbmm_master.search.methods import create, names, require_known, takes_estimates


def load_run(run_file: Path) -> RunSpec:
    """Read and validate a run file. Raises `RunFileError` with all of its faults at once.

    Where some tables are invalid, the others are checked all the same.
    """
    table, faults = read_table(run_file), list[str]()
    try:
        spec = parse_run(table, str(run_file))
    except RunFileError as error:
        faults += error.faults
        faults += _method_faults(table.get("algorithm", {}))
    else:
        faults += _method_faults(table.get("algorithm", {}), spec)
        faults += _step_faults(spec)
        faults += _message_faults(spec.for_workers())
        if not faults:
            return spec
    raise not_valid(str(run_file), faults)


def _method_faults(table: object, spec: RunSpec | None = None) -> Iterator[str]:
    """What the search says of the table ``[algorithm]``, if that is valid.

    ``spec``: the whole run, if that is.
    """
    try:
        algorithm = AlgorithmSection.model_validate(table)
    except ValidationError:
        return
    try:
        require_known(algorithm.name)
    except SearchError as error:
        yield f"algorithm.name: {error}"
        return
    # A host that is only used to look at runs need not have BoTorch.
    if find_spec("botorch") is not None:
        try:
            require_settings(algorithm, spec)
        except UsageError as error:
            yield f"algorithm.settings: {error}"


def _step_faults(spec: RunSpec) -> Iterator[str]:
    """Why the search method cannot be told estimates, where merges are measured in steps."""
    name = spec.algorithm.name
    known = name in names() and find_spec("botorch") is not None
    if spec.steps.in_part and known and not takes_estimates(name):
        key = "enabled" if spec.steps.enabled else "stop_beaten"
        yield f"steps.{key}: {name} would take estimates of merges for measurements"


def _message_faults(spec: dict[str, Any]) -> Iterator[str]:
    """The fault of a run that does not fit into a WELCOME message, naming the guilty tables."""
    fault = _welcome_fault(spec)
    if fault:
        guilty = ", ".join(name for name, part in spec.items() if _welcome_fault({name: part}))
        hint = f"altogether at most {MAX_BYTES >> 20} MiB of plain values, none nested deeply"
        yield f"{guilty or 'all tables'}: workers cannot be told: {fault} (hint: {hint})"


def _welcome_fault(spec: dict[str, Any]) -> str:
    """Why the longest WELCOME with this ``spec`` cannot be encoded or decoded; "" if it can."""
    leases = ("x" * 128,) * 16
    try:
        welcome = Welcome(run="x" * 128, epoch=2**31, spec=spec, keep=leases, abandon=leases)
        decode(encode(welcome), FROM_MASTER)
    except WireError as error:
        return error.message
    return ""


def require_settings(algorithm: AlgorithmSection, spec: RunSpec | None = None) -> None:
    """Raise `UsageError` for settings that the search method does not have.

    ``spec``: the run whose sources it merges; two without it.
    """
    if not algorithm.settings:  # which spares the import of the method, of a second or more
        return
    try:
        sources = LEAST_SOURCES if spec is None else len(spec.sources.names)
        numbers = sources - (spec is None or spec.merge.combine == "simplex")
        create(algorithm.name, 2 * numbers, numbers=numbers, sources=sources, **algorithm.settings)
    except SearchError as error:
        raise UsageError(error.message, error.hint) from error
    except TypeError as error:  # a setting with the name of a parameter of `create`
        raise UsageError(f"{algorithm.name}: a setting that cannot be: {error}") from error
