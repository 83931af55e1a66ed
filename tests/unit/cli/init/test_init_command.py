"""`apbmm init`: what it writes passes `apbmm check`; what it asks, and what it refuses."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from apbmm_common.datasets.demo_pair import demo_folder
from apbmm_common.run_file import RunSpec, load_run_file
from commands import called, command_line, environment
from hub_stand_in import Hub, hub_stand_in
from tiny_adapters import write_adapter
from tiny_checkpoints import write_related

THINKS = "{{ messages }}<think>\n"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with two models whose names say nothing, and questions; it is the present one."""
    for name, source in (("first", "tiny_instruct"), ("second", "tiny_thinking")):
        shutil.copytree(demo_folder() / source, tmp_path / "models" / name)
    questions = tmp_path / "data" / "sums.jsonl"
    questions.parent.mkdir()
    rows = [{"question": f"What is {n} + 1?", "answer": n + 1} for n in range(9)]
    questions.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with Path(os.devnull).open() as no_terminal:
        monkeypatch.setattr("sys.stdin", no_terminal)
        yield tmp_path


def think(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(THINKS, encoding="utf-8")


def written(*arguments: str) -> RunSpec:
    """The run that `apbmm init` with these arguments writes, checked."""
    shown = called("init", "out.toml", *arguments)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[-2:] == [
        "  apbmm check out.toml --probe",
        "  apbmm run out.toml --gpus cpu",
    ]
    checked = called("check", "out.toml", "--no-questions")
    assert checked.returncode == 0, checked.stderr
    return load_run_file(Path("out.toml"))


MODELS = ("--model", "models/first", "--model", "models/second")
ALL = (*MODELS, "--benchmark", "data/sums.jsonl", "--gpus", "cpu")


def test_the_chat_template_says_which_model_thinks(host: Path) -> None:
    think(host / "models" / "second")
    spec = written(*ALL)
    assert Path(spec.sources.folders["thinking"]).name == "second"
    assert Path(spec.sources.folders["instruct"]).name == "first"
    assert spec.name == "out"
    assert spec.benchmarks[0].name == "sums"
    text = Path("out.toml").read_text()
    assert 'thinking = "models/second"' in text
    assert "# second: only its chat template has <think>." in text


def test_questions_are_kept_for_a_confirmation_where_there_are_enough(host: Path) -> None:
    think(host / "models" / "second")
    assert written(*ALL).confirm.holdout == 0.0
    assert "# [confirm]\n# holdout = 0.3" in Path("out.toml").read_text()
    rows = [{"question": f"What is {n} + 1?", "answer": n + 1} for n in range(100)]
    (host / "data" / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    spec = written(*ALL, "--force")
    assert (spec.confirm.holdout, spec.benchmarks[0].holdout) == (0.3, 0.3)


def test_names_say_it_where_templates_do_not(host: Path) -> None:
    (host / "models" / "first").rename(host / "models" / "Small-Thinking")
    models = ("--model", "models/second", "--model", "models/Small-Thinking")
    spec = written(*models, "--benchmark", "data/sums.jsonl", "--gpus", "cpu")
    assert Path(spec.sources.folders["thinking"]).name == "Small-Thinking"


def test_where_nothing_says_it_the_flags_do(host: Path) -> None:
    shown = called("init", *ALL)
    assert shown.returncode == 2
    assert "neither chat templates nor names say which" in shown.stderr
    assert not (host / "run.toml").exists()
    flags = ("--instruct", "models/second", "--model", "models/first", *ALL[4:])
    spec = written(*flags, "--max-tokens", "64", "--evaluations", "5", "--name", "mine")
    assert Path(spec.sources.folders["thinking"]).name == "first"
    assert (spec.name, spec.generation.max_tokens, spec.budget.evaluations) == ("mine", 64, 5)
    assert spec.budget.initial == 2


def test_models_whose_names_say_the_opposite_of_their_roles_are_noted(host: Path) -> None:
    (host / "models" / "first").rename(host / "models" / "alpha-think")
    (host / "models" / "second").rename(host / "models" / "beta-chat")
    flags = ("--thinking", "models/beta-chat", "--instruct", "models/alpha-think", *ALL[4:])
    shown = called("init", "out.toml", *flags)
    assert shown.returncode == 0, shown.stderr
    assert (
        "note: beta-chat is given as thinking and alpha-think as instruct, and of the two "
        "alpha-think looks like the thinking model: its name says so"
    ) in shown.stdout.splitlines()
    flags = ("--thinking", "models/alpha-think", "--instruct", "models/beta-chat", *ALL[4:])
    assert "note: " not in called("init", "out.toml", *flags, "--force").stdout


def test_a_model_without_a_tokenizer_is_one_error(host: Path) -> None:
    for file in (*(host / "models" / "first").glob("token*"), host / "models/first/merges.txt"):
        file.unlink(missing_ok=True)
    shown = called("init", "out.toml", *ALL)
    assert shown.returncode == 2
    error, hint = shown.stderr.splitlines()
    assert error == "error: models/first has no tokenizer (tokenizer.json)"
    assert hint.startswith("hint: copy the tokenizer's files")


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        (("--model", "models/frist", *ALL[2:]), "did you mean models/first? If not, --download"),
        (("--model", "modles/first", *ALL[2:]), "did you mean models/first? If not, --download"),
        ((*ALL[:4], "--benchmark", "data/sumz.jsonl"), "did you mean data/sums.jsonl?"),
        ((*ALL, "--question", "qestion"), "did you mean --question question?"),
    ],
)
def test_what_is_misspelt_gets_a_suggestion(host: Path, given: tuple[str, ...], hint: str) -> None:
    think(host / "models" / "second")
    shown = called("init", "out.toml", *given)
    assert shown.returncode == 2
    assert f"\nhint: {hint}" in shown.stderr


