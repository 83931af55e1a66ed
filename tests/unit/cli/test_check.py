"""`apbmm check`: every fault at once, and what would run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from apbmm.app import check
from apbmm.check.inspect import Inspection, inspect, is_known_adapter
from apbmm.check.view import plan, size
from apbmm_common.errors import RunFileError
from apbmm_master.app import MasterFlags, master
from code_of_its_own import FILES, give_own_code
from commands import called, write_rehearsal
from tiny_adapters import write_adapter
from tiny_checkpoints import (
    VOCABULARY,
    edit_config,
    pad_vocabulary,
    with_identical_layers,
    write_json,
    write_tiny_pair,
    write_tokenizer,
)

RUN = """
name = "trial"
[sources]
thinking = "pair/thinking"
instruct = "pair/instruct"
[[benchmarks]]
name = "exact"
adapter = "apbmm_exact"
path = "exact"
questions = 2
[generation]
max_tokens = 100
context = 200
[prior]
prompts = "prompts.jsonl"
[algorithm]
name = "sobol"
"""


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_tiny_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def run_file(tmp_path: Path, pair: tuple[Path, Path]) -> Path:
    """A run file with everything it needs beside it."""
    for name, source in zip(("thinking", "instruct"), pair, strict=True):
        shutil.copytree(source, tmp_path / "pair" / name)
    (tmp_path / "exact").mkdir()
    questions = [{"id": str(i), "question": f"{i}+1", "answer": str(i + 1)} for i in range(3)]
    write_lines(tmp_path / "exact" / "test.jsonl", questions)
    write_lines(tmp_path / "prompts.jsonl", [{"prompt": "one"}, {"prompt": "two"}])
    file = tmp_path / "run.toml"
    file.write_text(RUN)
    return file


def write_lines(file: Path, records: list[dict[str, str]]) -> None:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


def with_changes(file: Path, changes: Mapping[str, str]) -> Inspection:
    """Inspect the run file with pieces of its text replaced."""
    text = file.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    return inspect(file)


def test_a_common_vocabulary_is_offered_and_taken(run_file: Path, tmp_path: Path) -> None:
    pad_vocabulary(tmp_path / "pair" / "thinking", 128)
    found = inspect(run_file)
    assert found.faults[0].startswith("sources: vocab_size: thinking has 128, instruct has 96: ")
    assert 'vocabulary = "common" in [merge]' in found.faults[0]
    found = with_changes(run_file, {"[prior]": '[merge]\nvocabulary = "common"\n[prior]'})
    assert found.faults == []
    note = "vocabulary: merges have 96 rows, and thinking has 128: the rest is left out"
    assert note in found.notes


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_git_lfs_pointers_in_place_of_tokenizers(run_file: Path, tmp_path: Path, name: str) -> None:
    """In both sources, whose files are then the same."""
    files = [tmp_path / "pair" / role / name for role in ("thinking", "instruct")]
    for file in files:
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n")
    assert inspect(run_file).faults == [
        f"sources: {file}: a Git LFS pointer, in place of the file itself (git lfs pull, in the "
        "folder that was cloned, brings the file itself)"
        for file in files
    ]


def test_a_token_beyond_the_common_rows(run_file: Path, tmp_path: Path) -> None:
    thinking = tmp_path / "pair" / "thinking"
    pad_vocabulary(thinking, 128)
    write_tokenizer(thinking, VOCABULARY | {"<think>": 100})
    found = with_changes(run_file, {"[prior]": '[merge]\nvocabulary = "common"\n[prior]'})
    assert found.faults[0].startswith(
        "merge: vocabulary = \"common\": '<think>' of thinking is 100, and all sources have rows "
        "for 0 to 95 alone"
    )


def test_a_device_is_for_the_probe_alone(run_file: Path) -> None:
    shown = called("check", run_file, "--gpu", "0")
    assert (shown.returncode, shown.stderr.splitlines()) == (
        2,
        ["error: --gpu 0: without --probe nothing runs on a device", "hint: add --probe"],
    )


def test_a_sound_run_has_no_faults_and_a_plan(run_file: Path) -> None:
    found = inspect(run_file)
    assert found.faults == []
    rows = dict(plan(found))
    assert "12 layers" in rows["thinking"]
    assert rows["base"] == "instruct"
    assert "2 questions" in rows["benchmark"]
    assert "40 evaluations (8 of them initial) and 2 references" in rows["budget"]
    assert "84 answers" in rows["budget"]
    assert rows["algorithm"] == "sobol"


def test_a_budget_of_costs_is_told(run_file: Path) -> None:
    limits = "[budget]\ngpu_hours = 6.5\ngenerated_tokens = 9000000\npatience = 12\n[prior]"
    found = with_changes(run_file, {"[prior]": limits})
    assert found.faults == []
    assert dict(plan(found))["budget"] == (
        "evaluations (8 of them initial) and 2 references within 6.5 GPU-hours and 9,000,000 "
        "generated tokens, while 12 evaluations' worth of cost add more than 1.00% of hypervolume, "
        "at most 10 failures: 2 answers each"
    )


def test_steps_are_told_where_merges_are_measured_in_part(run_file: Path) -> None:
    assert "steps" not in dict(plan(inspect(run_file)))
    steps = "[steps]\nenabled = true\nfront = 8\nstop_beaten = true\n[prior]"
    found = with_changes(run_file, {"[prior]": steps})
    assert found.faults == []
    assert dict(plan(found))["steps"] == (
        "each merge answers 30% first, the promising ones all, until 8 are on the front; "
        "merges that are beaten whatever they still answer are stopped"
    )


def test_repeats_are_told_beside_the_questions_and_make_answers(run_file: Path) -> None:
    found = with_changes(
        run_file,
        {
            "questions = 2": "questions = 2\nrepeats = 4",
            "max_tokens": "temperature = 0.6\nmax_tokens",
        },
    )
    assert found.faults == []
    rows = dict(plan(found))
    assert "2 questions x 4 from" in rows["benchmark"]
    assert "336 answers" in rows["budget"]


@pytest.mark.parametrize("more", ["", "[steps]\nstop_beaten = true\n"])
def test_no_torch_is_imported(run_file: Path, more: str) -> None:
    run_file.write_text(RUN.replace('"sobol"', '"ap-bmm-plus"') + more)
    code = (
        "import sys, pathlib; from apbmm.app import check;"
        f"check(pathlib.Path({str(run_file)!r}), questions=False); print('torch' in sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=True
    )
    assert shown.stdout.splitlines()[-1] == "False"


def test_a_rehearsal_says_so_and_reads_no_files(tmp_path: Path) -> None:
    found = inspect(write_rehearsal(tmp_path / "run.toml"))
    assert found.faults == []
    assert "REHEARSAL" in dict(plan(found))["evaluation"]


@pytest.mark.slow
def test_every_fault_at_once(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(RUN.replace("sobol", "sobel").replace('"apbmm_exact"', '"aime52"'))
    shown = called("check", file)
    assert shown.returncode == 2
    lines = shown.stderr.splitlines()
    assert lines[0] == f"{file}: {len(lines) - 1} errors"
    for number, expected in enumerate(
        (
            "there is no search method 'sobel'",
            f"sources.thinking: {tmp_path}/pair/thinking: no such folder",
            f"sources.instruct: {tmp_path}/pair/instruct: no such folder",
            "EvalScope has no benchmark 'aime52', aime26 is one",
            f"benchmark exact: {tmp_path}/exact is not a folder",
            f"prior.prompts: {tmp_path}/prompts.jsonl: no such prompt file",
        ),
        1,
    ):
        assert lines[number].startswith(f"  {number}. ")
        assert expected in lines[number]


def test_the_master_names_all_that_is_wrong_with_a_run_file_as_check_does(tmp_path: Path) -> None:
    wrong = '"sobel"\n[engine.arguments]\nmodel = "x"\nhf_token = "y"\n'
    for name, more, first in (
        ("unfit", "", []),
        (
            "invalid",
            "[engine]\nhot_lode = 1\n",
            ["engine.hot_lode: unknown key: did you mean hot_load?"],
        ),
    ):
        file = tmp_path / f"{name}.toml"
        file.write_text(RUN.replace('"sobol"', wrong + more))
        with pytest.raises(RunFileError, match="is not a valid run file") as caught:
            master(
                file, flags=MasterFlags(bind="tcp://0.0.0.0:5711")
            )  # which would be refused next
        told = [line.strip() for line in caught.value.message.splitlines()[1:]]
        assert [fault.partition(" (hint: ")[0] for fault in told] == [
            "engine.arguments: may not set model",
            "engine.arguments: may not set hf_token",
            *first,
            "algorithm.name: there is no search method 'sobel'",
        ]
        assert inspect(file).faults[: len(told)] == told


def test_an_invalid_run_file_is_looked_into_all_the_same(run_file: Path) -> None:
    shutil.rmtree(run_file.parent / "pair" / "thinking")
    found = with_changes(
        run_file,
        {
            "context = 200": "context = 20",
            '"sobol"': '"sobel"\nbatches = 2\nsetings = 1',
            '"exact"\nquestions = 2': '"x"\nquestions = 0',
            "instruct =": "mean =",
        },
    )
    assert found.spec is None
    text = "\n".join(found.faults)
    for expected in (
        "algorithm.batches: unknown key: did you mean batch?",
        "algorithm.setings: unknown key: did you mean settings?",
        "leaves no room for a prompt",
        "pair/thinking: no such file or folder",
        "benchmarks.0.questions: must be at least 1",
        "/x: no such file or folder",
        "sources: mean cannot name a source",
    ):
        assert expected in text


@pytest.mark.parametrize("text", ["name = ", "name = 3\n[sources]", ""])
def test_what_is_no_run_file_at_all(text: str, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    assert inspect(file).faults
    assert inspect(tmp_path / "none.toml").faults == [
        f"{tmp_path}/none.toml: no such run file (hint: there is {file})"
    ]


def test_groups_outside_the_layers_are_those_of_the_checkpoints(run_file: Path) -> None:
    found = with_changes(run_file, {"[prior]": '[merge]\noutside_layers = "own"\n[prior]'})
    own = "linear, layer by layer, outside the layers weights of their own for "
    assert dict(plan(found))["merge"] == f"{own}embeddings, norm, dtype source"  # the head is tied


def test_blocks_are_counted_in_the_checkpoint(run_file: Path) -> None:
    found = with_changes(run_file, {"[prior]": "[merge]\nblocks = 12\n[prior]"})
    assert found.faults == []
    assert dict(plan(found))["merge"].startswith("linear, 12 blocks of layers, ")
    faults = with_changes(run_file, {"blocks = 12": "blocks = 13"}).faults
    assert [fault.partition(" (")[0] for fault in faults] == [
        "merge.blocks: 12 layers cannot be cut into 13 blocks"
    ]


def test_a_model_level_merge_says_what_its_task_vectors_start_from(run_file: Path) -> None:
    found = with_changes(run_file, {'"sobol"': '"ties"'})
    assert found.faults == []
    rows = dict(plan(found))
    assert rows["merge"].startswith("ties of whole models, ")
    assert rows["base"] == "instruct, so only thinking has a task vector"
    shutil.copytree(run_file.parent / "pair" / "instruct", run_file.parent / "pair" / "base")
    found = with_changes(run_file, {"[sources]": '[sources]\nbase = "pair/base"'})
    assert "12 layers" in dict(plan(found))["base"]


def test_sources_that_do_not_fit_are_named(run_file: Path) -> None:
    edit_config(run_file.parent / "pair" / "thinking", rope_theta=1.0)
    found = inspect(run_file)
    assert any(fault.startswith("sources: ") and "rope" in fault for fault in found.faults)


def test_identical_sources_are_refused(run_file: Path) -> None:
    found = with_changes(run_file, {"pair/thinking": "pair/instruct"})
    assert any("Eq. 2" in fault for fault in found.faults)


def test_a_base_of_its_own_is_read_too(run_file: Path) -> None:
    found = with_changes(run_file, {"[sources]": '[sources]\nbase = "pair/nowhere"'})
    assert [fault.partition(":")[0] for fault in found.faults] == ["sources.base"]


def test_a_source_without_chat_template_cannot_lend_it(run_file: Path) -> None:
    folder = run_file.parent / "pair" / "thinking"
    for name in ("chat_template.jinja", "chat_template.json"):
        (folder / name).unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert any("no chat template" in fault for fault in inspect(run_file).faults)
    (folder / "chat_template.jinja").touch()
    assert any("no chat template" in fault for fault in inspect(run_file).faults)


def test_a_context_beyond_the_model_is_refused(run_file: Path) -> None:
    found = with_changes(run_file, {"context = 200": "context = 2000"})
    (fault,) = found.faults
    told = "generation.context: 2000 tokens, but thinking and instruct have positions for 1024"
    assert fault == told
    config = run_file.parent / "pair" / "instruct" / "config.json"
    text = config.read_text().replace(
        '"max_position_embeddings": 1024', '"max_position_embeddings": 512'
    )
    config.write_text(text)
    assert any(
        fault.endswith("instruct has positions for 512 and thinking has positions for 1024")
        for fault in inspect(run_file).faults
    )


@pytest.mark.parametrize("remote_code", [False, True])
def test_code_that_comes_with_a_source_is_named(run_file: Path, remote_code: bool) -> None:
    """transformers and vLLM know a Qwen3 without."""
    assert "own code" not in dict(plan(inspect(run_file)))
    give_own_code(run_file.parent / "pair" / "thinking", run_file.parent / "marks", known=True)
    asked = f"[engine]\nremote_code = {str(remote_code).lower()}\n[prior]"
    found = with_changes(run_file, {"[prior]": asked})
    row = dict(plan(found))["own code"]
    assert row.startswith(f"{', '.join(sorted(FILES))} of thinking: ")
    assert row.endswith("only with --allow-remote-code") is remote_code
    assert (": not run, what vLLM and transformers have" in row) is not remote_code


def test_a_run_that_asks_for_code_where_there_is_none_needs_leave_all_the_same(
    run_file: Path,
) -> None:
    found = with_changes(run_file, {"[prior]": "[engine]\nremote_code = true\n[prior]"})
    assert dict(plan(found))["own code"].startswith("none comes with the sources: workers take")


def test_whether_a_model_needs_its_own_code_is_left_to_the_workers(run_file: Path) -> None:
    """Only transformers knows, which the check does not import."""
    for role in ("thinking", "instruct"):
        give_own_code(run_file.parent / "pair" / role, run_file.parent / "marks")
    found = inspect(run_file)
    assert not [fault for fault in found.faults if "own code" in fault]
    assert "a worker refuses a model that" in dict(plan(found))["own code"]
    found = with_changes(run_file, {"[prior]": "[engine]\nremote_code = true\n[prior]"})
    assert not [fault for fault in found.faults if "sources" in fault]


def test_more_questions_than_there_are(run_file: Path) -> None:
    found = with_changes(run_file, {"questions = 2": "questions = 4"})
    assert any("4 questions wanted" in fault for fault in found.faults)


def test_known_adapters_are_those_of_evalscope() -> None:
    pytest.importorskip("evalscope", reason="EvalScope is not installed here")
    known = (
        "aime25",
        "gpqa_diamond",
        "gsm8k",
        "math_500",
        "apbmm_exact",
        "apbmm_demo_sums",
        "drop",
    )
    assert all(map(is_known_adapter, known))
    assert not is_known_adapter("apbmm_typo")


def test_a_metric_that_only_evalscope_can_report_is_noted(run_file: Path) -> None:
    objectives = """
