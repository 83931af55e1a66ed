"""`apbmm export`: what the folders hold, what is compared, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml  # type: ignore[import-untyped]
from huggingface_hub import ModelCard, parse_eval_result_entries

from apbmm.app import app
from apbmm.export import written_merge
from apbmm.export.command import run_export
from apbmm.export.flags import ExportRequest
from apbmm.pick.flags import PreferenceFlags
from apbmm.results.run_results import read_results
from apbmm_common.errors import ApbmmError, SourceError, UsageError
from apbmm_common.protocol.messages import Evaluated
from apbmm_master.journal.events import Record, ResultRecorded
from apbmm_master.journal.storage.store import Journal, read_journal
from merged_runs import write_confirmation, write_merged_run, write_pair
from tiny_checkpoints import load_tensors, pad_vocabulary, write_related
from written_runs import answered

FILES = {
    "README.md", "apbmm_merge.json", "config.json", "generation_config.json", "layer_weights.svg",
    "mergekit_config.yml", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip
REAL = {"kind": "vllm", "layers": None}
ABC = "abc" + 37 * "0"
EXACT = "bit for bit those that were evaluated"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    sources = write_pair(tmp_path_factory.mktemp("sources"))
    return {role: sources[role] for role in ("thinking", "instruct")}


@pytest.fixture(scope="module")
def run_dir(pair: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_merged_run(tmp_path_factory.mktemp("run"), pair)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def export(run_dir: Path, out: Path, **request: Any) -> None:
    assert run_export(str(run_dir), ExportRequest(out=out, **request)) == 0


def record(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "apbmm_merge.json").read_text()))


@pytest.mark.slow
def test_an_export_is_a_complete_folder_of_the_weights_that_were_evaluated(
    run_dir: Path, pair: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    export(run_dir, out, evaluation="e0002")
    assert {file.name for file in out.iterdir()} == FILES
    assert f"weights: {EXACT}" in capsys.readouterr().out
    found, results = record(out), read_results(run_dir)
    evaluation = results.evaluation("e0002")
    assert found["run"] == results.run
    assert found["evaluation"] == "e0002"
    assert tuple(found["point"]) == evaluation.vector
    assert tuple(found["vector"]) == evaluation.layer_weights
    assert found["digests"] == {role: results.run_state.digests[role] for role in pair}
    assert found["weights"].startswith(EXACT)
    assert found["metrics"]["sums"]["accuracy"] == 0.75
    assert found["sources"]["thinking"]["folder"] == str(pair["thinking"])
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert bool(model(torch.arange(5)[None]).logits.isfinite().all())
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    asked = [{"role": "user", "content": "2+2?"}]
    assert "2+2?" in tokenizer.apply_chat_template(asked, tokenize=False)


@pytest.mark.parametrize(
    ("cpu_build", "server"),
    [(False, "vllm serve"), (True, "python -m vllm.entrypoints.openai.api_server --model")],
)
def test_the_server_that_is_named_starts_on_this_host(
    run_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    cpu_build: bool,
    server: str,
) -> None:
    monkeypatch.setattr("apbmm.doctor.packages.has_cpu_vllm", lambda: cpu_build)
    out = tmp_path / "out"
    export(run_dir, out, evaluation="e0002")
    assert f"  serve it: {server} {out} --max-model-len 128\n" in capsys.readouterr().out


def test_a_card_serves_without_penalties_that_no_run_uses(tmp_path: Path) -> None:
    sources = write_pair(tmp_path / "sources")
    pair = {role: sources[role] for role in ("thinking", "instruct")}
    (pair["thinking"] / "generation_config.json").write_text('{"repetition_penalty": 1.05}')
    out = tmp_path / "out"
    export(write_merged_run(tmp_path / "run", pair), out, evaluation="e0002")
    card = (out / "README.md").read_text()
    assert "$ vllm serve . --max-model-len 128 --generation-config vllm\n" in card
    assert "says `repetition_penalty=1.05`, without which it was measured" in card


@pytest.mark.parametrize(("dtype", "flag"), [("float32", " --dtype float32"), ("bfloat16", "")])
def test_what_is_stored_as_float32_is_served_so(
    run_dir: Path, tmp_path: Path, dtype: Any, flag: str
) -> None:
    """By itself vLLM computes with 16 bits there, and the run did not."""
    out = tmp_path / "out"
    export(run_dir, out, evaluation="e0002", dtype=dtype)
    assert f"$ vllm serve . --max-model-len 128{flag}\n" in (out / "README.md").read_text()


def test_the_cards_figures_are_the_journals(run_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(run_dir, out, evaluation="e0002", base_models=["thinking=org/think"])
    card = ModelCard.load(out / "README.md")
    assert card.data.base_model == ["org/think"]
    thinking, instruct = (record(out)["sources"][role] for role in ("thinking", "instruct"))
    assert thinking == {"hub_id": "org/think"}  # and nothing of this host
    assert list(instruct) == ["folder"]
    assert card.data.get("base_model_relation") == "merge"
    assert card.data.license == "apache-2.0"
    assert {"merge", "apbmm"} <= set(card.data.tags)
    assert card.data.eval_results is not None
    measured = {each.metric_type: each.metric_value for each in card.data.eval_results}
    assert measured == {"accuracy": 0.75, "tokens": 465.0}
    # Without one, the Hub would join the results of two benchmarks of one adapter.
    assert {each.dataset_config for each in card.data.eval_results} == {"sums"}
    (row,) = re.findall(r"\| sums \| 4 \| accuracy \| (.*) \|", card.text)
    # Wilson's intervals of 3, 4 and 1 of 4.
    assert row.split(" | ") == [
        "75.0% (30.1% to 95.4%)", "100.0% (51.0% to 100.0%)", "25.0% (4.6% to 69.9%)"
    ]  # fmt: skip
    (row,) = re.findall(r"\| sums \| 4 \| tokens \| (.*) \|", card.text)
    assert [cell.split(" ")[0] for cell in row.split(" | ")] == ["465.0", "922.5", "65.0"]
    weights = re.findall(r"^\| (\d+) \| ([\d.]+) \|$", card.text, re.MULTILINE)
    evaluation = read_results(run_dir).evaluation("e0002")
    assert [int(n) for n, _ in weights] == list(range(len(evaluation.layer_weights)))
    assert [float(x) for _, x in weights] == pytest.approx(evaluation.layer_weights, abs=1e-6)
    assert "**e0002**" in card.text
    assert "e0003" not in card.text  # not on the front
    assert "vllm serve . --max-model-len 128" in card.text
    assert "REHEARSAL" not in card.text


def test_confirmed_figures_stand_beside_those_of_the_search(run_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    lower = [answered([1.0, 0.0, 0.0, 0.0], [110, 120, 130, 140]), answered([1.0] * 4, [500] * 4)]
    write_confirmation(copy, lower)
    export(copy, tmp_path / "out", evaluation="e0001")
    card = ModelCard.load(tmp_path / "out" / "README.md").text
    search, confirmed = re.findall(r"\| sums \| 4 \| accuracy \| ([\d.]+)% ", card)
    assert (search, confirmed) == ("50.0", "25.0")
    assert "on the front of what is confirmed" in card


@pytest.mark.parametrize("confirmed", [False, True])
def test_registered_benchmarks_have_a_result_for_the_hub(
    pair: dict[str, Path], tmp_path: Path, confirmed: bool
) -> None:
    named = {"name": "sums", "path": "/none/sums", "questions": 4}
    for adapter, dataset in (("gsm8k", "openai/gsm8k"), ("aime26", "MathArena/aime_2026")):
        folder = tmp_path / adapter
        run_dir = write_merged_run(folder, pair, benchmarks=[{**named, "adapter": adapter}])
        if confirmed:
            lower = answered([1.0, 0.0, 0.0, 0.0], [110, 120, 130, 140])
            held = {"name": "sums", "adapter": adapter, "path": "/none/new"}
            write_confirmation(run_dir, [lower], benchmarks=[held], evaluation=REAL)
        export(run_dir, folder / "out", evaluation="e0001")
        (file,) = (folder / "out" / ".eval_results").iterdir()
        assert file.name == "sums.yaml"
        (entry,) = parse_eval_result_entries(yaml.safe_load(file.read_text()))
        assert entry.dataset_id == dataset
        assert entry.value == (25.0 if confirmed else 50.0)
        assert entry.date == "1970-01-01"
        assert entry.notes is not None
        if confirmed:
            assert "4 questions, all questions of its data file; the search did not" in entry.notes
        else:
            assert "4 questions, its first 4 questions: a subset; the merge was" in entry.notes
        assert "at most 64 new tokens" in entry.notes


def test_without_a_choice_it_is_the_pick(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(run_dir, tmp_path / "out", preference=PreferenceFlags(max_tokens=200.0))
    assert record(tmp_path / "out")["evaluation"] == "e0001"
    assert "the most accurate of the 1" in capsys.readouterr().out
    with pytest.raises(ApbmmError, match="nothing fits") as caught:
        export(run_dir, tmp_path / "no", preference=PreferenceFlags(max_tokens=1.0))
    assert "e0001" in caught.value.hint


def test_the_front_goes_to_a_folder_for_each_merge(run_dir: Path, tmp_path: Path) -> None:
    export(run_dir, tmp_path / "out", front=True)
    assert {folder.name for folder in (tmp_path / "out").iterdir()} == {"e0001", "e0002"}
    for name in ("e0001", "e0002"):
        assert {file.name for file in (tmp_path / "out" / name).iterdir()} == FILES
        assert record(tmp_path / "out" / name)["weights"].startswith(EXACT)


def test_a_source_may_be_an_export_too(run_dir: Path, tmp_path: Path) -> None:
    export(run_dir, tmp_path / "out", evaluation="thinking")
    results = read_results(run_dir)
    one, two = (
        load_tensors(Path(p)) for p in (tmp_path / "out", results.spec.sources.folders["thinking"])
    )
    assert all(torch.equal(one[name], two[name]) for name in two)


# ---- weights -----------------------------------------------------------------------------------


@pytest.fixture
def other_digests(run_dir: Path, tmp_path: Path) -> Callable[[str | None], Path]:
    """Runs with another digest of every merge."""

    def made(digest: str | None) -> Path:
        folder = tmp_path / "edited"
        records = []
        for each in read_journal(run_dir):
            event = each.event
            if isinstance(event, ResultRecorded) and isinstance(event.body, Evaluated):
                engine = {} if digest is None else {"weights": digest}
                body = event.body.model_copy(update={"engine": engine})
                event = event.model_copy(update={"body": body})
            records.append(Record(each.seq, each.time, event))
        with Journal(folder) as journal:
            journal.append(records)
        return folder

    return made


def test_other_weights_than_those_evaluated_are_refused(
    other_digests: Callable[[str | None], Path], tmp_path: Path
) -> None:
    folder, out = other_digests("0" * 64), tmp_path / "out"
    with pytest.raises(ApbmmError, match="not bit for bit") as caught:
        export(folder, out, evaluation="e0001")
    assert "--allow-different-weights" in caught.value.hint
    assert not out.exists()
    export(folder, out, evaluation="e0001", allow_different=True)
    assert record(out)["weights"].startswith("NOT bit for bit")
    assert "NOT bit for bit" in (out / "README.md").read_text()


def test_a_run_without_digests_says_so(
    other_digests: Callable[[str | None], Path], tmp_path: Path
) -> None:
    export(other_digests(None), tmp_path / "out", evaluation="e0001")
    assert "journaled no digest" in record(tmp_path / "out")["weights"]


def test_another_dtype_is_stored_and_said(run_dir: Path, tmp_path: Path) -> None:
    for dtype in ("source", "float32"):
        export(run_dir, tmp_path / dtype, evaluation="e0002", dtype=dtype)
    exact, wide = (load_tensors(tmp_path / name) for name in ("source", "float32"))
    for name, tensor in exact.items():
        assert tensor.dtype == torch.bfloat16
        assert wide[name].dtype == torch.float32
        assert torch.equal(wide[name].bfloat16(), tensor)
    assert record(tmp_path / "float32")["weights"].endswith("stored as float32")
    config = json.loads((tmp_path / "float32" / "config.json").read_text())
    assert config["torch_dtype"] == "float32"


# ---- sources -----------------------------------------------------------------------------------


def test_sources_are_found_by_path_and_in_the_hugging_face_cache(
    pair: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run was made on a host that had both in its own cache."""
    elsewhere = {
        role: tmp_path / "elsewhere" / f"models--org--{role}" / "snapshots" / ABC for role in pair
    }
    for role, source in pair.items():
        shutil.copytree(source, elsewhere[role])
    run_dir = write_merged_run(tmp_path, elsewhere)
    shutil.rmtree(tmp_path / "elsewhere")
    hub = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    with pytest.raises(UsageError, match=r"instruct: .* is not on this host") as caught:
        export(run_dir, tmp_path / "no", evaluation="e0001")
    assert "thinking: " in caught.value.message
    assert "--path" in caught.value.hint
    for role, source in pair.items():
        model = hub / f"models--org--{role}"
        shutil.copytree(source, model / "snapshots" / ABC)
        (model / "refs").mkdir()
        (model / "refs" / "main").write_text(ABC)
    export(run_dir, tmp_path / "cached", evaluation="e0001")
    card = ModelCard.load(tmp_path / "cached" / "README.md")
    assert card.data.base_model == ["org/thinking", "org/instruct"]
    config = yaml.safe_load((tmp_path / "cached" / "mergekit_config.yml").read_text())
    assert [model["model"] for model in config["models"]] == ["org/thinking", "org/instruct"]
    paths = [f"thinking={pair['thinking']}", "instruct=org/instruct"]
    export(run_dir, tmp_path / "named", evaluation="e0001", paths=paths)
    assert ModelCard.load(tmp_path / "named" / "README.md").data.base_model == ["org/instruct"]


