from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from apbmm_common.checkpoint.tensor_groups import OUTSIDE_GROUPS
from apbmm_common.errors import EXIT_USAGE, RunFileError
from apbmm_common.protocol.codec import decode, encode
from apbmm_common.protocol.messages import FROM_MASTER, Assign, Welcome
from apbmm_common.run_file import RunSpec, Space, load_run_file, parse_run, run_as_toml
from apbmm_common.run_file.paths import paths_in
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
        "timings.beats", "benchmarks.0.question_ids",
    }  # fmt: skip
    assert "unknown key" in named["colour"]
    assert "unknown key" in named["timings.beats"]
    assert "missing" in named["generation.context"]
    assert "twice" in named["benchmarks.0.question_ids"]


def faults_of(**changes: Any) -> list[str]:
    with pytest.raises(RunFileError) as caught:
        parse_run(run_table(**changes), "run.toml")
    return [line.strip() for line in caught.value.message.splitlines()[1:]]


def test_keys_that_do_not_fit_together_are_named_beside_keys_at_fault() -> None:
    """Mending one fault brings no other to light that was in the same table before."""
    clash = {"name": "sums", "adapter": "a", "path": "p", "questions": 2, "question_ids": [1, 1]}
    faults = faults_of(
        benchmarks=[{**clash, "zebra": 1}, {**clash, "name": "base", "adapter": 3}],
        generation={"max_tokens": 128, "top_k": "many"},
        budget={"initial": 9, "failures": -1},
        objectives=[
            {"name": "a", "metric": "tokens", "expert": "thinking", "vanilla": "thinking",
             "benchmarks": "sum"},
        ],
        merge={"outside_layers": "own", "blocks": 2},
        algorithm={"name": "ties"},
        timings={"suspect": 0.1, "stall": 0},
    )  # fmt: skip
    assert sorted(faults) == sorted(
        [
            "benchmarks.0.zebra: unknown key",
            "benchmarks.0.question_ids: give either questions or question_ids, not both",
            "benchmarks.0.question_ids: names a question twice",
            "benchmarks.1.adapter: must be text, not 3",
            "benchmarks.1.question_ids: give either questions or question_ids, not both",
            "benchmarks.1.question_ids: names a question twice",
            "generation.top_k: must be a whole number, not 'many'",
            "generation.context: max_tokens (128) leaves no room for a prompt in a context of 128",
            "budget.failures: must be at least 0, not -1",
            "budget.initial: initial (9) is larger than evaluations (6)",
            "objectives.0.benchmarks: must be a list of names, or a table of their weights",
            "objectives.0.vanilla: expert and vanilla are the same source, so Eq. 2 divides by "
            "zero",
            "algorithm: merge.blocks cuts the layers into blocks, but ties gives all layers one "
            "weight",
            "algorithm: merge.outside_layers = own weighs what is outside the layers, but ties "
            "gives all tensors one weight",
            "timings.suspect: expected beat < suspect < unreachable, but beat is 0.2",
            "timings.stall: must be more than 0.0, not 0",
        ]
    )


def test_values_that_would_be_silently_wrong_or_fail_in_a_worker() -> None:
    both: list[dict[str, Any]] = [
        {"name": n, "metric": n, "expert": "instruct", "vanilla": "thinking", "benchmarks": []}
        for n in ("tokens", "seconds")
    ]
    assert faults_of(
        benchmarks=[{"name": "sums", "adapter": "a", "path": ["p", "p"]}],
        generation={"top_k": -2, "thought_end": "<think>"},
    ) == [
        "benchmarks.0.path: names a file twice, so its questions would count twice",
        "generation.top_k: must be at least -1, not -2",
        "generation.thought_end: '<think>' has no slash, so the tag that opens a thought would be "
        "equal",
    ]
    assert faults_of(objectives=both) == [
        f"objectives: objective {n} names no benchmarks; without the key it has all"
        for n in ("tokens", "seconds")
    ]


def test_tables_that_do_not_fit_together_are_named_beside_tables_at_fault() -> None:
    faults = faults_of(
        benchmarks=[{"name": "base", "adapter": "a", "path": "p"}],
        generation={"top_k": "many"},
        objectives=[
            {"name": "a", "metric": "tokens", "expert": "thinking", "vanilla": "instruct"},
        ],
        merge={"blocks": 9},
    )
    assert sorted(faults) == [
        "benchmarks: a benchmark cannot be called base: that names another path",
        "evaluation: merge.blocks: 4 layers cannot be cut into 9 blocks",
        "generation.top_k: must be a whole number, not 'many'",
        "objectives: between 2 and 5 objectives, not 1",
    ]


