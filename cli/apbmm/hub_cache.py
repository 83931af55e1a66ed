"""Models of the Hugging Face Hub in this host's cache. Nothing is downloaded."""

from __future__ import annotations

import re
from pathlib import Path

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""A model's id on the Hub."""
REVISION = re.compile(rf"(?P<id>{HUB_ID.pattern})(@(?P<revision>[\w.-]+))?")
"""A model's id, and perhaps one of its revisions: ORG/MODEL@REVISION."""
SNAPSHOT = re.compile(r"(^|/)models--(?P<id>[^/]+)/snapshots/(?P<revision>[^/]+)$")
"""The end of the path of a snapshot in a cache."""


def hub_id_of(folder: Path) -> str:
    """The id of a snapshot in a Hugging Face cache; "" for any other folder."""
    snapshot = SNAPSHOT.search(str(folder.absolute()))
    return snapshot["id"].replace("--", "/", 1) if snapshot else ""


def cached_snapshot(hub_id: str, revision: str | None) -> Path | None:
    """The snapshot of a model in this host's cache; None where it is not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
