"""The figures of an exported merge as the Hub's benchmarks read them: `.eval_results/*.yaml`.

The format is the Hub's (https://huggingface.co/docs/hub/eval-results), written by huggingface_hub.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from yaml import safe_dump  # type: ignore[import-untyped]

from apbmm.export.model_card import CardFacts, questions_in_words, sampling_in_words
from apbmm.results.confirmation import read_confirmation

if TYPE_CHECKING:
    from apbmm.results.figures import BenchmarkFigures
    from apbmm.results.run_results import EvaluationResult, RunResults
    from apbmm_common.run_file.sections.benchmarks import BenchmarkSection

FOLDER = ".eval_results"
REGISTERED = {
    "gsm8k": ("openai/gsm8k", "gsm8k"),
    "aime26": ("MathArena/aime_2026", "MathArena/aime_2026"),
}
"""By adapter: the data set on the Hub that is registered as a benchmark, and its task.

Of other registered benchmarks the name of the task is not certain: for GPQA the Hub's documentation
and its examples differ.
"""


def write_eval_results(folder: Path, facts: CardFacts) -> None:
    """Write a file for each benchmark that is registered on the Hub.

    None for a rehearsal, and none with a huggingface_hub that does not know the format.
    """
    try:
        from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    except ImportError:
        return
    for run, evaluation, benchmark, measured in _measured(facts):
        dataset, task = REGISTERED[benchmark.adapter]
        entry = EvalResultEntry(
            dataset_id=dataset,
            task_id=task,
            value=round(100.0 * measured.metrics["accuracy"], 4),
            date=datetime.fromtimestamp(evaluation.done_at or run.last_at, UTC).date().isoformat(),
            notes=_notes(run, benchmark, measured),
        )
        text = safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, width=120)
        (folder / FOLDER).mkdir(exist_ok=True)
        (folder / FOLDER / f"{benchmark.name}.yaml").write_text(text, encoding="utf-8")


def _measured(
    facts: CardFacts,
) -> Iterator[tuple[RunResults, EvaluationResult, BenchmarkSection, BenchmarkFigures]]:
    """What is known of each registered benchmark: from the confirmation, where that asked it."""
    if facts.results.rehearsal:
        return
    measurements = [(facts.results, facts.evaluation)]
    confirmation = read_confirmation(facts.results)
    merge = confirmation.of(facts.evaluation.id) if confirmation else None
    if confirmation is not None and merge is not None:
        measurements.insert(0, (confirmation.run, merge.confirmed))
    known: set[str] = set()
    for run, evaluation in measurements:
        sections = [b for b in run.spec.benchmarks if b.adapter in REGISTERED]
        for benchmark in sections:
            measured = evaluation.benchmarks.get(benchmark.name)
            if benchmark.adapter not in known and measured and "accuracy" in measured.metrics:
                yield run, evaluation, benchmark, measured
        known.update(benchmark.adapter for benchmark in sections)


def _notes(run: RunResults, benchmark: BenchmarkSection, measured: BenchmarkFigures) -> str:
    generation = run.spec.generation
    asked = f"{measured.questions} questions, {questions_in_words(benchmark)}"
    kept = (
        "the search did not ask them"
        if run.run_state.confirms
        else f"the merge was chosen among {len(run.completed)} that answered them"
    )
    sampling = sampling_in_words(generation).replace("`", "")
    return f"{asked}; {kept}; answered {sampling}, at most {generation.max_tokens} new tokens"
