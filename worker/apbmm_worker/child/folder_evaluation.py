"""Evaluates a checkpoint as it stands: a quantised export of a merge, or a model from elsewhere."""

from __future__ import annotations

from pathlib import Path

from apbmm_common.errors import SourceError
from apbmm_common.protocol.messages import Evaluated
from apbmm_common.run_file import RunSpec
from apbmm_worker import environment
from apbmm_worker.child.pipeline import (
    ReportProgress,
    ask,
    records_folder,
    require_allowed_code,
    require_cards,
)
from apbmm_worker.child_protocol import EvaluateFolder
from apbmm_worker.engine.kinds import require_kind
from apbmm_worker.evaluation.scoring_protocol import OwnAdapters


def evaluate_folder(command: EvaluateFolder, progress: ReportProgress) -> Evaluated:
    """Start an engine on the folder and have it answer the run's questions.

    Prompts are made with the folder's own tokenizer and chat template. Raises `SourceError` for a
    folder that is none, and else what an engine's start and an evaluation raise.
    """
    spec, folder = RunSpec.model_validate(command.spec), Path(command.folder)
    require_kind(spec.engine.kind)
    if not (folder / "config.json").is_file():
        raise SourceError(f"{folder} holds no config.json", "name the folder of a checkpoint")
    scratch = Path(command.scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    environment.apply(command.device, scratch, batch_invariant=spec.engine.batch_invariant)
    require_cards(command.device)
    require_allowed_code(folder, remote_code=spec.engine.remote_code)
    return _evaluated(command, spec, progress)


def _evaluated(command: EvaluateFolder, spec: RunSpec, progress: ReportProgress) -> Evaluated:
    from apbmm_worker.engine.resident import ResidentEngine
    from apbmm_worker.evaluation.scoring.client import ScoringClient

    folder, scratch = Path(command.folder), Path(command.scratch)
    progress("read benchmarks", 0, len(spec.benchmarks))
    scoring = ScoringClient(
        spec.benchmarks,
        {name: tuple(map(Path, paths)) for name, paths in command.benchmarks.items()},
        spec.generation,
        folder,
        scratch / "questions",
        scratch / "scoring.log",
        remote_code=spec.engine.remote_code,
        adapters=OwnAdapters.of(Path(command.adapters)) if command.adapters else None,
    )
    try:
        scoring.benchmarks()
        progress("start engine", 0, 1)
        engine = ResidentEngine(
            spec.engine, spec.generation, folder, command.device, command.engine
        )
        try:
            records = records_folder(Path(command.outputs), command.evaluation)
            result = ask(scoring, engine, records, progress)
            how = engine.description()
        finally:
            engine.close()
    finally:
        scoring.close()
    stages = {"evaluate": result.seconds, "report": result.report_seconds}
    return Evaluated(benchmarks=result.benchmarks, stages=stages, engine=how)
