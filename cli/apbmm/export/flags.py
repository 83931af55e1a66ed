"""The flags of `apbmm export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from apbmm.merge.flags import Dtype
from apbmm.pick.flags import NO_PREFERENCE, PreferenceFlags

Switch = Annotated[bool, Parameter(negative=())]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class ExportRequest:
    """None or empty where a flag was not given.

    Parameters
    ----------
    out
        Folder for the merge: new or empty. With --front it gets a folder for each merge.
    evaluation
        The evaluation whose merge to write, as e0017.
    front
        Write every merge of the front.
    paths
        NAME=FOLDER: where this host has a source, by its name in the run file, or base.
        NAME=ORG/MODEL, or ORG/MODEL@REVISION, takes its snapshot from the Hugging Face cache.
        Default: where the run file has it.
    base_models
        NAME=ORG/MODEL: a source's id on the Hub, for the card. Known of snapshots in the cache.
    dtype
        Stored dtype. Default: that of the merge that was evaluated.
    force
        Replace an earlier merge of apbmm at DIR, once the new one is complete.
    allow_different
        Write a merge that is not bit for bit the one that was evaluated; its card says so.
    push_to_hub
        ORG/MODEL: upload the folder to the Hugging Face Hub, into a private repository.
    public
        Make the repository a public one.
    """

    out: Path
    evaluation: Annotated[str | None, Parameter(name="--eval")] = None
    front: Switch = False
    preference: PreferenceFlags = NO_PREFERENCE
    paths: Annotated[tuple[str, ...], Parameter(name="--path", negative=())] = ()
    base_models: Annotated[tuple[str, ...], Parameter(name="--base-model", negative=())] = ()
    dtype: Dtype = "source"
    force: Switch = False
    allow_different: Annotated[Switch, Parameter(name="--allow-different-weights")] = False
    push_to_hub: str | None = None
    public: Switch = False
