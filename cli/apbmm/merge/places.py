"""Where a merge is written, and where the digests of its sources are kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from apbmm_common.errors import UsageError


def expanded(path: str | Path, flag: str) -> Path:
    """A path with its ~ spelt out, which the shell leaves where it is quoted or follows a =."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UsageError(f"{flag} {path}: there is no such home folder") from None


RECIPE = "apbmm_merge.json"
"""As in `apbmm_worker.merging.folders.folder`, which takes long to import."""


def output_folder(given: Path, *, replace: bool = False) -> Path:
    """Where to write, links followed; with ``replace`` an earlier merge may be there.

    Raises `UsageError` where a merge cannot be written.
    """
    try:
        out = expanded(given, "--out").resolve()
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            earlier = (out / RECIPE).is_file()
            if not (replace and earlier):
                raise UsageError(
                    f"--out {given}: exists and is not an empty folder",
                    "choose another"
                    if replace or not earlier
                    else "choose another; apbmm export replaces an earlier merge with --force",
                )
        if out.is_mount():
            raise UsageError(f"--out {given}: a file system's root", "name a folder within it")
        # The merge is made in a folder beside it, with a name as long as this one.
        near = next(folder for folder in out.parents if folder.exists())
        with TemporaryDirectory(prefix=f"{out.name}.apbmm-", dir=near):
            pass
    except (OSError, RuntimeError) as error:  # links in a circle are a RuntimeError
        reason = getattr(error, "strerror", None) or "not a path"
        raise UsageError(
            f"--out {given}: no folder can be made there: {reason}", "choose another"
        ) from error
    return out


@contextmanager
def adapted(
    folders: Mapping[str, Path], adapters: Mapping[str, Path], out: Path
) -> Iterator[dict[str, Path]]:
    """The folders of sources by role; near ``out``, for a while, with the adapters that some have.

    Raises `SourceError` for an adapter that cannot be added to its base.
    """
    if not adapters:
        yield dict(folders)
        return
    from apbmm_worker.merging.adapted_sources import with_adapters

    near = next(folder for folder in out.parents if folder.exists())
    with TemporaryDirectory(prefix=f"{out.name}.apbmm-", dir=near) as scratch:
        yield with_adapters(folders, adapters, Path(scratch))


def with_adapter(folder: Path, adapter: Path | None) -> str:
    """A source as mergekit writes one: its folder, and ``+`` before its adapter's."""
    return str(folder.resolve()) + ("" if adapter is None else f"+{adapter.resolve()}")


def require_room(out: Path, size: int) -> None:
    """Raise `UsageError` unless the disk of ``out`` has room for so many bytes."""
    near = next(folder for folder in (out, *out.parents) if folder.exists())
    free = shutil.disk_usage(near).free
    if free < size:
        raise UsageError(
            f"--out {out}: {size / 1e9:.1f} GB are to be written, {free / 1e9:.1f} GB are free",
            "free space there, or choose a folder on another disk",
        )


def digest_cache() -> Path | None:
    """The folder of earlier verifications, so that each source is read once.

    None for a user who has no home, as in a container with an arbitrary user id.
    """
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(root).expanduser() / "apbmm" / "source-digests"
    except RuntimeError:
        return None
