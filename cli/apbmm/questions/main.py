"""The process that renders questions: ``python -m apbmm.questions.main PARENT``.

It reads a `RenderRequest` from standard input and writes a `Rendered` to standard output. All other
output goes to standard error.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from apbmm.questions.messages import (
    Rendered,
    RenderedBenchmark,
    RenderedQuestion,
    RenderRequest,
)
from apbmm_common.answer_rules import template_words
from apbmm_common.datasets.benchmark_folders.selection import places_of
from apbmm_common.errors import UsageError
from apbmm_common.process.parent_death import die_with
from apbmm_common.run_file import RunSpec
from apbmm_common.run_file.sections.benchmarks import ANSWER_ADAPTER
from apbmm_worker import environment

if TYPE_CHECKING:
    from apbmm_worker.evaluation.evalscope.questions import (
        PreparedBenchmark,
        PreparedBenchmarks,
        Question,
        Renderer,
    )
    from apbmm_worker.evaluation.evalscope.target_scores import TargetReport

TOKENS_AROUND = 8
"""How many tokens of a prompt are shown on each side of its first unknown one."""


def render(request: RenderRequest) -> Rendered:
    """Have EvalScope read the benchmarks, as a worker does, and render their questions.

    Each question is there once, also where it is asked several times.
    """
    scratch = Path(request.scratch)
    environment.apply(environment.CPU, scratch)
    from apbmm_worker.evaluation.evalscope.own_adapters import register_own_adapters
    from apbmm_worker.evaluation.evalscope.questions import prepare_benchmarks
    from apbmm_worker.evaluation.evalscope.target_scores import TargetReport
    from apbmm_worker.evaluation.scoring_protocol import OwnAdapters

    spec = RunSpec.model_validate(request.spec)
    try:
        if request.allowed_code and spec.adapters is not None:
            register_own_adapters(OwnAdapters.of(Path(spec.adapters)))
        prepared = prepare_benchmarks(
            [benchmark.model_copy(update={"repeats": 1}) for benchmark in spec.benchmarks],
            {benchmark.name: places_of(benchmark) for benchmark in spec.benchmarks},
            spec.generation,
            Path(spec.sources.folders[spec.generation.template_from]),
            scratch / "questions",
            remote_code=request.allowed_code and spec.engine.remote_code,
        )
    except UsageError as error:
        return Rendered(error=error.message, hint=error.hint)
    targets = _target_reports(prepared) if request.targets else {}
    return Rendered(
        benchmarks={
            benchmark.name: _rendered(
                benchmark,
                prepared.renderer,
                request.most,
                targets.get(benchmark.name, TargetReport()),
            )
            for benchmark in prepared.benchmarks
        }
    )


def _rendered(
    benchmark: PreparedBenchmark, renderer: Renderer, most: int, targets: TargetReport
) -> RenderedBenchmark:
    from apbmm_worker.evaluation.evalscope.adapters import unknown_arguments

    section = benchmark.chosen.benchmark
    unknown = _with_unknown_text(benchmark, renderer)
    prompts = [question.prompt.token_ids for question in benchmark.questions]
    template = template_words(section.arguments) if section.adapter == ANSWER_ADAPTER else ""
    return RenderedBenchmark(
        count=len(benchmark.questions),
        distinct=len(set(prompts)),
        longest=max(map(len, prompts)),
        unknown_prompts=len(unknown),
        first_unknown=_shown(unknown[0], renderer) if unknown else "",
        unknown_share=renderer.unknown_share(prompts),
        template_unknown_share=renderer.unknown_share_of_text(template),
        first=tuple(
            RenderedQuestion(
                question=question.identity,
                subset=question.place[0],
                index=question.place[1],
                prompt=renderer.text(question.prompt.token_ids),
                tokens=len(question.prompt.token_ids),
                asked=question.text,
                target=question.target,
            )
            for question in benchmark.questions[:most]
        ),
        unknown_arguments=unknown_arguments(section.adapter, section.arguments),
        target_faults=targets.faults,
        target_notes=targets.notes,
    )


def _with_unknown_text(benchmark: PreparedBenchmark, renderer: Renderer) -> list[Question]:
    """The questions whose prompts have the tokenizer's unknown token."""
    unknown = renderer.unknown_token
    return [q for q in benchmark.questions if unknown in q.prompt.token_ids]


def _shown(question: Question, renderer: Renderer) -> str:
    """Where a question is, and what the model sees around its first unknown token."""
    ids, unknown = question.prompt.token_ids, renderer.unknown_token
    assert unknown is not None
    at = ids.index(unknown)
    near = renderer.text(ids[max(at - TOKENS_AROUND, 0) : at + TOKENS_AROUND + 1])
    return f"{question.row or f'question {question.identity}'} ({near!r})"


def _target_reports(prepared: PreparedBenchmarks) -> dict[str, TargetReport]:
    """What the benchmarks' own right answers score, with EvalScope's mathematics without forks."""
    from apbmm_worker.evaluation.evalscope.math_calls import MathCalls
    from apbmm_worker.evaluation.evalscope.target_scores import score_targets

    calls = MathCalls()
    calls.install()
    try:
        return score_targets(prepared)
    finally:
        calls.close()


def main() -> None:
    """Entry point of the process."""
    die_with(int(sys.argv[1]))
    request = RenderRequest.model_validate_json(sys.stdin.buffer.read())
    with os.fdopen(os.dup(1), "wb") as answer:
        os.dup2(2, 1)  # what libraries and their processes print is no answer
        answer.write(render(request).model_dump_json().encode())


if __name__ == "__main__":
    main()