def test_a_number_is_neither_text_nor_true_and_a_switch_is_no_number() -> None:
    faults = faults_of(
        budget={"gpu_hours": True, "patience_growth": "0.1"}, steps={"first": "x", "enabled": 2}
    )
    assert sorted(faults) == [
        "budget.gpu_hours: must be a number, not true",
        "budget.patience_growth: must be a number, not '0.1'",
        "steps.enabled: must be true or false, not 2",
        "steps.first: must be a number, not 'x'",
    ]
    faults = faults_of(
        reference_point=["0", True], at_least={"accuracy": "0.5"}, at_most={"tokens": True},
        objectives=[
            {"name": "a", "metric": "accuracy", "scale": ["0.2", 0.9]},
            {"name": "b", "metric": "tokens", "target": True},
        ],
    )  # fmt: skip
    assert sorted(faults) == [
        "at_least.accuracy: must be a number, not '0.5'",
        "at_most.tokens: must be a number, not true",
        "objectives.0.scale.0: must be a number, not '0.2'",
        "objectives.1.target: must be a number, not true",
        "reference_point.0: must be a number, not '0'",
        "reference_point.1: must be a number, not true",
    ]


def test_a_metric_that_no_benchmark_of_apbmms_own_reports_is_named() -> None:
    """Of EvalScope's adapters nothing is known before they have reported."""
    objectives: list[dict[str, Any]] = [
        {"name": "a", "metric": "f1", "expert": "thinking", "vanilla": "instruct"},
        {"name": "b", "metric": "toks", "expert": "instruct", "vanilla": "thinking",
         "benchmarks": ["drop"]},
    ]  # fmt: skip
    benchmarks = [
        {"name": "sums", "adapter": "apbmm_exact", "path": "p"},
        {"name": "drop", "adapter": "drop", "path": "p"},
    ]
    assert faults_of(benchmarks=benchmarks, objectives=objectives) == [
        "objectives: objective a: benchmark sums reports no f1, only accuracy, tokens, seconds, "
        "truncated, closed_thoughts"
    ]
    only_drop = [{**objectives[0], "benchmarks": ["drop"]}, objectives[1]]
    spec = parse_run(run_table(benchmarks=benchmarks, objectives=only_drop), "run.toml")
    assert [o.metric for o in spec.objectives] == ["f1", "toks"]


def test_rules_know_the_defaults_of_keys_that_are_left_out() -> None:
    table = run_table() | {"budget": {"initial": 50, "failures": -1}}
    with pytest.raises(
        RunFileError, match=r"budget.initial: initial \(50\) is larger than evaluations \(40\)"
    ):
        parse_run(table, "run.toml")


def test_a_rule_is_not_held_against_values_that_are_at_fault() -> None:
    """No default stands in for them: 99 first evaluations of an unknown number may be few."""
    assert faults_of(budget={"initial": 99, "evaluations": "many"}) == [
        "budget.evaluations: must be a whole number, not 'many'"
    ]
    named = [
        {"name": name, "metric": "tokens", "expert": "thinking", "vanilla": "instruct",
         "benchmarks": ["x"]}
        for name in ("a", "b")
    ]  # fmt: skip
    assert faults_of(benchmarks=[{"name": 3, "adapter": "a", "path": "p"}], objectives=named) == [
        "benchmarks.0.name: must be text, not 3"
    ]


WORDING: dict[str, tuple[dict[str, Any], str]] = {
    "table": ({"budget": 3}, "budget: must be a table, not 3"),
    "tables": ({"benchmarks": 3}, "benchmarks: must be a list, not 3"),
    "list": ({"reference_point": "x"}, "reference_point: must be a list, not 'x'"),
    "text": ({"name": ["a"]}, "name: must be text, not a list"),
    "truth": (
        {"generation": {"top_k": True}}, "generation.top_k: must be a whole number, not true",
    ),
    "share": (
        {"prior": {"parameter_share": 2}}, "prior.parameter_share: must be at most 1.0, not 2",
    ),
    "argument": (
        {"engine": {"arguments": {"a": [1]}}},
        "engine.arguments.a: must be true, false, a number or text",
    ),
    "name": (
        {"name": "-a"},
        "name: must be 1 to 64 letters, digits, dots, dashes and underscores, a letter or digit "
        "first, not '-a'",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "line"), WORDING.values(), ids=WORDING.keys())
