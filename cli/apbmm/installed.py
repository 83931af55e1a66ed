"""What is installed on this host: packages that a command needs, and the device they are for."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from apbmm_common.errors import UsageError

EVALUATION = ("torch", "evalscope")
"""What every evaluation needs, whatever its engine."""
SEARCH = ("botorch",)
"""What a master needs for its search."""
ENGINES = {"vllm": ("vllm",)}
"""What an engine needs, by its kind."""


MASTER_HINT = "pip install '.[master]', in the folder of apbmm's sources, has all that it needs"
"""How a command gets what it shares with a master."""


def require_installed(purpose: str, packages: Iterable[str], hint: str) -> None:
    """Raise `UsageError` with ``hint`` if a package that ``purpose`` needs is not installed."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"{purpose}, but {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not installed",
            hint,
        )


def on_cpu() -> bool:
    """Whether the CPU build of PyTorch is installed, or none."""
    try:
        return version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return True
