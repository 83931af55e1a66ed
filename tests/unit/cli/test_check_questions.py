"""What `apbmm check` says of a benchmark's questions."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from apbmm.check import inspect
from apbmm.check.questions import FirstQuestion, rendered_notes, rendered_warnings
from apbmm.questions.main import render
from apbmm.questions.messages import RenderedBenchmark, RenderedQuestion, RenderRequest
from apbmm_common.datasets.benchmark_folders.selection import select_questions
from apbmm_common.errors import UsageError
from apbmm_common.run_file import BenchmarkSection, RunSpec
from commands import called, run
from own_questions import ADAPTERS, write_capitals
from tiny_checkpoints import write_tiny_pair

RUN = """
name = "trial"
[sources]
thinking = "thinking"
instruct = "instruct"
[[benchmarks]]
name = "aime"
adapter = "aime25"
path = "aime"
questions = 2
arguments = {{ few_shot_nun = 2, few_shot_num = 0 }}
[generation]
max_tokens = 100
context = {context}
[algorithm]
name = "sobol"
"""

STRANGE = """
[[confirm.benchmarks]]
name = "strange"
adapter = "aime25"
path = "strange"
"""


def run_text(context: int = 800) -> str:
    return RUN.format(context=context)


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    write_tiny_pair(tmp_path, layers=2)
    (tmp_path / "aime").mkdir()
    rows = [{"problem": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(3)]
    write_rows(tmp_path / "aime", rows)
    file = tmp_path / "run.toml"
    file.write_text(run_text())
    return file


def write_rows(folder: Path, rows: Sequence[dict[str, str]]) -> None:
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_check_shows_the_first_question_as_the_data_has_it(run_file: Path) -> None:
    shown = called("check", run_file, "--no-questions")
    assert shown.returncode == 0, shown.stderr
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("question ")]
    assert "'What is 0 + 0?', target '0' (as in the data)" in line


@pytest.mark.slow
def test_check_shows_what_the_model_will_see(run_file: Path, tmp_path: Path) -> None:
    """EvalScope wraps the question of aime25, and ignores an argument that it does not know.

    The tokenizer does not know the text of the benchmark that the front is confirmed on.
    """
    pytest.importorskip("evalscope", reason="EvalScope is not installed here")
    (tmp_path / "strange").mkdir()
    write_rows(tmp_path / "strange", [{"problem": "\u3042" * 400, "answer": "1"}])
    run_file.write_text(run_text() + STRANGE)
    shown = run("apbmm", "check", run_file, "--questions", timeout=300)
    assert shown.returncode == 0, shown.stderr
    text = shown.stdout
    prompt, _ = [line for line in text.splitlines() if line.startswith("prompt ")]
    assert "'<|im_start|>user\\n" in prompt
    assert "What is 0 + 0?" in prompt
    assert prompt.endswith(" tokens, target '0'")
    assert "the longest of 2 prompts has " in text
    assert "arguments.few_shot_nun: EvalScope does not know it and ignores it, few_shot_num" in text
    assert "benchmark aime: the adapter puts a prompt of its own around each question" in text
    assert "arguments.few_shot_num:" not in text
    warning = "warning: benchmark strange: 1 of 1 prompts have text that the tokenizer does not"
    assert warning in text
    assert re.search(r"\([5-9]\d\.\d% of all tokens\), first: .*test.jsonl, line 1 \(", text)
    assert text.splitlines()[-1].endswith("no errors, 2 warnings (above)")
    assert "EvalScope is loaded" in shown.stderr


@pytest.fixture
def rendered_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions are rendered in this process, which holds EvalScope once for all tests."""
    pytest.importorskip("evalscope", reason="EvalScope is not installed here")

    async def render_here(
        spec: RunSpec, scratch: Path, most: int, *, allowed_code: bool, targets: bool
    ) -> dict[str, RenderedBenchmark]:
        rendered = render(
            RenderRequest(
                spec=spec.model_dump(mode="json"),
                scratch=str(scratch),
                most=most,
                allowed_code=allowed_code,
                targets=targets,
            )
        )
        if rendered.error:
            raise UsageError(rendered.error, rendered.hint)
        return rendered.benchmarks

    monkeypatch.setattr(inspect, "render_questions", render_here)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # EvalScope's and datasets' own
@pytest.mark.usefixtures("rendered_here")
def test_a_prompt_that_does_not_fit_the_context_is_named(run_file: Path) -> None:
    run_file.write_text(run_text(context=120))
    shown = called("check", run_file, "--questions")
    assert shown.returncode == 2
    assert "benchmark aime: question 0 has a prompt of " in shown.stderr
    assert "does not fit a context of 120" in shown.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # EvalScope's and datasets' own