[[objectives]]
name = "quality"
metric = "f1"
expert = "thinking"
vanilla = "instruct"
[[objectives]]
name = "speed"
metric = "seconds"
expert = "instruct"
vanilla = "thinking"
"""
    changes = {"apbmm_exact": "aime24", "[prior]": f"{objectives}[prior]"}
    (note,) = [note for note in with_changes(run_file, changes).notes if "objective" in note]
    assert note.startswith(
        "objective quality: f1 is not accuracy or tokens or seconds or truncated"
    )


def test_check_prints_the_plan(run_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(run_file, questions=False) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1] == f"{run_file}: no errors"
    assert "[" not in shown.replace(str(run_file), "")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (2.5e6, "2.5 MB"), (8e9, "8.00 GB")],
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


def test_layers_that_are_not_searched_are_named(run_file: Path) -> None:
    thinking, instruct = (run_file.parent / "pair" / name for name in ("thinking", "instruct"))
    with_identical_layers(thinking, instruct, (0, 1, 5))
    found = inspect(run_file)
    assert not found.faults
    text = "layers 0-1, 5 are not searched: their tensors are identical in all sources"
    assert ("layers", text) in plan(found)
    run_file.write_text(run_file.read_text().replace('"sobol"', '"ta"'))
    assert "layers" not in dict(plan(inspect(run_file))), "of a merge of whole models"


def test_a_pair_with_nothing_to_search_is_a_fault(run_file: Path) -> None:
    thinking, instruct = (run_file.parent / "pair" / name for name in ("thinking", "instruct"))
    with_identical_layers(thinking, instruct, range(12))
    (fault,) = inspect(run_file).faults
    assert fault.startswith("sources: the tensors of all layers are identical")


# ---- data as people have it ---------------------------------------------------------------------


def test_rows_that_are_no_questions_are_shown_and_other_faults_have_their_row(
    run_file: Path,
) -> None:
    data = run_file.parent / "exact" / "test.jsonl"
    blank = b'{"id": "", "question": "", "answer": ""}\n'
    data.write_bytes(b"\xef\xbb\xbf" + data.read_bytes() + blank)
    run_file.write_bytes(b"\xef\xbb\xbf" + run_file.read_bytes())
    shown = called("check", run_file, "--no-questions")
    assert shown.returncode == 0
    assert f"1 of 4 rows are no questions and are left out; in {data}, line 4" in shown.stdout
    for content, message in (
        (rb'{"id": "1", "question": "\ud835", "answer": "1"}', "line 1: 'question' holds half a"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b'{"id": "1", "question": "q", "answer": []}', "line 1: 'answer' is list"),
    ):
        data.write_bytes(content)
        shown = called("check", run_file)
        assert shown.returncode == 2
        assert "1 error\n" in shown.stderr
        assert message in shown.stderr
        assert str(data) in shown.stderr


def test_settings_that_models_recommend_and_the_run_does_not_use(
    run_file: Path, tmp_path: Path
) -> None:
    thinking, instruct = tmp_path / "pair/thinking", tmp_path / "pair/instruct"
    recommended = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.1}
    write_json(thinking / "generation_config.json", {"eos_token_id": [2], **recommended})
    write_json(instruct / "generation_config.json", {"eos_token_id": 5})
    penalty, ends = inspect(run_file).notes
    assert "of thinking says repetition_penalty 1.1, temperature 0.6, and the run deco" in penalty
    assert "instruct also ends its answers with the tokens [5], but only those of thinking" in ends
    write_json(instruct / "generation_config.json", {"eos_token_id": 2, "repetition_penalty": 2})
    changes = {"context = 200": "context = 200\ntemperature = 0.6\ntop_p = 0.8"}
    (penalty,) = with_changes(run_file, changes).notes
    assert (
        "says repetition_penalty 1.1, top_p 0.9, and the run decodes at temperature 0.6" in penalty
    )


def test_a_tokenizer_without_its_config_is_noted(run_file: Path, tmp_path: Path) -> None:
    thinking = tmp_path / "pair/thinking"
    template = json.loads((thinking / "tokenizer_config.json").read_text())["chat_template"]
    (thinking / "chat_template.jinja").write_text(template)
    (thinking / "tokenizer_config.json").unlink()
    assert any(f"{thinking} has no tokenizer_config.json" in n for n in inspect(run_file).notes)


@pytest.mark.parametrize("named", [None, "Qwen3ForCausalLM", []])
def test_architectures_are_a_list(run_file: Path, tmp_path: Path, named: object) -> None:
    """Without it vLLM starts a model of its own making, and fails."""
    for role in ("thinking", "instruct"):
        edit_config(tmp_path / "pair" / role, architectures=named)
    assert [fault.partition(" in ")[0] for fault in inspect(run_file).faults] == [
        "sources.thinking: architectures",
        "sources.instruct: architectures",
    ]


@pytest.mark.parametrize("table", [["yarn"], {"full_attention": {"factor": 4.0}}])
def test_rope_tables_of_any_form_are_no_traceback(
    run_file: Path, tmp_path: Path, table: object
) -> None:
    for role in ("thinking", "instruct"):
        edit_config(tmp_path / "pair" / role, rope_parameters=table)
    expected = ["sources: thinking: rope_parameters is ['yarn'], not an object"]
    found = inspect(run_file).faults
    assert found[:1] == (expected if isinstance(table, list) else [])


def test_a_list_of_files_and_questions_of_ones_own(run_file: Path) -> None:
    folder = run_file.parent
    (folder / "mine.csv").write_text("prompt,gold\n2 and 2?,4\n,\n")
    (folder / "more.jsonl").write_text('{"prompt": "1 and 1?", "gold": 2}\n')
    changes = {
        '"apbmm_exact"': '"apbmm_answer"',
        'path = "exact"': 'path = ["mine.csv", "more.jsonl"]\n'
        'arguments = { question = "prompt", answer = "gold", extract = "last_number" }',
        "questions = 2": "sample = 2",
    }
    found = with_changes(run_file, changes)
    assert found.faults == []
    assert found.questions == {"exact": 2}
    text = run_file.read_text()
    run_file.write_text(text.replace('extract = "last_number"', 'extract = "number"'))
    (fault,) = inspect(run_file).faults
    assert fault.startswith("benchmarks.0.arguments: extract must be exact, boxed, last_number or")
    run_file.write_text(text.replace('"gold"', '"glod"'))
    (fault,) = inspect(run_file).faults
    assert "there is no 'glod', only prompt, gold (hint: did you mean \"gold\"?)" in fault


def test_a_benchmark_that_the_front_is_confirmed_on_is_read_too(run_file: Path) -> None:
    fresh = run_file.parent / "fresh.jsonl"
    table = f'''
[[confirm.benchmarks]]
name = "fresh"
adapter = "apbmm_answer"
path = "{fresh}"
arguments = {{ extract = "exact" }}
[prior]'''
    (fault,) = with_changes(run_file, {"[prior]": table}).faults
    assert fault.startswith(f"benchmark fresh: {fresh} is not a folder or file that exists")
    write_lines(fresh, [{"question": f"{n}+1", "answer": str(n + 1)} for n in range(4)])
    found = inspect(run_file)
    assert found.faults == []
    lines = dict(plan(found))
    assert lines["confirm"] == f"fresh: apbmm_answer, 4 questions from {fresh}"
    assert "84 answers" in lines["budget"]  # 42 times the two questions of the search


def test_questions_that_are_kept_for_the_confirmation_are_told(run_file: Path) -> None:
    changes = {"questions = 2": "", "[prior]": "[confirm]\nholdout = 0.3\n[prior]"}
    lines = dict(plan(with_changes(run_file, changes)))
    place = run_file.parent / "exact"
    assert lines["benchmark"] == (
        f"exact: apbmm_exact, 2 of 3 questions, 1 kept for apbmm confirm, from {place}"
    )


def test_a_budget_without_a_search_is_noted(run_file: Path) -> None:
    changes = {"[prior]": "[budget]\nevaluations = 6\ninitial = 6\n[prior]"}
    notes = with_changes(run_file, changes).notes
    assert [note for note in notes if note.startswith("budget.initial: all 6 evaluations")]
    assert not [
        note
        for note in with_changes(run_file, {"initial = 6": "initial = 2"}).notes
        if note.startswith("budget.initial")
    ]


@pytest.mark.parametrize(("hours", "noted"), [("0.001", True), ("1.0", False)])
def test_a_budget_of_seconds_is_noted(run_file: Path, hours: str, noted: bool) -> None:
    changes = {"[prior]": f"[budget]\ngpu_hours = {hours}\n[prior]"}
    notes = with_changes(run_file, changes).notes
    said = (
        "budget.gpu_hours: 0.001 GPU-hours are 0.33 s for each of the 2 references, the 8 initial"
    )
    assert any(note.startswith(said) for note in notes) == noted


ADAPTED = {'"pair/thinking"': '{ path = "pair/instruct", adapter = "lora" }'}


def test_an_adapter_on_a_model_is_a_source(run_file: Path) -> None:
    folder = run_file.parent
    modules = [f"layers.{layer}.mlp.up_proj" for layer in (3, 4)]
    write_adapter(folder / "lora", folder / "pair" / "instruct", modules=modules)
    found = with_changes(run_file, ADAPTED)
    assert found.faults == []
    assert found.identical_layers == tuple(layer for layer in range(12) if layer not in (3, 4))
    rows = dict(plan(found))
    assert f"134 tensors with 2 changed by {folder / 'lora'}" in rows["thinking"]
    assert rows["scratch"].endswith("for sources with their adapters")


def test_an_adapter_that_is_not_understood_is_named(run_file: Path) -> None:
    folder = run_file.parent
    write_adapter(folder / "lora", folder / "pair" / "instruct", use_dora=True)
    (fault,) = with_changes(run_file, ADAPTED).faults
    assert fault.startswith(f"sources.thinking: {folder / 'lora'}: DoRA is not understood")


def test_two_sources_with_one_adapter_are_one(run_file: Path) -> None:
    folder = run_file.parent
    write_adapter(folder / "lora", folder / "pair" / "instruct")
    same = {**ADAPTED, '= "pair/instruct"\n': '= { path = "pair/instruct", adapter = "lora" }\n'}
    (fault,) = with_changes(run_file, same).faults
    assert "thinking and instruct are the same checkpoint" in fault