def test_sources_that_are_not_those_of_the_run_are_refused(
    run_dir: Path, pair: dict[str, Path], tmp_path: Path
) -> None:
    write_related(pair["instruct"], tmp_path / "other", seed=9)
    with pytest.raises(SourceError, match="does not hold the weights that the run merged"):
        export(run_dir, tmp_path / "out", paths=[f"instruct={tmp_path / 'other'}"])
    shutil.copytree(pair["thinking"], tmp_path / "template")
    (tmp_path / "template" / "chat_template.jinja").write_text("other")
    with pytest.raises(SourceError, match="another tokenizer, chat template or config"):
        export(run_dir, tmp_path / "out", paths=[f"thinking={tmp_path / 'template'}"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"evaluation": "e0099"}, "has no evaluation e0099"),
        ({"evaluation": "measure"}, "measure has no result"),
        ({"evaluation": "e0001", "front": True}, "--eval and --front do not go together"),
        ({"front": True, "push_to_hub": "org/model"}, "takes one merge"),
        ({"push_to_hub": "not a name"}, "not ORG/MODEL"),
        ({"public": True}, "--public has no effect"),
        ({"paths": ["base=/x"]}, "the run merges no base"),
        ({"paths": ["thinking"]}, "expected NAME=VALUE"),
        ({"paths": ["thinking=/no/where"]}, "neither a folder nor a model"),
        ({"base_models": ["thinking=one two"]}, "not ORG/MODEL"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(
    run_dir: Path, tmp_path: Path, request_: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        export(run_dir, tmp_path / "out", **request_)
    assert not (tmp_path / "out").exists()


# ---- the folder --------------------------------------------------------------------------------


def test_nothing_is_overwritten_without_force(run_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(run_dir, out, evaluation="e0001")
    with pytest.raises(UsageError, match="not an empty folder") as caught:
        export(run_dir, out, evaluation="e0002")
    assert "--force" in caught.value.hint
    export(run_dir, out, evaluation="e0002", force=True)
    assert record(out)["evaluation"] == "e0002"
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").touch()
    with pytest.raises(UsageError, match="not an empty folder"):
        export(run_dir, precious, evaluation="e0002", force=True)
    assert [file.name for file in precious.iterdir()] == ["thesis.tex"]


def test_a_failure_leaves_what_was_there(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    export(run_dir, out, evaluation="e0001")

    def fails(_: object) -> ModelCard:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(written_merge, "model_card", fails)
    for where in (out, tmp_path / "new"):
        with pytest.raises(ApbmmError, match="could not be written"):
            export(run_dir, where, evaluation="e0002", force=True)
    assert record(out)["evaluation"] == "e0001"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "cache") == ["out"]


def test_room_on_the_disk_is_asked_for_first(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100_000))
    with pytest.raises(UsageError, match="are to be written"):
        export(run_dir, tmp_path / "out", evaluation="e0001")
    assert list(tmp_path.iterdir()) == []


def test_merge_by_hand_is_the_same(run_dir: Path, tmp_path: Path) -> None:
    """Through the command line, which checks the flags."""
    for command, out in (
        (["merge", str(run_dir), "e0001"], tmp_path / "merge" / "model"),
        (["export", str(run_dir), "--eval", "e0001"], tmp_path / "export" / "model"),
    ):
        assert app([*command, "--out", str(out)], result_action="return_value") == 0
    one, two = ({f.name: f.read_bytes() for f in (tmp_path / name / "model").iterdir()}
                for name in ("merge", "export"))  # fmt: skip
    assert one == two
    for more in ([], ["e0001", "--weight", "0.5"]):
        with pytest.raises(UsageError):
            app(
                ["merge", str(run_dir), *more, "--out", str(tmp_path / "no")],
                result_action="return_value",
            )


# ---- rehearsals and whole models ---------------------------------------------------------------


def test_a_rehearsal_says_so_on_everything(
    pair: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = write_merged_run(tmp_path, pair, evaluation={"kind": "rehearsal"})
    out = tmp_path / "out"
    export(run_dir, out, evaluation="e0001")
    assert capsys.readouterr().out.startswith("REHEARSAL")
    for name in ("README.md", "apbmm_merge.json", "layer_weights.svg", "mergekit_config.yml"):
        assert "REHEARSAL" in (out / name).read_text(), name
    card = ModelCard.load(out / "README.md")
    assert "rehearsal" in card.data.tags
    assert card.data.eval_results is None
    with pytest.raises(UsageError, match="a rehearsal is not uploaded"):
        export(run_dir, tmp_path / "up", evaluation="e0001", push_to_hub="org/model")


def test_vocabularies_that_are_padded_to_several_sizes(tmp_path: Path) -> None:
    sources = write_pair(tmp_path / "sources")
    del sources["base"]
    pad_vocabulary(sources["thinking"], 128)
    run_dir = write_merged_run(tmp_path, sources, merge={"vocabulary": "common"})
    out = tmp_path / "out"
    export(run_dir, out, evaluation="e0001")
    assert record(out)["weights"].startswith(EXACT)
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 96
    assert load_tensors(out)["model.embed_tokens.weight"].shape == (96, 32)
    assert "the merge has 96 rows" in (out / "mergekit_config.yml").read_text()


def test_a_merge_of_whole_models(tmp_path: Path) -> None:
    sources = write_pair(tmp_path / "sources")
    run_dir = write_merged_run(tmp_path, sources, algorithm={"name": "ties"})
    out = tmp_path / "out"
    export(run_dir, out, evaluation="e0001")
    found = record(out)
    assert found["weights"].startswith(EXACT)
    assert found["task_vectors"]["method"] == "ties"
    config = yaml.safe_load((out / "mergekit_config.yml").read_text())
    assert config["merge_method"] == "ties"
    assert config["base_model"] == str(sources["base"])
    assert config["parameters"] == {"lambda": found["task_vectors"]["weight"]}
    card = (out / "README.md").read_text()
    assert f"| density | {found['task_vectors']['density']:.6g} |" in card
    assert not (out / "layer_weights.svg").exists()
