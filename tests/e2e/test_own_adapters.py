"""A run's own file of adapters, under the real EvalScope."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest

from apbmm_common.errors import SourceError
from apbmm_common.run_file import BenchmarkSection, GenerationSection
from apbmm_worker.engine.driver import Completion, Prompt
from apbmm_worker.evaluation.scoring.client import ScoringClient
from apbmm_worker.evaluation.scoring_protocol import OwnAdapters
from own_questions import ADAPTERS, CAPITALS, write_capitals
from tiny_checkpoints import write_tiny_qwen3

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),  # EvalScope's and datasets' own
]


class Parisian:
    """Answers Paris to every question."""

    def submit(self, prompts: Sequence[Prompt]) -> list[Future[Completion]]:
        futures: list[Future[Completion]] = [Future() for _ in prompts]
        for future in futures:
            future.set_result(Completion("It is Capital: Paris.", (1, 2, 3), 9, "stop", 0.1))
        return futures

    def abort(self) -> None:
        """Nothing is in flight."""

    def cut(self) -> None:
        """Nothing is in flight."""


def test_the_scoring_process_runs_the_file_that_the_run_was_prepared_with(tmp_path: Path) -> None:
    own = tmp_path / "mine.py"
    own.write_text(ADAPTERS.read_text())
    folder = write_capitals(tmp_path / "capitals")
    client = ScoringClient(
        [BenchmarkSection(name="own", adapter="capitals", path=str(folder), questions=2)],
        {"own": folder},
        GenerationSection(max_tokens=10, context=900),
        write_tiny_qwen3(tmp_path / "source", seed=1, layers=1),
        tmp_path / "scratch",
        tmp_path / "scoring.log",
        adapters=OwnAdapters.of(own),
    )
    try:
        found = client.evaluate(Parisian(), tmp_path / "out", lambda *_: None)
        assert found.benchmarks["own"].questions == 2 < len(CAPITALS)
        assert found.benchmarks["own"].metrics["accuracy"] == 0.5
    finally:
        client.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n\nraise ValueError('no')\n", "line 3: ValueError: no"),
        ("def f(:\n", "line 1: SyntaxError: "),
        ("def f():\n    import nothing_of_this_name\nf()\n", "line 2: ModuleNotFoundError: "),
        ("raise SystemExit(3)\n", "line 1: SystemExit: 3"),
        ("x = 1\n", "registers no benchmark"),
        (ADAPTERS.read_text().replace('"capitals"', '"gsm8k"', 1), "gsm8k already registered"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line_with_its_place(
    text: str, message: str, tmp_path: Path
) -> None:
    from apbmm_worker.evaluation.evalscope.own_adapters import register_own_adapters

    own = tmp_path / "mine.py"
    own.write_text(text)
    with pytest.raises(SourceError) as refused:
        register_own_adapters(OwnAdapters.of(own))
    assert f"{own}" in refused.value.message
    assert message in refused.value.message
    assert "\n" not in refused.value.message


def test_a_file_that_has_changed_is_refused(tmp_path: Path) -> None:
    from apbmm_worker.evaluation.evalscope.own_adapters import register_own_adapters

    own = tmp_path / "mine.py"
    own.write_text("x = 1\n")
    before = OwnAdapters.of(own)
    own.write_text("x = 2\n")
    with pytest.raises(SourceError, match="is not the file that the run was prepared with"):
        register_own_adapters(before)
    assert OwnAdapters.of(own).digest != before.digest
