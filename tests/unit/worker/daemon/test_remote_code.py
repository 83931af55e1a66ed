"""Code that comes with checkpoints runs only where run file and worker both say so."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from apbmm_common.checkpoint.headers import read_checkpoint
from apbmm_common.checkpoint.remote_code import own_code, require_code
from apbmm_common.errors import EvaluationError, SourceError
from apbmm_common.protocol.messages import Unfit
from apbmm_common.run_file import EngineSection, GenerationSection, RunSpec
from apbmm_worker.child.pipeline import model_types
from apbmm_worker.child_protocol import Prepare, Prepared
from apbmm_worker.daemon.evaluation_job import EvaluationJob
from apbmm_worker.daemon.membership import Membership
from apbmm_worker.daemon.options import Options
from apbmm_worker.engine.vllm.arguments import engine_arguments
from apbmm_worker.merging.folders.folder import copy_settings
from apbmm_worker.merging.sources import settings_digest
from code_of_its_own import CODE, FILES, give_own_code, that_ran
from rehearsal_runs import run_spec
from tiny_checkpoints import write_tiny_qwen3


class RecordingJob(EvaluationJob):
    """Starts no child: what the child would be told is kept."""

    told: Prepare | None = None

    async def _prepare(self, spec: RunSpec) -> Prepared:
        self.told = self._prepare_command(spec)
        return Prepared(digests={}, layers=4, outside=(), versions={}, seconds=0.0)


def job(tmp_path: Path, *, allowed: bool) -> RecordingJob:
    return RecordingJob(
        Options(
            "a", "rehearsal", "tcp://127.0.0.1:1", tmp_path, tmp_path, allow_remote_code=allowed
        )
    )


def trusted(told: Prepare, folder: Path) -> bool:
    """Whether vLLM would be started with leave to run code, by a child that is told this."""
    spec = RunSpec.model_validate(told.spec)
    arguments = engine_arguments(spec.engine, spec.generation, folder, "cpu")
    return bool(arguments["trust_remote_code"])


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("asked", [False, True])
async def test_run_file_and_worker_must_both_want_it(
    tmp_path: Path, asked: bool, allowed: bool
) -> None:
    (tmp_path / "config.json").write_text("{}")
    worker = job(tmp_path, allowed=allowed)
    spec = run_spec(engine={"remote_code": asked})
    if asked and not allowed:
        with pytest.raises(EvaluationError, match="which this worker does not allow") as caught:
            await worker.prepare(spec)
        assert "--allow-remote-code" in caught.value.hint
        assert worker.told is None
        return
    await worker.prepare(spec)
    assert worker.told is not None
    assert trusted(worker.told, tmp_path) is (asked and allowed)


@pytest.mark.parametrize("allowed", [False, True])
async def test_a_run_s_own_adapters_need_leave_too(tmp_path: Path, allowed: bool) -> None:
    worker = job(tmp_path, allowed=allowed)
    spec = run_spec(adapters="/runs/mine.py")
    if allowed:
        await worker.prepare(spec)
        assert worker.told is not None
        assert worker.told.adapters == "/runs/mine.py"
        return
    with pytest.raises(EvaluationError, match=r"its own adapters .* does not allow") as caught:
        await worker.prepare(spec)
    assert "--allow-remote-code" in caught.value.hint
    assert worker.told is None


async def test_a_worker_that_does_not_allow_it_is_unfit_by_name(tmp_path: Path) -> None:
    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message)

    membership = Membership(job(tmp_path, allowed=False), lambda: False, send)
    await membership.enter("run-1", run_spec(engine={"remote_code": True}))
    assert membership.task is not None
    while not said:
        assert not membership.task.done()
        await asyncio.sleep(0)
    membership.task.cancel()
    (unfit,) = said
    assert isinstance(unfit, Unfit)
    assert "own code" in unfit.message
    assert "--allow-remote-code" in unfit.hint


def test_without_a_word_there_is_none(tmp_path: Path) -> None:
    assert EngineSection().remote_code is False
    assert Options("a", "cpu", "tcp://127.0.0.1:1", tmp_path, tmp_path).allow_remote_code is False
    generation = GenerationSection(max_tokens=10, context=200)
    (tmp_path / "config.json").write_text("{}")
    assert (
        engine_arguments(EngineSection(), generation, tmp_path, "0")["trust_remote_code"] is False
    )


@pytest.mark.slow
def test_transformers_runs_it_only_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import dynamic_module_utils

    from apbmm_worker.discrepancy.activations import encode_prompts, pooled_states

    marks = tmp_path / "marks"
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = write_tiny_qwen3(tmp_path / "own", seed=1, layers=4)
    give_own_code(folder, marks)

    def states(*, remote_code: bool) -> tuple[int, ...]:
        encoded = encode_prompts(folder, ["ab"], max_tokens=64, remote_code=remote_code)
        options: dict[str, Any] = {"layers": 4, "batch": 1, "pooling": "last", "device": "cpu"}
        return tuple(pooled_states(folder, encoded, **options, remote_code=remote_code).shape)

    with pytest.raises(SourceError, match="cannot load"):
        states(remote_code=False)
    assert that_ran(marks) == set()
    assert states(remote_code=True) == (1, 4, 64)
    assert that_ran(marks) == FILES


def test_it_goes_with_a_merge_and_into_the_digest(tmp_path: Path) -> None:
    """A worker with other code than the run's has other sources."""
    folder = write_tiny_qwen3(tmp_path / "own", seed=1, layers=4)
    without = settings_digest(read_checkpoint(folder))
    (folder / "modeling_own.py").write_text(CODE["modeling_own"])
    template = read_checkpoint(folder)
    (tmp_path / "merge").mkdir()
    copy_settings(tmp_path / "merge", template, None)
    assert (tmp_path / "merge" / "modeling_own.py").read_text() == CODE["modeling_own"]
    assert settings_digest(template) != without


def test_what_needs_its_code_is_refused_unless_that_runs(tmp_path: Path) -> None:
    known, own = (write_tiny_qwen3(tmp_path / n, seed=1, layers=4) for n in ("known", "own"))
    give_own_code(known, tmp_path / "marks", known=True)
    give_own_code(own, tmp_path / "marks")
    assert set(own_code(known)) == set(own_code(own)) == FILES
    require_code(known, remote_code=False, known_types=model_types())
    require_code(own, remote_code=False)  # where nothing is known of types
    with pytest.raises(SourceError, match="knows models of type 'own_architecture'") as caught:
        require_code(own, remote_code=False, known_types=model_types())
    assert "--allow-remote-code" in caught.value.hint
    require_code(own, remote_code=True)
    for folder in (known, own):
        (folder / "modeling_own.py").unlink()
        with pytest.raises(SourceError, match=r"lacks modeling_own\.py, which its auto_map"):
            require_code(folder, remote_code=True)
    require_code(known, remote_code=False, known_types=model_types())


def test_model_types_are_those_of_transformers() -> None:
    known = model_types()
    assert all(name in known for name in ("qwen3", "llama", "gpt2", "mistral", "gemma3"))
    assert "own_architecture" not in known


def test_code_of_another_repository_is_named_as_there(tmp_path: Path) -> None:
    references = {"AutoConfig": "someone/model--configuration_x.XConfig", "AutoModel": None}
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": references}))
    (tmp_path / "tokenizer_config.json").write_text('{"auto_map": ["tok.Slow", null]}')
    assert own_code(tmp_path) == ("someone/model--configuration_x.py", "tok.py")
    with pytest.raises(SourceError, match=r"lacks tok\.py, which"):
        require_code(tmp_path, remote_code=True)