def test_objectives_as_flags(host: Path) -> None:
    think(host / "models" / "second")
    assert (
        written(*ALL).objectives
        == written(*ALL, "--force", "--objective", "accuracy", "--objective", "tokens").objectives
    )
    flags = ("--objective", "accuracy@sums", "--objective", "short=tokens")
    spec = written(*ALL, "--force", *flags)
    found = [(o.name, o.metric, o.expert, o.benchmarks) for o in spec.objectives]
    assert found == [
        ("reasoning-sums", "accuracy", "thinking", {"sums": 1.0}),
        ("short", "tokens", "instruct", None),
    ]


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ((), ["right", "short"]),
        (
            ("--objective", "accuracy", "--objective", "short=tokens"),
            ["reasoning", "short", "right"],
        ),
        (
            (*("--objective", "accuracy", "--objective", "tokens"),
             *("--objective", "a=accuracy", "--objective", "b=tokens")),
            ["reasoning", "cost", "a", "b", "right"],
        ),
    ],
)  # fmt: skip
def test_its_examples_are_valid_once_they_are_no_comments(
    host: Path, flags: tuple[str, ...], names: list[str]
) -> None:
    think(host / "models" / "second")
    (host / "data" / "sums.jsonl").rename(host / "data" / "two sums.jsonl")
    written(*ALL[:4], "--benchmark", "data/two sums.jsonl", *ALL[6:], *flags)
    lines = Path("out.toml").read_text().splitlines()
    Path("out.toml").write_text("\n".join(map(uncommented, lines)), encoding="utf-8")
    checked = called("check", "out.toml", "--no-questions")
    assert checked.returncode == 0, checked.stderr
    spec = load_run_file(Path("out.toml"))
    assert [objective.name for objective in spec.objectives] == names
    assert {"scale": (0.2, 0.9), "target": None}.items() <= (
        next(o for o in spec.objectives if o.name == "right").model_dump().items()
    )
    assert [each.in_words for each in spec.constraints] == [
        f"{spec.benchmarks[0].name} ≥ 50.0%",
        "tokens ≤ 2000.0",
    ]
    assert spec.confirm.holdout == 0.3


def uncommented(line: str) -> str:
    """A comment that is TOML without its mark, as that."""
    try:
        tomllib.loads(line.removeprefix("# "))
    except tomllib.TOMLDecodeError:
        return line
    return line.removeprefix("# ")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("accuracy",), "1 objective: a front needs 2 to 5"),
        (("accuracy", "tokens@other"), "objective tokens@other: no benchmark is called other"),
        (("accuracy", "a=b=c"), "'a=b=c' is no objective"),
        (("accuracy", "reasoning=tokens"), "two objectives have the same name"),
    ],
)
def test_what_is_no_objective_is_refused(host: Path, given: tuple[str, ...], said: str) -> None:
    think(host / "models" / "second")
    flags = [part for each in given for part in ("--objective", each)]
    shown = called("init", "out.toml", *ALL, *flags)
    assert shown.returncode == 2
    assert said in shown.stderr
    assert not (host / "out.toml").exists()