def test_faults_are_worded_for_whoever_wrote_the_file(changes: dict[str, Any], line: str) -> None:
    assert faults_of(**changes) == [line]


def test_a_misspelt_key_is_not_missing_as_well() -> None:
    table = run_table()
    table["generation"]["max_tokns"] = table["generation"].pop("max_tokens")
    with pytest.raises(RunFileError) as caught:
        parse_run(table, "run.toml")
    meant = "generation.max_tokns: unknown key: did you mean max_tokens?"
    assert caught.value.faults == (meant,)
    del table["generation"]["context"]
    with pytest.raises(RunFileError) as caught:
        parse_run(table, "run.toml")
    assert set(caught.value.faults) == {meant, "generation.context: missing"}
    table = run_table()
    table["generations"] = table.pop("generation")
    with pytest.raises(RunFileError) as caught:
        parse_run(table, "run.toml")
    assert caught.value.faults == ("generations: unknown key: did you mean generation?",)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no room for a prompt": ({"generation": {"max_tokens": 128}}, "no room for a prompt"),
    "more initial than budget": ({"budget": {"initial": 9}}, "larger than evaluations"),
    "rehearsal without layers": ({"evaluation": {"layers": None}}, "set layers"),
    "more layers than can travel": ({"evaluation": {"layers": 5000}}, "at most 4000, not 5000"),
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
    "more blocks than layers": (
        {"merge": {"blocks": 5}}, "merge.blocks: 4 layers cannot be cut into 5 blocks",
    ),
    "blocks of a model-level method": (
        {"merge": {"blocks": 2}, "algorithm": {"name": "ties"}}, "ties gives all layers one weight",
    ),
    "parts of a model-level method": (
        {"merge": {"grain": "parts"}, "algorithm": {"name": "ties"}},
        "merge.grain = parts has no effect on ties, which merges whole models",
    ),
    "blocks of a layer-wise grain": (
        {"merge": {"grain": "layer", "blocks": 2}}, 'blocks has no effect on grain = "layer"',
    ),
    "borders and a number of blocks": (
        {"merge": {"borders": [1], "blocks": 2}}, "give either blocks, their number, or borders",
    ),
    "borders that do not increase": (
        {"merge": {"borders": [2, 2]}}, r"borders: \[2, 2\] do not increase",
    ),
    "a border behind the last layer": (
        {"merge": {"borders": [2, 4]}}, "no block can begin at layer 4: the layers are 0 to 3",
    ),
    "a block-wise grain without blocks": (
        {"merge": {"grain": "blocks"}}, 'grain = "blocks" needs blocks, their number, or borders',
    ),
    "an adaptive grain without a number": (
        {"merge": {"grain": "adaptive"}}, 'grain = "adaptive" needs blocks, their number',
    ),
    "borders of an adaptive grain": (
        {"merge": {"grain": "adaptive", "blocks": 2, "borders": [1]}},
        'borders has no effect on grain = "adaptive"',
    ),
    "filters of another grain": (
        {"merge": {"filters": [{"name": "a", "tensors": "mlp"}]}},
        'filters has no effect on grain = "layer"',
    ),
    "a grain of no filters": (
        {"merge": {"grain": "filters"}}, r'grain = "filters" needs \[\[merge.filters\]\] tables',
    ),
    "two filters of one name": (
        {"merge": {"grain": "filters", "filters": [{"name": "a", "tensors": t} for t in "xy"]}},
        "two filters have the same name",
    ),
    "a filter of no tensors": (
        {"merge": {"grain": "filters", "filters": [{"name": "a", "tensors": []}]}},
        r"merge\.filters\.0\.tensors: must have at least 1 entries, and has 0",
    ),
    "a filter of an empty text": (
        {"merge": {"grain": "filters", "filters": [{"name": "a", "tensors": ""}]}},
        r"merge\.filters\.0\.tensors: must have at least 1 character, not ''",
    ),
    "experts of another grain": (
        {"merge": {"experts_apart": True}}, 'experts_apart has no effect on grain = "layer"',
    ),
    "own weights outside the layers of a model-level method": (
        {"merge": {"outside_layers": "own"}, "algorithm": {"name": "ta"}},
        "ta gives all tensors one weight",
    ),
    "a parameter of a linear merge": (
        {"merge": {"parameters": {"gamma": 0.1}}},
        "merge.parameters: gamma has no effect on a linear merge",
    ),
    "a parameter of another method": (
        {"merge": {"parameters": {"gamma": 0.1}}, "algorithm": {"name": "ties"}},
        "merge.parameters: gamma has no effect on ties",
    ),
    "a parameter that the grid varies": (
        {"merge": {"parameters": {"density": 0.1}}, "algorithm": {"name": "ties"}},
        "merge.parameters: density is searched by ties",
    ),
    "a parameter beyond its interval": (
        {"merge": {"parameters": {"epsilon": 2}}, "algorithm": {"name": "della"}},
        r"merge.parameters: epsilon is 2.0, outside \[0, 1\]",
    ),
    "one objective": (
        {"objectives": [{"name": "a", "metric": "tokens", "expert": "thinking",
                         "vanilla": "instruct"}]}, "between 2 and 5 objectives, not 1"),
    "steps without an objective of what is estimated": (
        {"steps": {"enabled": True}, "objectives": [
            {"name": "a", "metric": "truncated", "expert": "thinking", "vanilla": "instruct"},
            {"name": "b", "metric": "tokens", "expert": "instruct", "vanilla": "thinking"}]},
        "steps: objective a is of truncated, and only accuracy and tokens",
    ),
    "steps of three objectives": (
        {"steps": {"enabled": True}, "objectives": [
            {"name": n, "metric": "tokens", "expert": "instruct", "vanilla": "thinking"}
            for n in "abc"]}, "steps need two objectives, not 3"),
    "no benchmarks": ({"benchmarks": []}, "benchmarks"),
    "a benchmark named like a source": (
        {"benchmarks": [{"name": "base", "adapter": "a", "path": "p"}]}, "cannot be called base"),
    "two benchmarks of one name": (
        {"benchmarks": [{"name": "a", "adapter": "a", "path": "p"}] * 2}, "the same name"),
    "a name with a slash": ({"name": "a/b"}, "name: "),
}  # fmt: skip


