from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apbmm_common.codec import decode, encode
from apbmm_common.errors import EXIT_USAGE, RunFileError
from apbmm_common.messages import FROM_MASTER, Welcome
from apbmm_common.runfile import RunSpec, load_run_file, parse_run
from rehearsal_runs import run_spec, run_table, write_run_file


def test_every_fault_is_named_at_once() -> None:
    table = run_table(
        budget={"evaluations": 0}, evaluation={"kind": "dream"}, colour="red", seed=-1
    )
    del table["generation"]["context"]
    table["timings"]["beats"] = 3
    table["benchmarks"][0]["question_ids"] = [1, 1]
    with pytest.raises(RunFileError) as caught:
        parse_run(table, "some.toml")
    assert caught.value.exit_code == EXIT_USAGE
    lines = caught.value.message.splitlines()
    assert lines[0] == "some.toml is not a valid run file:"
    named = {line.split(":")[0].strip(): line for line in lines[1:]}
    assert set(named) >= {
        "budget.evaluations", "evaluation.kind", "colour", "seed", "generation.context",
        "timings.beats", "benchmarks.0",
    }  # fmt: skip
    assert "unknown key" in named["colour"]
    assert "unknown key" in named["timings.beats"]
    assert "missing" in named["generation.context"]
    assert "twice" in named["benchmarks.0"]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no room for a prompt": ({"generation": {"max_tokens": 128}}, "no room for a prompt"),
    "more initial than budget": ({"budget": {"initial": 9}}, "larger than evaluations"),
    "rehearsal without layers": ({"evaluation": {"layers": None}}, "set layers"),
    "timings out of order": ({"timings": {"suspect": 99.0}}, "beat < suspect < unreachable"),
    "an infinite time-out": ({"timings": {"stall": float("inf")}}, "timings.stall.*finite"),
    "a NaN": ({"generation": {"temperature": float("nan")}}, "temperature"),
    "an infinite setting": ({"algorithm": {"settings": {"a": [float("inf")]}}}, "finite"),
    "a huge setting": ({"algorithm": {"settings": {"a": 2**70}}}, r"over 2\^53"),
    "a huge integer": ({"generation": {"top_k": 2**70}}, "top_k"),
    "expert is vanilla": (
        {"objectives": [{"name": "a", "metric": "tokens", "expert": "thinking",
                         "vanilla": "thinking"}]}, "divides by zero"),
    "unknown benchmark": (
        {"objectives": [{"name": "a", "metric": "tokens", "expert": "thinking",
                         "vanilla": "instruct", "benchmarks": ["x"]}]},
        r"unknown benchmarks \['x'\]"),
    "two objectives of one name": (
        {"objectives": [{"name": "a", "metric": m, "expert": "thinking", "vanilla": "instruct"}
                        for m in ("tokens", "accuracy")]}, "objectives have the same name"),
    "reference point of another size": ({"reference_point": [0.0]}, "1 numbers for 2 objectives"),
    "no benchmarks": ({"benchmarks": []}, "benchmarks"),
    "a benchmark named like a source": (
        {"benchmarks": [{"name": "base", "adapter": "a", "path": "p"}]}, "cannot be called base"),
    "two benchmarks of one name": (
        {"benchmarks": [{"name": "a", "adapter": "a", "path": "p"}] * 2}, "the same name"),
    "a name with a slash": ({"name": "a/b"}, "name: "),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "fault"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_run_is_refused(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(RunFileError, match=fault):
        parse_run(run_table(**changes), "run.toml")


def test_relative_paths_start_at_the_run_file(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    path = write_run_file(
        tmp_path / "deep" / "run.toml",
        sources={"thinking": "../models/t", "instruct": "i"},
        benchmarks=[{"name": "sums", "adapter": "sums", "path": "data/sums"}],
    )
    run = load_run_file(path)
    assert run.sources.thinking == str(tmp_path / "models" / "t")
    assert run.sources.paths()["base"] == run.sources.instruct == str(tmp_path / "deep" / "i")
    assert run.benchmarks[0].path == str(tmp_path / "deep" / "data" / "sums")


@pytest.mark.parametrize(
    ("content", "fault"),
    [(None, "no such run file"), (b"a = ", "not valid TOML"), (b"\xff\xfe", "cannot be read")],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, content: bytes | None, fault: str
) -> None:
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunFileError, match=fault) as caught:
        load_run_file(path)
    assert str(path) in caught.value.message


@pytest.mark.parametrize("value", ["~nobody-of-this-name/models", "a\0b"])
def test_a_path_that_cannot_be_is_no_traceback(tmp_path: Path, value: str) -> None:
    path = write_run_file(tmp_path / "run.toml", sources={"thinking": value})
    with pytest.raises(RunFileError, match="path that cannot be"):
        load_run_file(path)


def test_a_run_survives_the_wire() -> None:
    spec = run_spec(algorithm={"settings": {"a": [1, 2.5, {"b": "c"}]}})
    welcome = Welcome(epoch=1, spec=spec.model_dump(mode="json"))
    received = decode(encode(welcome), FROM_MASTER)
    assert isinstance(received, Welcome)
    assert RunSpec.model_validate(received.spec).model_dump(mode="json") == spec.model_dump(
        mode="json"
    )


def test_the_configuration_hash_follows_what_is_measured_and_not_where() -> None:
    digests = {"thinking": "a", "instruct": "b"}
    one = run_spec().config_hash(digests)
    moved = run_spec(sources={"thinking": "/elsewhere"})
    assert moved.config_hash(digests) == one
    assert run_spec(budget={"evaluations": 99}).config_hash(digests) == one
    assert run_spec(generation={"max_tokens": 65}).config_hash(digests) != one
    assert run_spec().config_hash({**digests, "thinking": "c"}) != one
