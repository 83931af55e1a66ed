"""Paths that come over the wire stay within what the worker's own configuration allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apbmm_common.errors import EvaluationError, UsageError
from apbmm_common.run_file import RunSpec
from apbmm_worker.child_protocol import COMMANDS, Prepare
from apbmm_worker.daemon.evaluation_job import EvaluationJob
from apbmm_worker.daemon.local_paths import LocalPaths
from apbmm_worker.daemon.options import Options, parse_roots
from apbmm_worker.message_socket import LENGTH, message_in, to_bytes
from rehearsal_runs import run_spec


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "models" / "thinking").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    return (tmp_path / "models").resolve()


def test_what_is_mapped_is_read_from_there_whatever_the_run_says() -> None:
    paths = LocalPaths({"thinking": "/here"}, ())
    assert paths.of("thinking", "/etc") == "/here"


def test_a_path_within_a_root_is_taken(models: Path) -> None:
    paths = LocalPaths({}, (models,))
    assert paths.of("thinking", f"{models}/thinking") == f"{models}/thinking"
    assert paths.of("thinking", f"{models}/x/../thinking") == f"{models}/thinking"


@pytest.mark.parametrize(
    "path",
    [
        "/etc",
        "{models}/../secret",
        "{models}x",
        "{models}/out",
        "{models}/out/..",
        "thinking",
        "../secret",
        "",
        "a\0b",
        "~/x",
        "{models}/thinking/../../secret",
        "$(touch x)",
    ],
)
def test_nothing_leads_out_of_the_roots(
    models: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(models.parent)
    (models / "out").symlink_to(models.parent / "secret")
    for roots in ((models,), ()):
        with pytest.raises(EvaluationError, match="not in a folder that this worker may") as caught:
            LocalPaths({}, roots).of("thinking", path.format(models=models))
        assert caught.value.kind == "infrastructure"
        assert "--path thinking=PATH" in caught.value.hint


def test_without_roots_a_master_of_this_host_may_name_any_and_another_none(tmp_path: Path) -> None:
    assert parse_roots([], "tcp://127.0.0.1:5711") is None
    assert parse_roots([], "tcp://hostA:5711") == ()
    for master in ("tcp://127.0.0.1:5711", "tcp://hostA:5711"):
        assert parse_roots([str(tmp_path)], master) == (tmp_path.resolve(),)
    with pytest.raises(UsageError, match=r"--root .*no such folder"):
        parse_roots([str(tmp_path / "none")], "tcp://127.0.0.1:5711")


def prepared(spec: RunSpec, gpu: str = "0", **settings: Any) -> Prepare:
    options = Options("a", gpu, "tcp://hostA:5711", Path("state"), Path("scratch"), **settings)
    return EvaluationJob(options)._prepare_command(spec)


def real_run(models: Path) -> RunSpec:
    return run_spec(
        evaluation={"kind": "vllm"},
        sources={"thinking": f"{models}/thinking", "instruct": f"{models}/instruct"},
        benchmarks=[{"name": "sums", "adapter": "sums", "path": f"{models}/sums"}],
        prior={"prompts": f"{models}/prompts.jsonl"},
    )


def test_every_path_of_a_run_is_checked(models: Path) -> None:
    run = real_run(models)
    mapped = {name: f"/{name}" for name in ("thinking", "instruct", "sums", "prompts")}
    command = prepared(run, roots=(), paths=mapped)
    sources = {"thinking": "/thinking", "instruct": "/instruct", "base": "/instruct"}
    assert command.sources == sources
    assert (command.benchmarks, command.prompts) == ({"sums": ("/sums",)}, "/prompts")
    received = message_in(to_bytes(command)[LENGTH.size :], COMMANDS)
    assert isinstance(received, Prepare)
    assert received.benchmarks == command.benchmarks
    for name in mapped:
        rest = {key: value for key, value in mapped.items() if key != name}
        with pytest.raises(EvaluationError, match=f"^{name}: "):
            prepared(run, roots=(), paths=rest)
    assert prepared(run, roots=(models,)).prompts == f"{models}/prompts.jsonl"


def test_all_paths_that_are_wanted_are_named_at_once(models: Path) -> None:
    names = ("thinking", "instruct", "sums", "prompts")
    with pytest.raises(EvaluationError, match="there are none") as caught:
        prepared(real_run(models), roots=(), paths={})
    assert caught.value.message.startswith(f"{', '.join(names)}: the run's paths are not in")
    assert caught.value.kind == "infrastructure"
    flags = " ".join(f"--path {name}=PATH" for name in names)
    assert caught.value.hint == f"start it with {flags}, or with --root FOLDER"


def test_a_misspelt_name_of_a_path_is_told(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = real_run(models)
    misspelt = {"thinking": "/t", "instruct": "/i", "prompts": "/p", "sum": "/s"}
    with pytest.raises(EvaluationError, match=f"^sums: .*{models}/sums") as caught:
        prepared(run, roots=(), paths=misspelt)
    assert caught.value.hint.endswith("--root FOLDER (sum: no name of this run's)")
    assert prepared(run, roots=None, paths=misspelt).benchmarks == {"sums": (f"{models}/sums",)}
    assert f"--path sum=...: {run.name} names nothing so" in caplog.text
    caplog.clear()
    prepared(run, roots=None, paths={"base": "/b", "sums": "/s"})
    assert caplog.text == ""


def test_a_rehearsal_reads_nothing_and_may_name_anything() -> None:
    assert prepared(run_spec(), "rehearsal", roots=()).sources["thinking"] == "/none/thinking"


def test_a_list_of_files_is_allowed_or_mapped_file_by_file(models: Path) -> None:
    files = (str(models / "one.jsonl"), str(models / "two.jsonl"))
    table = run_spec().model_dump(mode="json")
    table["benchmarks"][0]["path"] = list(files)
    run = RunSpec.model_validate(table)
    name = run.benchmarks[0].name
    assert run.named_paths()[name] == files
    assert "path" not in run.without_paths()["benchmarks"][0]
    assert LocalPaths({}, None).of_run(run)[name] == list(files)
    sources = {"thinking": "/t", "instruct": "/i"}
    here = LocalPaths({**sources, name: str(models)}, ())
    assert here.of_run(run)[name] == list(files)
    one = LocalPaths({**sources, name: "/one.jsonl"}, ())
    assert one.of_run(run)[name] == ["/one.jsonl"]
    with pytest.raises(EvaluationError, match=f"{name}: .* not in a folder that this worker may"):
        LocalPaths(sources, ()).of_run(run)