def test_a_rehearsal_of_the_most_layers_fits_into_the_messages() -> None:
    spec = run_spec(evaluation={"layers": 4000}, merge={"outside_layers": "own"})
    assert spec.evaluation.layers is not None
    space = Space.of(spec, spec.evaluation.layers, OUTSIDE_GROUPS)
    assign = Assign(
        run="r", evaluation="e1", attempt=1, lease="e1.1", work="evaluate", config="c",
        vector=(0.5,) * space.dimensions,
    )  # fmt: skip
    assert decode(encode(assign), FROM_MASTER) == assign


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
    assert run.sources.folders["thinking"] == str(tmp_path / "models" / "t")
    assert run.sources.folders["instruct"] == str(tmp_path / "deep" / "i")
    assert run.named_paths() == {
        "thinking": run.sources.folders["thinking"],
        "instruct": run.sources.folders["instruct"],
        "base": None,
        "sums": str(tmp_path / "deep" / "data" / "sums"),
        "prompts": None,
        "adapters": None,
    }
    assert run.without_paths()["sources"] == "thinking, instruct"
    assert run.benchmarks[0].path == str(tmp_path / "deep" / "data" / "sums")


def test_the_paths_of_a_run_are_the_keys_that_are_marked(tmp_path: Path) -> None:
    table = run_spec().model_dump(mode="json")
    assert {found.place for found in paths_in(table, RunSpec)} == {
        "sources.thinking", "sources.instruct", "sources.base", "benchmarks.0.path",
        "prior.prompts", "adapters",
    }  # fmt: skip
    broken = {"sources": 3, "benchmarks": [7, {"path": "p"}], "prior": {"prompts": ["q"]}}
    assert [(found.place, found.path) for found in paths_in(broken, RunSpec)] == [
        ("benchmarks.1.path", "p")
    ]


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


