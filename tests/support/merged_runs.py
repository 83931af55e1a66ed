"""Run directories whose journal knows real sources and the merges that were made of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from apbmm_common.protocol.messages import Evaluated
from apbmm_common.run_file import MergeSection, RunSpec
from apbmm_master.journal.events import (
    AnyEvent,
    FrontToConfirm,
    Record,
    ResultRecorded,
    SourcesVerified,
)
from apbmm_master.journal.run_start.confirmation import CONFIRM
from apbmm_master.journal.state.run_state import RunState
from apbmm_master.journal.storage.store import Journal, read_journal, read_outcomes, with_outcomes
from apbmm_worker.engine.checksum import folder_digest
from apbmm_worker.merging.merge import write_merge
from apbmm_worker.merging.run_merges import merge_of
from apbmm_worker.merging.sources import VerifiedSources, verify_sources
from protocol_world import LAYERS
from tiny_checkpoints import write_related, write_tiny_qwen3
from written_runs import answered, write_run

POINTS = [
    answered([1.0, 1.0, 0.0, 0.0], [100, 120, 140, 160]),
    answered([1.0, 1.0, 1.0, 0.0], [300, 320, 340, 900]),
    answered([1.0, 0.0, 0.0, 0.0], [400, 500, 600, 700]),  # not on the front
]
ENDS: Mapping[str, Evaluated] = {
    "thinking": answered([1.0, 1.0, 1.0, 1.0], [800, 900, 1000, 990]),
    "instruct": answered([1.0, 0.0, 0.0, 0.0], [50, 60, 70, 80]),
}


def write_pair(folder: Path, **more: Any) -> dict[str, Path]:
    """A base and two fine-tunes of it, in bfloat16, in as many layers as the run has."""
    settings = {"seed": 0, "layers": LAYERS, "hidden": 32, "dtype": torch.bfloat16, **more}
    write_tiny_qwen3(folder / "base", **settings)
    for seed, role in enumerate(("thinking", "instruct"), start=1):
        write_related(folder / "base", folder / role, seed=seed)
        card = f"---\nlicense: apache-2.0\n---\n\nThe {role} model.\n"
        (folder / role / "README.md").write_text(card)
    return {role: folder / role for role in ("thinking", "instruct", "base")}


def write_merged_run(
    folder: Path,
    sources: Mapping[str, Path],
    ends: Mapping[str, Evaluated] = ENDS,
    **changes: Any,
) -> Path:
    """A finished run over ``sources``, with each merge's digest beside its measurements."""
    named = {role: str(path) for role, path in sources.items()} | changes.pop("named", {})
    changes.setdefault("evaluation", {"kind": "vllm", "layers": None})
    changes.setdefault("name", "trial")
    merge = MergeSection.model_validate(changes.get("merge", {}))
    common = merge.vocabulary == "common"
    verified = verify_sources(sources, None, common_vocabulary=common, merge=merge)
    first = write_run(
        folder / "as-rehearsed",
        POINTS,
        ends=ends,
        outside=verified.outside,
        parts=verified.parts,
        sources=named,
        **changes,
    )
    records = read_journal(first)
    run_state = RunState().replay(records)
    events = [_edited(record.event, run_state, verified, folder / "scratch") for record in records]
    run_dir = folder / "run"
    with Journal(run_dir) as journal:
        journal.append([Record(r.seq, r.time, e) for r, e in zip(records, events, strict=True)])
    return run_dir


def write_confirmation(
    run_dir: Path,
    points: Sequence[Evaluated],
    ends: Mapping[str, Evaluated] = ENDS,
    **changes: Any,
) -> None:
    """A confirmation of the run's first merges, which measured these ``points``."""
    search = RunState().replay(read_journal(run_dir))
    vectors = {f"e{n:04}": search.evaluations[f"e{n:04}"].vector for n in range(1, len(points) + 1)}
    first = write_run(run_dir / "unedited", points, ends=ends, **changes)
    begun, *rest = (_with_outcomes(record.event, first) for record in read_journal(first))
    shutil.rmtree(first)
    front = FrontToConfirm(search=search.run, digests={}, vectors=vectors)
    with Journal(run_dir / CONFIRM) as journal:
        journal.append([Record(n, 1.0, e) for n, e in enumerate((begun, front, *rest), 1)])


def _with_outcomes(event: AnyEvent, run_dir: Path) -> AnyEvent:
    """The event as it was given to the journal."""
    if not (isinstance(event, ResultRecorded) and isinstance(event.body, Evaluated)):
        return event
    whole = with_outcomes(event.body, read_outcomes(run_dir, event.evaluation))
    return event.model_copy(update={"body": whole})


def _edited(
    event: AnyEvent, run_state: RunState, verified: VerifiedSources, scratch: Path
) -> AnyEvent:
    """The event as a worker that has read the sources would have caused it."""
    if isinstance(event, SourcesVerified):
        settings = {f"{role}.settings": digest for role, digest in verified.settings.items()}
        return event.model_copy(update={"digests": {**verified.digests, **settings}})
    if isinstance(event, ResultRecorded) and isinstance(event.body, Evaluated):
        assert run_state.spec is not None
        evaluation = run_state.evaluations[event.evaluation]
        reference = evaluation.purpose == "reference"
        digest = digest_of(
            run_state.spec,
            verified,
            evaluation.vector,
            scratch,
            reference=reference,
            borders=run_state.borders or (),
        )
        engine = {"versions": {"vllm": "0.0.1"}, "weights": digest}
        return event.model_copy(update={"body": event.body.model_copy(update={"engine": engine})})
    return event


def digest_of(
    spec: RunSpec,
    sources: VerifiedSources,
    vector: tuple[float, ...],
    out: Path,
    *,
    reference: bool = False,
    borders: Sequence[int] = (),
) -> str:
    """The digest of a merge's weights, written to ``out``."""
    merge = merge_of(spec, sources, vector, reference=reference, borders=borders)
    write_merge(sources, merge.plans, merge.recipe, spec.generation.template_from, out)
    return folder_digest(out)
