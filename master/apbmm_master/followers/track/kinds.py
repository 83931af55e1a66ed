"""The kinds of trackers, by the name that a run file has for them."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from apbmm_common.errors import UsageError
from apbmm_master.followers.track.sending import Open

KINDS = ("trackio", "wandb", "mlflow")
"""Each is the name of its package, of its module here, and of the extra that installs it."""


def require_tracker(kind: str) -> None:
    """Raise `UsageError` where the package of a tracker is not installed."""
    if find_spec(kind) is None:
        raise UsageError(
            f"track.tracker is {kind}, and the package {kind} is not installed",
            f"pip install '.[{kind}]', in the folder of apbmm's sources, adds it; or leave "
            "track.tracker out",
        )


def opener(kind: str) -> Open:
    """What begins a run in a tracker of a kind, or goes on with it there."""
    found: Open = import_module(f"apbmm_master.followers.track.{kind}_tracker").open_tracker
    return found