def test_the_schema_that_it_names_is_written_and_a_missing_folder_is_told(host: Path) -> None:
    think(host / "models" / "second")
    written(*ALL)
    assert json.loads((host / "apbmm.schema.json").read_text())["title"]
    shown = called("init", "none/out.toml", *ALL)
    assert shown.stderr.splitlines() == [
        "error: none/out.toml: there is no folder none",
        "hint: mkdir -p none",
    ]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with hub_stand_in() as stand_in:
        monkeypatch.setattr(constants, "ENDPOINT", stand_in.address)
        template = f"{stand_in.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield stand_in


def test_models_are_downloaded_where_that_is_asked_for(host: Path, hub: Hub) -> None:
    for name in ("Tiny-Thinking", "Tiny-Instruct"):
        source = demo_folder() / f"tiny_{name.rpartition('-')[2].lower()}"
        files = {file.name: file.read_bytes() for file in source.iterdir()}
        hub.models[f"lab/{name}"] = {**files, "pytorch_model.bin": b"0" * 1000}
    models = ("--model", "lab/Tiny-Thinking", "--model", "lab/Tiny-Instruct")
    refused = called("init", "out.toml", *models, *ALL[4:])
    assert "--download fetches it" in refused.stderr
    spec = written(*models, *ALL[4:], "--download")
    assert "models--lab--Tiny-Thinking/snapshots/" in spec.sources.folders["thinking"]
    assert "model.safetensors" in hub.asked
    assert "pytorch_model.bin" not in hub.asked
    asked = len(hub.asked)
    written(*models, *ALL[4:], "--download", "--force")
    assert len(hub.asked) == asked  # they are in the cache


@pytest.mark.parametrize(("refuses", "said"), [(0, "has no such model"), (403, "did not give it")])
def test_a_download_that_fails_is_one_line(host: Path, hub: Hub, refuses: int, said: str) -> None:
    hub.refuses = refuses
    models = ("--model", "lab/None", "--model", "models/first")
    shown = called("init", "out.toml", *models, *ALL[4:], "--download")
    assert shown.returncode == 2
    error, hint = shown.stderr.splitlines()[-2:]
    assert error.startswith("error: lab/None: ")
    assert said in error
    assert hint.startswith("hint: ")


def test_an_existing_file_is_replaced_only_by_force(host: Path) -> None:
    think(host / "models" / "second")
    (host / "out.toml").write_text("mine")
    shown = called("init", "out.toml", *ALL)
    assert (shown.returncode, shown.stderr) == (
        2,
        "error: out.toml exists\nhint: --force replaces it\n",
    )
    written(*ALL, "--force")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), "two --model and a --benchmark are missing"),
        (MODELS[:2], "a second --model and a --benchmark are missing"),
        (MODELS, "a --benchmark is missing"),
        (ALL[2:6], "a second --model is missing"),
        (ALL[4:6], "two --model are missing"),
    ],
)
def test_without_a_terminal_it_names_what_is_missing(
    host: Path, given: tuple[str, ...], said: str
) -> None:
    shown = called("init", *given)
    assert shown.returncode == 2
    assert f"and {said}\n" in shown.stderr


def test_columns_of_any_name_are_named_by_flags(host: Path) -> None:
    think(host / "models" / "second")
    rows = [{"Sum Text": f"What is {n} + 1?", "The Result": n + 1} for n in range(9)]
    file = host / "data" / "sums.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    shown = called("init", "out.toml", *ALL)
    assert shown.returncode == 2
    assert shown.stderr.count("sums.jsonl") == 1
    assert "--question COLUMN --answer COLUMN" in shown.stderr
    spec = written(*ALL, "--question", "Sum Text", "--answer", "The Result")
    found = spec.benchmarks[0]
    assert found.adapter == "apbmm_answer"
    assert found.arguments["question"] == "Sum Text"
    assert found.arguments["answer"] == "The Result"


def test_columns_that_are_named_are_those_of_the_benchmarks_that_have_them(host: Path) -> None:
    think(host / "models" / "second")
    file = host / "data" / "sums.jsonl"
    file.write_text('{"Sum Text": "What is 1 + 1?", "answer": 2}\n', encoding="utf-8")
    other = host / "data" / "more.jsonl"
    other.write_text('{"question": "What is 1 + 2?", "answer": 3}\n', encoding="utf-8")
    both = ("--benchmark", "data/sums.jsonl", "--benchmark", "data/more.jsonl")
    found = written(*ALL[:4], *both, "--question", "Sum Text").benchmarks
    assert found[0].arguments["question"] == "Sum Text"
    assert "question" not in found[1].arguments


def test_one_model_twice(host: Path) -> None:
    shown = called("init", "--thinking", "models/first", "--instruct", "models/first", *ALL[4:])
    assert "error: models/first is given twice" in shown.stderr