def test_what_may_have_been_meant_is_hinted_at(tmp_path: Path) -> None:
    with pytest.raises(RunFileError, match="a folder, not a run file") as caught:
        load_run_file(tmp_path)
    assert "examples/" in caught.value.hint
    path = write_run_file(tmp_path / "run.toml")
    for wrong in (tmp_path, tmp_path / "rum.toml"):
        with pytest.raises(RunFileError) as caught:
            load_run_file(wrong)
        assert caught.value.hint == f"there is {path}"


def test_variables_in_paths_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELS", "/models/new")
    sources = {"thinking": "${MODELS}/thinking", "instruct": "$dollar/instruct"}
    (tmp_path / "$dollar/instruct").mkdir(parents=True)
    spec = load_run_file(write_run_file(tmp_path / "run.toml", sources=sources))
    assert spec.sources.folders["thinking"] == "/models/new/thinking"
    assert spec.sources.folders["instruct"] == str(tmp_path / "$dollar/instruct")
    monkeypatch.delenv("MODELS")
    with pytest.raises(RunFileError, match=r"sources.thinking: .* \${MODELS} is not set in"):
        load_run_file(tmp_path / "run.toml")


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
    assert run_spec(merge={"blocks": 2}).config_hash(digests) != one
    assert run_spec(merge={"grain": "parts"}).config_hash(digests) != one
    assert run_spec(merge={"outside_layers": "own"}).config_hash(digests) != one
    assert run_spec(merge={"vocabulary": "common"}).config_hash(digests) != one
    assert run_spec(engine={"batch_invariant": True}).config_hash(digests) != one
    assert run_spec(algorithm={"name": "sobol"}).config_hash(digests) == one
    assert run_spec(algorithm={"name": "ties"}).config_hash(digests) != one
    assert run_spec().config_hash({**digests, "thinking": "c"}) != one


def test_blocks_without_a_grain_are_what_they_were() -> None:
    named = run_spec(merge={"grain": "blocks", "blocks": 2})
    before = run_spec(merge={"blocks": 2})
    assert before.merge == named.merge
    assert before.config_hash({}) == named.config_hash({})
    assert run_spec(merge={"grain": "adaptive", "blocks": 2}).config_hash({}) != before.config_hash(
        {}
    )
    assert run_spec().merge.grain == "layer"


def test_runs_of_earlier_versions_keep_their_configuration_hash() -> None:
    """The hash is the one that the version before `engine.kind` and `merge.parameters` gives."""
    table = {
        "name": "fixed",
        "sources": {"thinking": "/models/thinking", "instruct": "/models/instruct"},
        "benchmarks": [{"name": "sums", "adapter": "apbmm_exact", "path": "/data/sums"}],
        "generation": {"max_tokens": 64, "context": 128},
        "engine": {"arguments": {"max_num_seqs": 8}},
    }
    digests = {"thinking": "a", "instruct": "b"}
    before = "82f9f7b210ae8fac5a1fae229b411369ed7f6c4485155b49d043eadfcdddbafa"
    assert parse_run(table, "run.toml").config_hash(digests) == before
    table["engine"] = {"arguments": {"max_num_seqs": 8}, "kind": "vllm"}
    assert parse_run(table, "run.toml").config_hash(digests) == before
    table["engine"] = {"arguments": {"max_num_seqs": 8}, "kind": "another"}
    assert parse_run(table, "run.toml").config_hash(digests) != before


def test_a_byte_order_mark_before_a_run_file_is_passed_over(tmp_path: Path) -> None:
    path = write_run_file(tmp_path / "run.toml")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_run_file(path).benchmarks


def test_every_benchmark_keeps_the_share_of_the_confirmation_unless_it_names_its_own() -> None:
    own = {"name": "own", "adapter": "a", "path": "p", "holdout": 0.5}
    other = {"name": "sums", "adapter": "sums", "path": "/none/sums"}
    spec = run_spec(benchmarks=[own, other], confirm={"holdout": 0.2})
    assert [benchmark.holdout for benchmark in spec.benchmarks] == [0.5, 0.2]
    again = RunSpec.model_validate(spec.model_dump(mode="json"))
    assert again == spec
    digests = {"thinking": "a"}
    assert spec.config_hash(digests) != run_spec(benchmarks=[own, other]).config_hash(digests)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("holdout", 30, "must be less than 1.0, not 30"),
        ("holdout", "a third", "must be a number, not 'a third'"),
        ("repeats", 0, "must be at least 1, not 0"),
    ],
)
def test_a_wrong_value_of_the_confirmation_is_one_fault(key: str, value: object, said: str) -> None:
    further = {"name": "new", "adapter": "a", "path": "p"}
    assert faults_of(confirm={key: value, "benchmarks": [further]}) == [f"confirm.{key}: {said}"]


