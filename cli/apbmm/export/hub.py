"""Uploads a folder to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from apbmm.hub_cache import HUB_ID
from apbmm_common.errors import ApbmmError, UsageError


def require_hub_id(repository: str) -> None:
    """Raise `UsageError` for a name that no repository can have."""
    if not HUB_ID.fullmatch(repository):
        raise UsageError(f"--push-to-hub {repository}: not ORG/MODEL")


def upload(folder: Path, repository: str, message: str, *, public: bool) -> str:
    """Make the repository unless it exists, upload the folder; returns its address.

    A new repository is private unless it is to be ``public``; one that exists stays as it is.
    Raises `ApbmmError` when the Hub refuses or cannot be reached; the folder stays.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        address = api.create_repo(repository, private=not public, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ApbmmError(
            f"{repository}: the upload failed: {first}",
            f"{folder} is complete: hf auth login, then hf upload {repository} {folder}",
        ) from error
    return str(address)