def named(*names: str) -> tuple[str, ...]:
    """Flags for models of these names, in folders of the same names."""
    return tuple(part for name in names for part in ("--model", f"{name}=models/{name}"))


def test_three_models_under_names_of_ones_own(host: Path) -> None:
    write_related(host / "models" / "first", host / "models" / "third", seed=3)
    think(host / "models" / "second")
    rest = ("--benchmark", "data/sums.jsonl", "--gpus", "cpu")
    spec = written(*named("first", "second", "third"), *rest)
    assert spec.sources.names == ("first", "second", "third")
    assert spec.generation.template_from == "second"
    found = [(o.name, o.metric, o.expert, o.vanilla) for o in spec.objectives]
    assert found == [
        ("reasoning", "accuracy", "first", "third"),
        ("cost", "tokens", "third", "first"),
    ]
    objectives = [
        *("--objective", "sums=accuracy@sums:second"),
        *("--objective", "accuracy:third", "--objective", "tokens"),
    ]
    spec = written(*named("first", "second", "third"), *rest, *objectives, "--force")
    assert [(o.name, o.expert, o.vanilla) for o in spec.objectives] == [
        ("sums", "second", "third"),
        ("reasoning", "third", "first"),
        ("cost", "third", "first"),
    ]


def test_two_models_under_names_of_ones_own(host: Path) -> None:
    (host / "data" / "sums.jsonl").rename(host / "data" / "second.jsonl")
    spec = written(*named("second", "first"), "--benchmark", "data/second.jsonl", "--gpus", "cpu")
    assert spec.sources.names == ("second", "first")
    assert [benchmark.name for benchmark in spec.benchmarks] == ["second-2"]
    assert [o.expert for o in spec.objectives] == ["second", "first"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--model", "a=models/first", "--model", "models/second"), "others are not"),
        (("--model", "a=models/first", "--model", "a=models/second"), "a name of its own"),
        ((*MODELS, "--model", "models/second"), "3 models are named"),
        (("--model", "a=models/first", "--instruct", "models/second"), "others are not"),
        ((*named("first", "second"), "--objective", "tokens:x", "--objective", "accuracy"), "no s"),
    ],
)
def test_names_that_do_not_do_are_refused(host: Path, given: tuple[str, ...], said: str) -> None:
    shown = called("init", *given, *ALL[4:])
    assert shown.returncode == 2
    assert said in shown.stderr


def test_models_that_cannot_be_merged_are_refused_as_by_check(host: Path) -> None:
    think(host / "models" / "second")
    shutil.copytree(demo_folder() / "thinking", host / "models" / "other")
    models = ("--model", "models/second", "--model", "models/other")
    shown = called("init", "out.toml", *models, *ALL[4:])
    assert shown.returncode == 2
    assert shown.stderr.startswith("out.toml: not written, ")
    assert sorted(path.name for path in host.iterdir()) == ["data", "models"]


