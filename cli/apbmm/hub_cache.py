"""Models of the Hugging Face Hub in this host's cache."""

from __future__ import annotations

import re
from pathlib import Path

from apbmm_common.errors import UsageError

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


FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.py")
"""What a merge needs of a model: no weights in other formats, no pictures."""


def download_snapshot(hub_id: str, revision: str | None) -> Path:
    """The snapshot of a model, downloaded into this host's cache as far as it is not there.

    Raises `UsageError` where the Hub does not give it.
    """
    from httpx import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    named = f"{hub_id}@{revision}" if revision else hub_id
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(FILES)))
    except GatedRepoError as error:
        raise UsageError(
            f"{named}: its owner has not let this user in",
            f"agree to its terms at https://huggingface.co/{hub_id}, then hf auth login",
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise UsageError(
            f"{named}: the Hugging Face Hub has no such model that this user may see",
            "is the name right? hf auth login is needed for a private one",
        ) from error
    except (OfflineModeIsEnabled, HfHubHTTPError, HTTPError, OSError) as error:
        cause = error.__cause__ or error
        first = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        raise UsageError(
            f"{named}: the Hugging Face Hub did not give it: {first}",
            "is there a network, and is HF_HUB_OFFLINE unset? the same command goes on where it "
            "stopped",
        ) from error
