"""`apbmm check --probe`: asks the sources some questions, and prints what the run will cost."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from apbmm.check.inspect import Inspection
from apbmm.init.limits import cache_tokens
from apbmm.probe.forecast import AT_ONCE, Plan, Probed, reckon
from apbmm.probe.poor_answers import reasons_to_end
from apbmm.probe.view import ENDS, Shown, lines
from apbmm.run.devices import memory_of
from apbmm.try_run.command import default_gpu, require_packages
from apbmm_common.errors import UsageError
from apbmm_common.run_file import RunSpec


def print_probe(
    found: Inspection, questions: int, gpu: str | None, *, allow_remote_code: bool
) -> bool:
    """As `run_probe`, and print what was found; whether such a run outlives its references."""
    shown = run_probe(found, questions=questions, gpu=gpu, allow_remote_code=allow_remote_code)
    print("\n".join(lines(shown)))  # noqa: T201
    if shown.ends:
        hint = f"see the warning above; apbmm try {found.run_file} shows prompts and answers"
        print(f"{found.run_file}: {ENDS}: {hint}", file=sys.stderr)  # noqa: T201
    return not shown.ends


def run_probe(
    found: Inspection,
    *,
    questions: int = 32,
    gpu: str | None = None,
    allow_remote_code: bool = False,
) -> Shown:
    """Probe a run without faults; `view.lines` prints what was found.

    ``questions`` of each benchmark are asked. Raises `UsageError` for a run or a host with which
    nothing can be asked, and `ApbmmError` for an engine or an evaluation that fails.
    """
    from apbmm.local_engine import local_engine, work_in_stages
    from apbmm.probe.evaluation import RUN, probe_sources
    from apbmm.try_run.evaluation import with_some_questions
    from apbmm_worker.daemon.options import parse_gpu

    spec = found.spec
    assert spec is not None
    device = parse_gpu(gpu or default_gpu())
    if device == "rehearsal" or spec.evaluation.kind == "rehearsal":
        raise UsageError(
            f"{found.run_file} is a rehearsal, which asks no model anything",
            'take kind = "rehearsal" out of its [evaluation], or leave --probe out',
        )
    require_packages(spec.engine.kind, "apbmm check --probe")
    counts = _answers(found, spec)
    some = with_some_questions(spec, questions)
    with local_engine("probe", device, allow_remote_code=allow_remote_code) as options:
        probed, prepared = work_in_stages(
            "probe", options, lambda show: probe_sources(some, options, show)
        )
        # `EvaluationJob` puts the records of evaluations below their run's folder.
        ends = reasons_to_end(some, probed, options.state / "outputs" / RUN, found.rendered)
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    card = memory_of((device,))
    room = cache_tokens(list(found.checkpoints.values()), card) if card else None
    cards = 1 if device == "cpu" else device.count(",") + 1
    plan = Plan(counts, spec.budget, spec.generation.max_tokens, _at_once(probed, room))
    try:
        forecast = reckon(probed, plan, prepared, cards)
    except ValueError as error:
        raise UsageError(
            f"{found.run_file}: {error}, so what the run costs cannot be reckoned",
            f"apbmm try {found.run_file} shows what the models answer",
        ) from error
    return Shown(spec, device, memory, room, probed, forecast, tuple(ends))


def _at_once(probed: Sequence[Probed], room: int | None) -> int:
    """How many answers the engine has in progress at most; ``room`` as in `Shown`."""
    arguments: Mapping[str, Any] = probed[0].evaluated.engine.get("arguments", {})
    most = int(arguments.get("max_num_seqs") or AT_ONCE)
    longest = max(source.mean_tokens for source in probed)
    return most if room is None else min(most, max(1, int(room / max(longest, 1.0))))


def _answers(found: Inspection, spec: RunSpec) -> dict[str, int]:
    """How many answers an evaluation has of each benchmark. Raises `UsageError` if not known."""
    counts = {}
    for benchmark in spec.benchmarks:
        count = found.questions.get(benchmark.name)
        if count is None:
            raise UsageError(
                f"{found.run_file}: how many questions {benchmark.name} has is not known, so what "
                "the run costs cannot be reckoned",
                f"give it questions = N in its [[benchmarks]], or use apbmm try {found.run_file}",
            )
        counts[benchmark.name] = count * benchmark.repeats
    return counts
