"""Has the worker's evaluation child answer some questions with each source, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from apbmm.local_engine import ShowStage, evaluated_source, watched_job
from apbmm.probe.forecast import Probed
from apbmm.probe.speed import TimedAnswer
from apbmm_common.protocol.answers import unpack
from apbmm_common.protocol.messages import Assign, KeptAnswer
from apbmm_common.run_file import RunSpec
from apbmm_worker.child_protocol import NewAnswers, StageProgress
from apbmm_worker.daemon.options import Options

RUN = "probe"


@dataclass
class Timings:
    """Takes in the answers of an evaluation; each was begun at its beginning."""

    answers: list[TimedAnswer] = field(default_factory=list)

    async def fetch(
        self, assign: Assign, report: Callable[[StageProgress], None]
    ) -> Sequence[KeptAnswer]:
        """There are none of an earlier attempt."""
        del assign, report
        return ()

    def keep(self, assign: Assign) -> Callable[[NewAnswers], None]:
        """Notes tokens and seconds of each answer."""
        del assign
        return self._take

    def _take(self, event: NewAnswers) -> None:
        answers = map(unpack, event.answers)
        self.answers += [TimedAnswer(len(answer.token_ids), answer.seconds) for answer in answers]


async def probe_sources(
    spec: RunSpec, options: Options, show: ShowStage
) -> tuple[list[Probed], float]:
    """Each source's measurements on the questions of ``spec``, and the seconds of preparation.

    The first of them starts the engine, the others are loaded into it.

    Raises `UsageError`, `EvaluationError` or `ApbmmError`. Cancelled, it leaves no process behind.
    """
    async with watched_job(options, show) as job:
        began = time.monotonic()
        layers = (await job.prepare(spec)).layers
        prepared = time.monotonic() - began
        found = []
        for source in reversed(spec.sources.names):
            timings = Timings()
            body = await evaluated_source(
                job, spec, source, layers, run=RUN, evaluation=source, answers=timings
            )
            found.append(Probed(source, body, tuple(timings.answers)))
        return found, prepared