def test_benchmarks_of_the_confirmation_have_paths_and_names_of_their_own() -> None:
    further = {"name": "new", "adapter": "a", "path": ["/p/1", "/p/2"]}
    spec = run_spec(confirm={"benchmarks": [further]})
    assert spec.named_paths()["new"] == ("/p/1", "/p/2")
    assert "/p/1" not in str(spec.without_paths())
    digests = {"thinking": "a"}
    assert spec.config_hash(digests) == run_spec().config_hash(digests)
    assert faults_of(confirm={"benchmarks": [{**further, "name": "sums"}]}) == [
        "confirm: two benchmarks have the same name: ['sums', 'sums']"
    ]


def test_repeats_need_draws_that_differ() -> None:
    sums = {"name": "sums", "adapter": "sums", "path": "/none/sums", "repeats": 8}
    drawn = {"max_tokens": 64, "context": 128, "temperature": 0.6}
    assert run_spec(benchmarks=[sums], generation=drawn).benchmarks[0].repeats == 8
    (fault,) = faults_of(benchmarks=[sums])
    assert fault.startswith("generation: benchmark sums: repeats = 8 draws 8 answers")
    assert "at temperature 0 they would all be equal: raise generation.temperature" in fault
    (fault,) = faults_of(confirm={"repeats": 4})
    assert fault.startswith("confirm: [confirm]: repeats = 4")
    further = {"name": "new", "adapter": "a", "path": "p", "repeats": 2}
    (fault,) = faults_of(confirm={"benchmarks": [further]})
    assert fault.startswith("confirm: benchmark new: repeats = 2")
    assert faults_of(benchmarks=[{**sums, "repeats": 0}]) == [
        "benchmarks.0.repeats: must be at least 1, not 0"
    ]


def test_repeats_are_part_of_what_is_measured_unless_there_is_one() -> None:
    sums = {"name": "sums", "adapter": "sums", "path": "/none/sums"}
    drawn = {"max_tokens": 64, "context": 128, "temperature": 0.6}
    digests = {"thinking": "a"}
    once, asked_once, twice = (
        run_spec(benchmarks=[{**sums, **more}], generation=drawn).config_hash(digests)
        for more in ({}, {"repeats": 1}, {"repeats": 2})
    )
    assert once == asked_once != twice


def test_benchmarks_of_the_confirmation_are_repeated_unless_they_say_otherwise() -> None:
    further = [
        {"name": "new", "adapter": "a", "path": "p"},
        {"name": "own", "adapter": "a", "path": "p", "repeats": 2},
    ]
    drawn = {"max_tokens": 64, "context": 128, "temperature": 0.6}
    spec = run_spec(confirm={"repeats": 4, "benchmarks": further}, generation=drawn)
    assert [b.repeats for b in spec.confirm.benchmarks] == [4, 2]
    assert RunSpec.model_validate(spec.model_dump(mode="json")) == spec


def test_a_budget_has_at_least_one_limit_and_forty_evaluations_without_any() -> None:
    def budget(**keys: Any) -> tuple[int | None, float | None, int | None]:
        table = run_table()
        table["budget"] = keys
        found = parse_run(table, "test").budget
        return found.evaluations, found.gpu_hours, found.generated_tokens

    assert budget() == budget(patience=5) == (40, None, None)
    assert budget(gpu_hours=2) == (None, 2.0, None)
    assert budget(generated_tokens=10**9, initial=50) == (None, None, 10**9)
    assert budget(evaluations=9, gpu_hours=0.5, generated_tokens=7) == (9, 0.5, 7)
    for wrong in ({"gpu_hours": 0}, {"generated_tokens": 0}, {"patience": 0}):
        with pytest.raises(RunFileError, match=next(iter(wrong))):
            budget(**wrong)


def test_limits_that_are_not_given_stay_so_in_what_is_journaled_and_sent() -> None:
    found = run_spec(budget={"evaluations": None, "gpu_hours": 3.0})
    assert RunSpec.model_validate(found.model_dump(mode="json")) == found
    assert parse_run(tomllib.loads(run_as_toml(found)), "again") == found