def test_ids_of_cached_models(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    hub = host / "home" / "hub"
    for name in ("Tiny-Thinking", "Tiny-Instruct"):
        model = hub / f"models--lab--{name}"
        source = f"tiny_{name.rpartition('-')[2].lower()}"
        shutil.copytree(demo_folder() / source, model / "snapshots" / "abc123")
        (model / "refs").mkdir()
        (model / "refs" / "main").write_text("abc123")
    arguments = ("--model", "lab/Tiny-Instruct", "--benchmark", "data/sums.jsonl", "--gpus", "cpu")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    shown = called("init", *arguments, "--model", "lab/Tiny-Thinking")
    assert shown.returncode == 0, shown.stderr
    assert "thinking    lab/Tiny-Thinking: its name says so" in shown.stdout
    spec = load_run_file(host / "run.toml")
    assert "models--lab--Tiny-Thinking/snapshots/abc123" in spec.sources.folders["thinking"]

    missing = called("init", "o.toml", *arguments, "--model", "lab/None")
    assert missing.returncode == 2
    assert missing.stderr.splitlines() == [
        "error: lab/None: no such folder, and not in the Hugging Face cache",
        "hint: --download fetches it; HF_HOME says where the cache is",
    ]


def at_terminal(folder: Path, answers: str, *arguments: str) -> str:
    """What `apbmm init` shows at a terminal at which these lines are typed."""
    controller, terminal = pty.openpty()
    with subprocess.Popen(
        command_line("apbmm", "init", *arguments),
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=environment(),
    ) as asking:
        os.close(terminal)
        os.write(controller, answers.encode())
        shown, _ = asking.communicate(timeout=200)
    os.close(controller)
    assert asking.returncode == 0, shown
    return shown


def test_at_a_terminal_it_asks_for_what_is_not_given(host: Path) -> None:
    models = "\nmodels/none\nmodels/first\nmodels/second\n2\n"
    answers = f"{models}data/sums.jsonl\n\naccuracy\ntokens, truncated\n\n"
    shown = at_terminal(host, answers, "--max-tokens", "50")
    assert "error: a model is needed" in shown
    assert "models/none: no such folder, and not in the Hugging Face cache" in shown
    assert "Which is the thinking model: 1 (first) or 2 (second)" in shown
    assert "Benchmark 2 (folder or file) (empty: no more)" in shown
    spec = load_run_file(host / "run.toml")
    assert Path(spec.sources.folders["thinking"]).name == "second"
    assert spec.generation.max_tokens == 50
    assert "1 objective: a front needs 2 to 5" in shown
    found = [(o.name, o.metric, o.expert, o.vanilla) for o in spec.objectives]
    assert found == [
        ("cost", "tokens", "instruct", "thinking"),
        ("truncated", "truncated", "instruct", "thinking"),
    ]


def test_at_a_terminal_it_asks_for_models_under_names(host: Path) -> None:
    write_related(host / "models" / "first", host / "models" / "third", seed=3)
    models = "b=models/second\nmodels/first\nc=models/third\na=models/first\n\n"
    shown = at_terminal(host, f"{models}data/sums.jsonl\n\n\ncpu\n")
    assert "a model needs a name of its own" in shown
    assert "Model 4 (NAME=FOLDER; empty: no more, the last one is x = 0)" in shown
    assert load_run_file(host / "run.toml").sources.names == ("b", "c", "a")


def test_at_a_terminal_it_asks_for_columns_of_ones_own(host: Path) -> None:
    think(host / "models" / "second")
    rows = [{"task": f"What is {n} + 1?", "gold": n + 1, "steps": "one"} for n in range(9)]
    (host / "data" / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    answers = "data/sums.jsonl\ntasks\ntask\ngold\n\n\ncpu\n"
    shown = at_terminal(host, answers, *MODELS)
    assert "Which column is the question (task, gold, steps): " in shown
    assert "there is no column 'tasks', only task, gold, steps" in shown
    assert "no adapter fits" not in shown
    arguments = load_run_file(host / "run.toml").benchmarks[0].arguments
    assert (arguments["question"], arguments["answer"]) == ("task", "gold")


def test_a_box_is_asked_for_only_in_words_that_the_tokenizer_knows(host: Path) -> None:
    think(host / "models" / "second")
    spec = written(*ALL)
    assert spec.benchmarks[0].arguments["extract"] == "last_number"
    assert "# The tokenizer does not know the words" in Path("out.toml").read_text()
    for name in ("first", "second"):
        file = host / "models" / name / "tokenizer.json"
        table = json.loads(file.read_text())
        vocabulary = table["model"]["vocab"]
        words = ["Put", "your", "final", "answer", "in", "\\boxed{}."]
        # In place of tokens that no template has: the models have no rows for more.
        for word, old in zip(words, [t for t in vocabulary if t[0] in "*>"], strict=False):
            vocabulary[word] = vocabulary.pop(old)
        file.write_text(json.dumps(table))
    spec = written(*ALL, "--force")
    assert spec.benchmarks[0].arguments["extract"] == "boxed"


def test_the_model_that_is_asked_for_takes_the_place_that_is_left(host: Path) -> None:
    named = ("--instruct", "models/first", "--benchmark", "data/sums.jsonl")
    at_terminal(host, "models/second\n\ncpu\n", *named)
    assert Path(load_run_file(host / "run.toml").sources.folders["thinking"]).name == "second"


def test_an_adapter_is_a_model_with_the_base_that_its_config_names(host: Path) -> None:
    first = host / "models" / "first"
    write_adapter(host / "models" / "reasoner", first, base_model_name_or_path="../first")
    models = ("--thinking", "models/reasoner", "--instruct", "models/first")
    spec = written(*models, *ALL[4:])
    assert spec.sources.folders == {"thinking": str(first), "instruct": str(first)}
    assert spec.sources.lora_adapters == {"thinking": str(host / "models" / "reasoner")}


def test_an_adapter_whose_base_is_not_here_says_so(host: Path) -> None:
    first = host / "models" / "first"
    write_adapter(host / "lora", first, base_model_name_or_path="lab/Nowhere")
    shown = called("init", "out.toml", "--model", "lora", *ALL[2:])
    assert shown.returncode == 2
    assert "a LoRA adapter on lab/Nowhere, which is not here" in shown.stderr
