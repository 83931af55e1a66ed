"""The probe of `apbmm check --probe`, with the process of a rehearsal in place of an engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from apbmm.local_engine import local_engine
from apbmm.probe.evaluation import probe_sources
from rehearsal_runs import run_spec


async def test_each_source_answers_and_its_answers_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APBMM_LOCK_DIR", str(tmp_path))
    spec = run_spec(evaluation={"kind": "rehearsal", "layers": 4, "rehearsal_seconds": 0.1})
    stages: list[str] = []
    with local_engine("probe", "rehearsal", allow_remote_code=False) as options:
        probed, prepared = await probe_sources(spec, options, lambda stage, _: stages.append(stage))
    assert [source.source for source in probed] == list(reversed(spec.sources.names))
    assert prepared > 0
    cheap, dear = probed
    assert cheap.mean_tokens < dear.mean_tokens
    for source in probed:
        asked = sum(result.answers for result in source.evaluated.benchmarks.values())
        assert len(source.answers) == asked
        assert all(answer.seconds > 0 for answer in source.answers)
