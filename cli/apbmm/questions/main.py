"""The process that renders questions: ``python -m apbmm.questions.main PARENT``.

It reads a `RenderRequest` from standard input and writes a `Rendered` to standard output. All other
output goes to standard error.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from apbmm.questions.messages import (
    Rendered,
    RenderedBenchmark,
    RenderedQuestion,
    RenderRequest,
)
from apbmm_common.datasets.benchmark_folders import places_of
from apbmm_common.errors import UsageError
from apbmm_common.process.parent_death import die_with
from apbmm_common.run_file import RunSpec
from apbmm_worker import environment


def render(request: RenderRequest) -> Rendered:
    """Have EvalScope read the benchmarks, as a worker does, and render their questions."""
    scratch = Path(request.scratch)
    environment.apply(environment.CPU, scratch)
    from apbmm_worker.evaluation.adapters import unknown_arguments
    from apbmm_worker.evaluation.questions import prepare_benchmarks

    spec = RunSpec.model_validate(request.spec)
    sources = spec.sources.model_dump()
    try:
        prepared = prepare_benchmarks(
            spec.benchmarks,
            {benchmark.name: places_of(benchmark) for benchmark in spec.benchmarks},
            spec.generation,
            Path(sources[spec.generation.template_from]),
            scratch / "questions",
            remote_code=request.remote_code,
        )
    except UsageError as error:
        return Rendered(error=error.message, hint=error.hint)
    rendered = {}
    for benchmark in prepared.benchmarks:
        section = benchmark.chosen.benchmark
        rendered[benchmark.name] = RenderedBenchmark(
            count=len(benchmark.questions),
            longest=max(len(question.prompt.token_ids) for question in benchmark.questions),
            first=tuple(
                RenderedQuestion(
                    question=question.identity,
                    subset=question.place[0],
                    index=question.place[1],
                    prompt=prepared.renderer.text(question.prompt.token_ids),
                    tokens=len(question.prompt.token_ids),
                    asked=question.text,
                    target=question.target,
                )
                for question in benchmark.questions[: request.most]
            ),
            unknown_arguments=unknown_arguments(section.adapter, section.arguments),
        )
    return Rendered(benchmarks=rendered)


def main() -> None:
    """Entry point of the process."""
    die_with(int(sys.argv[1]))
    request = RenderRequest.model_validate_json(sys.stdin.buffer.read())
    with contextlib.redirect_stdout(sys.stderr):
        reply = render(request)
    sys.stdout.buffer.write(reply.model_dump_json().encode())
    sys.stdout.flush()


if __name__ == "__main__":
    main()
