"""The masters that served a run, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("apbmm", "botorch", "gpytorch", "torch", "numpy")
"""Distributions whose versions decide what a master proposes."""
CURVE = "curve"
"""The security of a master with keys."""


@dataclass(frozen=True)
class MasterSession:
    """A master from its beginning, in Unix seconds; the rest as in `events.EpochStarted`."""

    epoch: int
    host: str
    began: float
    security: str = ""
    versions: dict[str, str] = field(default_factory=dict)


def installed_versions() -> dict[str, str]:
    """The versions of `PACKAGES`, without those that are not installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def change_of_keys(masters: Sequence[MasterSession]) -> str:
    """What has changed if the last master has keys and the one before had none, or the reverse.

    Workers that hold keys of the run's, or that hold none, are then shut out. Empty where nothing
    has changed or an earlier version did not note it.
    """
    securities = [master.security for master in masters[-2:]]
    if len(securities) < 2 or not all(securities):
        return ""
    before, now = (security == CURVE for security in securities)
    if before == now:
        return ""
    return (
        "this run was served with keys until now, and there are none"
        if before
        else "this run was served without keys until now, and there are some"
    )