@pytest.mark.usefixtures("rendered_here")
@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for m in messages %}{{ m.content }", "template of .* fails: TemplateSyntaxError: "),
        ("user", "benchmark aime: all its questions have the same prompt"),
    ],
)
def test_chat_templates_that_fail_or_lose_the_question(
    run_file: Path, tmp_path: Path, template: str, said: str
) -> None:
    config = tmp_path / "thinking/tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "chat_template": template}))
    shown = called("check", run_file)
    assert shown.returncode == 2
    assert re.search(said, shown.stderr)
    assert "Traceback" not in shown.stderr


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_run_s_own_adapters_run_only_with_leave(run_file: Path, tmp_path: Path) -> None:
    write_capitals(tmp_path / "capitals")
    own = tmp_path / "mine.py"
    mark = tmp_path / "ran"
    own.write_text(ADAPTERS.read_text() + f"\nopen({str(mark)!r}, 'w').close()\n")
    text = run_text().replace("[sources]", 'adapters = "mine.py"\n[sources]')
    text = text.replace('"aime25"', '"capitals"').replace('path = "aime"', 'path = "capitals"')
    text = text.replace("questions = 2\n", "").replace("few_shot_nun = 2, ", "")
    run_file.write_text(text)

    shown = called("check", run_file)
    assert shown.returncode == 0, shown.stderr
    assert f"{own}: workers take part only with --allow-remote-code" in shown.stdout
    assert f"note: {own} is not run without --allow-remote-code" in shown.stdout
    assert not mark.exists()

    pytest.importorskip("evalscope", reason="EvalScope is not installed here")
    shown = run("apbmm", "check", run_file, "--allow-remote-code", timeout=300)
    assert shown.returncode == 0, shown.stderr
    assert "Name the capital of France. End with: Capital: NAME" in shown.stdout
    assert "not checked" not in shown.stdout
    assert mark.exists()

    own.write_text("import os\n\ndef broken(:\n")
    shown = called("check", run_file)
    assert (shown.returncode, f"adapters: {own}, line 3: " in shown.stderr) == (2, True)


def rows_with(levels: Sequence[str]) -> list[dict[str, str]]:
    return [{"problem": f"p{n}", "answer": "1", "level": level} for n, level in enumerate(levels)]


def notes_of(folder: Path, **choice: int) -> tuple[str, ...]:
    section = {"name": "math", "adapter": "aime25", "path": str(folder), **choice}
    return select_questions(BenchmarkSection.model_validate(section), folder).notes


def test_the_first_of_ordered_data_are_noted(tmp_path: Path) -> None:
    write_rows(tmp_path, rows_with(["easy"] * 5 + ["hard"] * 5 + ["odd"] * 2))
    assert notes_of(tmp_path, questions=4) == (
        "questions = 4 takes the first of 12 rows, which are ordered by level: 2 of its 3 values "
        "are never asked ('hard', say); sample = 4 draws from all",
    )
    assert not notes_of(tmp_path, sample=4)
    assert not notes_of(tmp_path)
    assert not notes_of(tmp_path, questions=11), "every level is asked"
    write_rows(tmp_path, rows_with(["easy", "hard"] * 6))
    assert not notes_of(tmp_path, questions=1), "the levels are mixed"


def rendered(asked: str) -> RenderedBenchmark:
    question = RenderedQuestion(
        question="0", subset="test", index=0, prompt=asked, tokens=3, asked=asked, target="4"
    )
    return RenderedBenchmark(count=1, distinct=1, longest=3, first=(question,))


def test_prompts_that_are_the_same_are_noted() -> None:
    alike = rendered("2 + 2?").model_copy(update={"count": 9, "distinct": 7})
    (note,) = rendered_notes(alike, FirstQuestion("2 + 2?", "4"))
    assert note.startswith("its 9 questions have 7 different prompts")


def test_unknown_tokens_are_a_warning_however_few_they_are() -> None:
    assert rendered_warnings(rendered("2 + 2?")) == []
    some = {"unknown_prompts": 2, "unknown_share": 0.012, "first_unknown": "row 3 ('2 <unk> 2')"}
    many = rendered("2 + 2?").model_copy(update={"count": 9, **some})
    (warning,) = rendered_warnings(many)
    assert warning == (
        "2 of 9 prompts have text that the tokenizer does not know (1.2% of all tokens), first: "
        "row 3 ('2 <unk> 2'): the model does not see what stands there"
    )
    (warning,) = rendered_warnings(many.model_copy(update={"template_unknown_share": 1.0}))
    assert "100% of its template's own are, so begin with arguments.template" in warning


def test_a_question_that_is_asked_verbatim_gets_no_note() -> None:
    raw = FirstQuestion("2 + 2?", "4")
    assert rendered_notes(rendered("2 + 2?\n"), raw) == []
    assert rendered_notes(rendered("anything"), None) == []
    (note,) = rendered_notes(rendered("Solve: 2 + 2?"), raw)
    assert note == "the adapter puts a prompt of its own around each question: before it 'Solve:'"
    (note,) = rendered_notes(rendered("What is two and two?"), raw)
    assert note == "the adapter changes the questions: the model sees other text"
