"""Finds the checkpoints that a run merged, on this host, and checks that they are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from apbmm.hub_cache import HUB_ID, REVISION, SNAPSHOT, cached_snapshot, hub_id_of
from apbmm.merge.places import digest_cache, expanded
from apbmm.results.run_results import RunResults
from apbmm_common.checkpoint.roles import BASE_ROLE
from apbmm_common.errors import SourceError, UsageError
from apbmm_common.merge_methods import LINEAR
from apbmm_common.run_file.paths import adapter_path_name

if TYPE_CHECKING:
    from apbmm_worker.merging.sources import VerifiedSources


@dataclass(frozen=True, slots=True)
class SourceFolder:
    """A source's folder, and its id on the Hugging Face Hub; "" where that is not known.

    ``adapter``: that of a LoRA adapter which is added to it, and its id.
    """

    folder: Path
    hub_id: str = ""
    adapter: Path | None = None
    adapter_id: str = ""

    @property
    def named(self) -> str:
        """Where it is, as mergekit writes it: an id on the Hub or a folder, ``+`` the adapter's."""
        parts = [self.hub_id or str(self.folder.resolve())]
        if self.adapter is not None:
            parts.append(self.adapter_id or str(self.adapter.resolve()))
        return "+".join(parts)


def source_folders(
    results: RunResults, paths: Sequence[str], hub_ids: Sequence[str]
) -> dict[str, SourceFolder]:
    """The folders of a run's sources by role.

    ``paths`` are NAME=FOLDER items, or NAME=ORG/MODEL for a snapshot in the Hugging Face cache; a
    source that none of them names is where the run file has it, or is the same snapshot in this
    host's cache. ``hub_ids`` are NAME=ORG/MODEL items, for the model card. Raises `UsageError`
    naming all sources that are not found.
    """
    named = _by_role(results, paths, "--path")
    stated = _by_role(results, hub_ids, "--base-model")
    for role, text in stated.items():
        if not HUB_ID.fullmatch(text):
            raise UsageError(f"--base-model {role}={text}: not ORG/MODEL")
    adapters = _adapters(results)
    found: dict[str, SourceFolder] = {}
    faults = []
    for role, own in _wanted(results).items():
        source = _named_folder(role, named[role]) if role in named else _own_folder(own)
        if source is None:
            faults.append(f"{role}: {own} is not on this host")
            continue
        found[role] = SourceFolder(source.folder, stated.get(role, source.hub_id))
        if role in adapters:
            key = adapter_path_name(role)
            adapter = (
                _named_folder(key, named[key]) if key in named else _own_folder(adapters[role])
            )
            if adapter is None:
                faults.append(f"{key}: {adapters[role]} is not on this host")
            else:
                found[role] = replace(
                    found[role], adapter=adapter.folder, adapter_id=stated.get(key, adapter.hub_id)
                )
    if faults:
        raise UsageError(
            "\n".join(faults),
            "--path NAME=FOLDER says where it is, or --path NAME=ORG/MODEL for a snapshot in the "
            "Hugging Face cache",
        )
    return found


def verified_sources(results: RunResults, folders: Mapping[str, Path]) -> VerifiedSources:
    """The sources, verified to be those that the run merged; ``folders`` have the adapters added.

    Raises `SourceError` while the run knows no layers, for sources that cannot be merged, and for
    one whose weights, or whose tokenizer and settings where these are used, are not those that the
    run's workers read. A rehearsal's workers read none.
    """
    if not results.run_state.has_space:
        raise SourceError(
            "what a merge weighs is not known yet: no worker of the run has read its sources",
            "let a worker join the run",
        )
    from apbmm_worker.merging.sources import verify_sources

    sources = verify_sources(
        folders,
        digest_cache(),
        common_vocabulary=results.spec.merge.vocabulary == "common",
        merge=results.spec.merge,
    )
    journaled = results.run_state.digests
    for role, digest in sources.digests.items():
        if journaled.get(role, digest) != digest:
            raise SourceError(
                f"{role}: {folders[role]} does not hold the weights that the run merged",
                f"--path {role}=FOLDER names the folder of those that it merged",
            )
    template = results.spec.generation.template_from
    settings = sources.settings[template]
    if journaled.get(f"{template}.settings", settings) != settings:
        raise SourceError(
            f"{template}: {folders[template]} has another tokenizer, chat template or "
            "config than when the run asked its questions",
            f"--path {template}=FOLDER names a folder that has the same",
        )
    if sources.layers != results.run_state.layers:
        raise SourceError(
            f"the run has {results.run_state.layers} layers, the sources have {sources.layers}",
            "a rehearsal invents its layers: [evaluation] layers" if results.rehearsal else "",
        )
    return sources


def _wanted(results: RunResults) -> dict[str, Path]:
    """The sources that the run's merges are made of, as its run file has them."""
    spec = results.spec.sources
    wanted = {name: Path(folder) for name, folder in spec.folders.items()}
    if results.spec.merge_method != LINEAR or results.spec.merge.combine != "simplex":
        # task vectors against the base
        wanted[BASE_ROLE] = Path(spec.base or spec.folders[spec.names[-1]])
    return wanted


def _adapters(results: RunResults) -> dict[str, Path]:
    """The LoRA adapters of the sources, as the run file has them."""
    spec = results.spec.sources
    found = {name: Path(folder) for name, folder in spec.lora_adapters.items()}
    anchor = spec.names[-1]
    if spec.base is None and anchor in found:
        found[BASE_ROLE] = found[anchor]
    return found


def _by_role(results: RunResults, items: Sequence[str], flag: str) -> dict[str, str]:
    found = {}
    for item in items:
        role, separator, value = item.partition("=")
        if not (role and separator and value):
            raise UsageError(
                f"{flag} {item}: expected NAME=VALUE", f"as in {next(iter(_wanted(results)))}=..."
            )
        if role not in (*_wanted(results), *map(adapter_path_name, _adapters(results))):
            names = ", ".join(_wanted(results))
            raise UsageError(f"{flag} {item}: the run merges no {role}", f"it merges {names}")
        found[role] = value
    return found


def _named_folder(role: str, value: str) -> SourceFolder:
    folder = expanded(value, "--path")
    if folder.is_dir():
        return SourceFolder(folder, hub_id_of(folder))
    hub = REVISION.fullmatch(value)
    snapshot = cached_snapshot(hub["id"], hub["revision"]) if hub else None
    if hub is None or snapshot is None:
        raise UsageError(
            f"--path {role}={value}: neither a folder nor a model in the Hugging Face cache",
            "hf download ORG/MODEL fetches one; HF_HOME says where the cache is",
        )
    return SourceFolder(snapshot, hub["id"])


def _own_folder(own: Path) -> SourceFolder | None:
    if own.is_dir():
        return SourceFolder(own, hub_id_of(own))
    snapshot = SNAPSHOT.search(str(own))
    if snapshot is None:
        return None
    hub_id = snapshot["id"].replace("--", "/", 1)
    folder = cached_snapshot(hub_id, snapshot["revision"])
    return None if folder is None else SourceFolder(folder, hub_id)
