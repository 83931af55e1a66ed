"""REHEARSAL: an evaluation child that invents its measurements, to try a cluster out.

It speaks `apbmm_worker.child_protocol` and touches no model. Scores and tokens come
from a smooth synthetic landscape over the merge vector. The time that an evaluation takes, the time
to each answer and the number of truncated answers grow with the tokens. All metrics are taken from
these invented answers as they are from real ones. They are sent as they come, and those that were
kept are not invented again; steps end and go on as real ones do. Status, report and exports of a
rehearsal say that it is one.

APBMM_REHEARSAL_FAULT, for rehearsals of failure only, makes evaluations fail. It is a list of
KIND:EVALUATION. KIND is ``vector``, ``infrastructure``, ``run_file``, ``engine`` (the process dies)
or ``hang`` (half of the answers come, and the rest when this process gets SIGCONT). EVALUATION is
an id, ``*`` for all of them, or ``prepare`` for what comes before the first, as in
``vector:e0003,infrastructure:*``. KIND may also be ``report``: the answers come, and their report
fails.

APBMM_REHEARSAL_REPORT is the time in seconds that each report takes; the engine is free meanwhile.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import operator
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from apbmm_common.canonical_json import canonical_hash
from apbmm_common.checkpoint.tensor_groups import OUTSIDE_GROUPS
from apbmm_common.metrics import METRICS, Outcome
from apbmm_common.protocol.answers import CUT, Answer, answer_key, pack, unpack
from apbmm_common.protocol.messages import (
    Evaluated,
    KeptAnswer,
    Measured,
    ScoredOutcome,
    Share,
    Stepped,
)
from apbmm_common.repetitions import repetition_id
from apbmm_common.run_file import LEAST_SOURCES, RunSpec, Space, part_names
from apbmm_common.simplex import Row, row_of
from apbmm_worker.child.channel import Channel
from apbmm_worker.child_protocol import (
    Command,
    CommandFailed,
    EngineFree,
    Evaluate,
    Measure,
    NewAnswers,
    OfReport,
    Prepare,
    Prepared,
    StageProgress,
    UseAnswers,
)
from apbmm_worker.evaluation.asking_order import Step, asking_order
from apbmm_worker.evaluation.cut_off import CutOff, CutOffs
from apbmm_worker.evaluation.outcomes import benchmark_part, benchmark_result
from apbmm_worker.message_socket import inherited_socket

QUESTIONS = 100
PROGRESS_SECONDS = 0.25
TOKENS = (200.0, 4000.0)
"""Mean tokens of the two synthetic sources, cheap and thinking."""
SECONDS_A_TOKEN = 0.01
IN_FLIGHT = 4
"""Questions that are being answered when an evaluation is cut off."""
CUT_AT = 0.5
"""Share of an answer that is there when the end of a step cuts it off."""
TRUNCATED = 0.05
"""Share of truncated answers at the tokens of the thinking source."""
FAULT_MESSAGE = "APBMM_REHEARSAL_FAULT asks for it"
HANG, REPORT = "hang", "report"
"""The kinds of faults that come amid the answers, and after all of them."""
REPORT_POLL_SECONDS = 0.02
PREPARE = "prepare"
"""What stands for the preparation of a run among the evaluations that fail."""


class Landscape:
    """Accuracy and mean tokens of a merge vector, the same on every host for a run's seed."""

    def __init__(self, layers: int, seed: int) -> None:
        random_numbers = random.Random(seed)  # noqa: S311 - a landscape, not a secret
        raw = [random_numbers.expovariate(1.0) for _ in range(layers)]
        self._weights = [weight / sum(raw) for weight in raw]
        self._centre = [random_numbers.uniform(0.3, 0.7) for _ in range(layers)]

    def accuracy(self, vector: Sequence[Share], difficulty: float) -> float:
        """Share of right answers: rises with the important layers' weights."""
        level = math.fsum(w * x for w, x in zip(self._weights, vector, strict=True))
        return 0.35 + 0.6 / (1.0 + math.exp(-8.0 * (level - 0.35 - 0.2 * difficulty)))

    def tokens(self, vector: Sequence[Share]) -> float:
        """Mean generated tokens: rises with the weights, least near a hidden point."""
        spread = math.fsum(abs(x - c) for x, c in zip(vector, self._centre, strict=True))
        level = sum(vector) / len(vector)
        cheap, dear = TOKENS
        return cheap + (dear - cheap) * math.pow(level, 1.5) * (0.8 + 0.4 * spread / len(vector))


def prepared(spec: RunSpec) -> Prepared:
    """The answer to `Prepare`: the landscape's seed stands for the sources' digests."""
    assert spec.evaluation.layers is not None
    return Prepared(
        digests={"rehearsal": canonical_hash([spec.seed, spec.evaluation.layers])},
        layers=spec.evaluation.layers,
        outside=tuple(OUTSIDE_GROUPS),
        parts=searched_parts(spec),
        versions={"kind": "REHEARSAL"},
        seconds=0.0,
    )


def measured(spec: RunSpec) -> Measured:
    """The answer to `Measure`: an invented discrepancy for each layer, part and group outside."""
    assert spec.evaluation.layers is not None
    numbers = random.Random(spec.seed)  # noqa: S311
    weights = tuple(numbers.expovariate(1.0) for _ in range(spec.evaluation.layers))
    outside = {group: numbers.expovariate(1.0) for group in OUTSIDE_GROUPS}
    parts: dict[str, tuple[float | None, ...]] = {
        part: tuple(numbers.expovariate(1.0) for _ in layers)
        for part, layers in searched_parts(spec).items()
    }
    return Measured(parameter=weights, activation=weights, outside=outside, parts=parts, prompts=0)


def searched_parts(spec: RunSpec) -> dict[str, tuple[int, ...]]:
    """Every layer of the invented models has every part that the run tells apart."""
    assert spec.evaluation.layers is not None
    every = tuple(range(spec.evaluation.layers))
    return dict.fromkeys(part_names(spec.merge), every)


def evaluated(
    spec: RunSpec,
    vector: Sequence[float],
    *,
    reference: bool = False,
    borders: Sequence[int] = (),
) -> tuple[float, Evaluated]:
    """Seconds that the evaluation of a vector takes, and the answer to `Evaluate`."""
    seconds, outcomes = invented(spec, vector, reference=reference, borders=borders)
    return seconds, result_of(spec, outcomes, seconds)


def result_of(
    spec: RunSpec, outcomes: Mapping[str, Sequence[Outcome]], seconds: float, kept: int = 0
) -> Evaluated:
    """What the outcomes by benchmark give; ``kept`` of their answers were not invented anew.

    Estimates of merges that are measured in steps need the outcomes of single questions.
    """
    result = Evaluated(
        benchmarks={
            benchmark.name: benchmark_result(outcomes[benchmark.name], repeats=benchmark.repeats)
            for benchmark in spec.benchmarks
        },
        stages={"rehearse": seconds},
        engine=description(kept),
    )
    return result if spec.steps.in_part else result.without_outcomes()


def invented(
    spec: RunSpec, vector: Sequence[float], *, reference: bool, borders: Sequence[int] = ()
) -> tuple[float, dict[str, list[Outcome]]]:
    """Seconds that the evaluation of a vector takes, and its outcomes by benchmark."""
    layers = spec.evaluation.layers
    assert layers is not None
    space = Space.of(spec, layers, OUTSIDE_GROUPS, (), searched_parts(spec), borders)
    cells = layers * max(1, len(space.parts))
    landscape = Landscape(cells + len(space.outside), spec.seed)
    others = any(b.held_out or b.asked_before for b in spec.benchmarks)
    questions = ["held out"] if others else []
    noise = random.Random(canonical_hash([*vector, *questions]))  # noqa: S311
    rows = part_rows(space, vector, layers, reference=reference)
    tokens = landscape.tokens(levels(rows, strengths(spec, "lower")))
    seconds = spec.evaluation.rehearsal_seconds * tokens / TOKENS[1] * noise.uniform(0.7, 1.3)
    scores = {objective.metric for objective in spec.objectives} - METRICS.keys()
    outcomes = {}
    for index, benchmark in enumerate(spec.benchmarks):
        level = levels(rows, strengths(spec, "higher", benchmark.name))
        accuracy = landscape.accuracy(level, index / len(spec.benchmarks))
        right = [
            sum(noise.random() < accuracy for _ in range(QUESTIONS))
            for _ in range(benchmark.repeats)
        ]
        outcomes[benchmark.name] = invented_outcomes(right, tokens * (1 + 0.1 * index), scores)
    return seconds, outcomes


def invented_outcomes(right: Sequence[int], tokens: float, scores: Iterable[str]) -> list[Outcome]:
    """Outcomes of `QUESTIONS` questions, so often each as ``right`` has numbers.

    In each repetition so many of the questions are right, the first ones. All take ``tokens``. Each
    score that an objective names equals the primary one.
    """
    truncated = round(QUESTIONS * TRUNCATED * tokens / TOKENS[1])
    return [
        Outcome(
            question=repetition_id(str(number), repetition) if len(right) > 1 else str(number),
            score=float(number < count),
            tokens=tokens,
            seconds=tokens * SECONDS_A_TOKEN,
            finish_reason="stop" if number < QUESTIONS - truncated else "length",
            scores=dict.fromkeys(scores, float(number < count)),
        )
        for number in range(QUESTIONS)
        for repetition, count in enumerate(right, 1)
    ]


def part_rows(
    space: Space, vector: Sequence[float], layers: int, *, reference: bool
) -> tuple[Row, ...]:
    """The sources' weights in each layer, or each part of one, and in each group of other tensors
    with its own.

    A merge of whole models has one weight in all layers of this landscape: the product of its
    numbers is the first source's, the last one's is the rest.
    """
    if reference:
        numbers = len(vector) // layers
        cells = layers * max(1, len(space.parts))
        return (row_of(vector[:numbers]),) * (cells + len(space.outside))
    if space.owners:
        parts = space.part_rows(vector).values()
        inside = itertools.chain.from_iterable(parts) if parts else space.layer_rows(vector)
        return (*inside, *space.outside_rows(vector).values())
    weight, parameters = space.weight_and_parameters(vector)
    return (row_of([weight * math.prod(parameters.values())]),) * layers


def strengths(spec: RunSpec, better: str, benchmark: str | None = None) -> list[float]:
    """How much of a metric each source has, 0 to 1, by the first objective that names the source.

    Of metrics of which more is ``better``, that is 1 for the expert and 0 for the vanilla source;
    of others, such as tokens, the other way round. Of two sources it is always 1 and 0.
    """
    names = spec.sources.names
    found: dict[str, float] = {}
    if len(names) == LEAST_SOURCES:
        return [1.0, 0.0]
    for objective in spec.objectives:
        asks = objective.benchmarks is None or benchmark in (None, *objective.benchmarks)
        if objective.expert and objective.vanilla and objective.better == better and asks:
            found.setdefault(objective.expert, float(better == "higher"))
            found.setdefault(objective.vanilla, float(better != "higher"))
    return [found.get(name, 0.5) for name in names]


def levels(rows: Sequence[Row], strength: Sequence[float]) -> tuple[float, ...]:
    """The sources' mean strength in each part, weighted by the weights that it has."""
    return tuple(math.fsum(map(operator.mul, row, strength)) for row in rows)


@dataclass(frozen=True, slots=True)
class Question:
    """A question of a rehearsal: its number, its answer's key, its benchmark and its outcome."""

    number: int
    key: str
    benchmark: str
    outcome: Outcome

    @property
    def tokens_when_cut(self) -> int:
        """The tokens so far of an answer that the end of a step cuts off: half of them."""
        return max(1, round(self.outcome.tokens * CUT_AT))


def questions_of(spec: RunSpec, outcomes: Mapping[str, Sequence[Outcome]]) -> list[Question]:
    """The questions in the run's asking order."""
    count = itertools.count()
    questions = [
        Question(next(count), answer_key([place, number], spec.seed), name, outcome)
        for place, (name, each) in enumerate(outcomes.items())
        for number, outcome in enumerate(each)
    ]
    sizes = {name: len(each) for name, each in outcomes.items()}
    return [questions[number] for number in asking_order(sizes, spec.generation.seed)]


@dataclass(frozen=True)
class Part:
    """What one attempt does: it answers the questions ``now``, one after another, and cuts ``cut``.

    ``asked`` are all of its step, ``questions`` all of the run, in the asking order. ``answers``
    are those of earlier attempts, by key. ``left`` it did not come to.
    """

    questions: Sequence[Question]
    asked: Sequence[Question]
    now: Sequence[Question]
    cut: Sequence[Question]
    answers: Mapping[str, Answer]
    left: Sequence[Question] = ()

    @classmethod
    def of(cls, questions: Sequence[Question], step: Step, answers: Mapping[str, Answer]) -> Part:
        """The part of an attempt at a step."""
        asked = step.asked(questions)
        missing = [q for q in asked if q.key not in answers or answers[q.key].finish_reason == CUT]
        count = max(0, step.needed(len(asked)) - (len(asked) - len(missing)))
        return cls(questions, asked, missing[:count], missing[count:], answers)

    def ended_after(self, count: int) -> Part:
        """The same, cut off when so many questions of ``now`` are answered."""
        flying = count + IN_FLIGHT
        cut = (*self.now[count:flying], *self.cut)
        return replace(self, now=self.now[:count], cut=cut, left=self.now[flying:])

    @property
    def kept(self) -> int:
        """How many of its questions were answered before."""
        return len(self.asked) - len(self.now) - len(self.cut) - len(self.left)

    @property
    def newly_cut(self) -> list[Question]:
        """The questions whose answers it begins and does not finish."""
        return [question for question in self.cut if question.key not in self.answers]

    @property
    def share(self) -> float:
        """Its share of the time that an evaluation takes."""
        whole = sum(1 - CUT_AT * (question.key in self.answers) for question in self.now)
        return (whole + CUT_AT * len(self.newly_cut)) / len(self.questions)

    def generated_after(self, count: int) -> dict[str, int]:
        """Tokens by benchmark when so many questions of ``now`` are answered.

        With those of the `IN_FLIGHT` answers that would then be cut off.
        """
        open_ = {question.number for question in (*self.now[count:], *self.cut, *self.left)}
        found = Counter[str]()
        for question in self.asked:
            if question.number not in open_:
                found[question.benchmark] += round(question.outcome.tokens)
        for question in self.now[count : count + IN_FLIGHT]:
            found[question.benchmark] += question.tokens_when_cut
        return found

    def outcomes(self) -> dict[str, list[Outcome]]:
        """All outcomes of the step, by benchmark; kept answers have theirs."""
        found: dict[str, list[Outcome]] = {question.benchmark: [] for question in self.questions}
        numbers = {question.number for question in (*self.now, *self.cut, *self.left)}
        new = {question.number for question in self.now}
        for question in sorted(self.asked, key=lambda question: question.number):
            if question.number in new:
                found[question.benchmark].append(question.outcome)
            elif question.number not in numbers:
                kept = json.loads(self.answers[question.key].text)
                found[question.benchmark].append(Outcome(**kept))
        return found


def evaluate(
    spec: RunSpec,
    command: Evaluate,
    kept: Iterable[KeptAnswer],
    channel: Channel,
    cut_off: CutOff | None = None,
    *,
    hangs: bool = False,
) -> Evaluated | Stepped:
    """Wait as long as the answers that are not kept would take; what all of them give.

    Where it is ``cut_off``, what there is by then. With ``hangs`` it waits for SIGCONT amid them.
    """
    began = time.monotonic()
    cut_off = cut_off or CutOff()
    seconds, outcomes = invented(
        spec, command.vector, reference=command.reference, borders=command.borders
    )
    answers = {answer.key: unpack(answer) for answer in kept}
    part = Part.of(questions_of(spec, outcomes), Step(command.upto, command.enough), answers)
    seconds *= part.share
    steps = max(1, math.ceil(seconds / PROGRESS_SECONDS))
    for number in range(steps):
        if cut_off.is_asked:
            part = part.ended_after(len(part.now) * number // steps)
            seconds = time.monotonic() - began
            break
        channel.send(StageProgress(stage="rehearse", done=number, total=steps))
        if hangs and number == steps // 2:
            signal.sigwait({signal.SIGCONT})
        time.sleep(seconds / steps)
        first, end = (len(part.now) * n // steps for n in (number, number + 1))
        channel.send(new_answers(part.now[first:end], part.generated_after(end)))
    channel.send(cut_answers(part.newly_cut))
    return body_of(spec, part, seconds)


def body_of(spec: RunSpec, part: Part, seconds: float) -> Evaluated | Stepped:
    """What a part gives: `Evaluated` where nothing is left to be answered, else `Stepped`."""
    outcomes = part.outcomes()
    if sum(map(len, outcomes.values())) == len(part.questions):
        return result_of(spec, outcomes, seconds, part.kept)
    cut: dict[str, list[tuple[str, int]]] = {name: [] for name in outcomes}
    for question in part.cut:
        cut[question.benchmark].append((question.outcome.question, question.tokens_when_cut))
    answers = Counter(question.benchmark for question in part.questions)
    return Stepped(
        benchmarks={
            benchmark.name: benchmark_part(
                outcomes[benchmark.name],
                cut[benchmark.name],
                answers[benchmark.name],
                benchmark.repeats,
            )
            for benchmark in spec.benchmarks
        },
        stages={"rehearse": seconds},
        engine=description(part.kept),
    )


def description(kept: int) -> dict[str, object]:
    """What stands for the engine's description; ``kept`` answers were not invented anew."""
    return {"kind": "REHEARSAL", **({"kept_answers": kept} if kept else {})}


def as_answer(outcome: Outcome) -> Answer:
    """The answer that has this outcome: it says so itself."""
    return Answer(json.dumps(asdict(outcome)), (), 1, outcome.finish_reason, outcome.seconds)


def new_answers(questions: Iterable[Question], generated: Mapping[str, int]) -> NewAnswers:
    """Questions that were answered and scored, and the tokens so far."""
    answers, outcomes = [], []
    for question in questions:
        outcome = question.outcome
        packed = pack(question.key, as_answer(outcome))
        assert packed is not None
        answers.append(packed)
        outcomes.append(
            ScoredOutcome(
                benchmark=question.benchmark,
                question=outcome.question,
                score=outcome.score,
                tokens=round(outcome.tokens),
                finish_reason=outcome.finish_reason,
                seconds=outcome.seconds,
            )
        )
    return NewAnswers(answers=tuple(answers), outcomes=tuple(outcomes), generated=dict(generated))


def cut_answers(questions: Iterable[Question]) -> NewAnswers:
    """The beginnings of answers that were cut off."""
    answers = []
    for question in questions:
        tokens = (0,) * question.tokens_when_cut
        seconds = question.outcome.seconds * CUT_AT
        packed = pack(question.key, Answer("", tokens, 1, CUT, seconds))
        assert packed is not None
        answers.append(packed)
    return NewAnswers(answers=tuple(answers))


def fault(evaluation: str) -> str:
    """The kind of fault that APBMM_REHEARSAL_FAULT sets for an evaluation; empty if none."""
    for item in filter(None, os.environ.get("APBMM_REHEARSAL_FAULT", "").split(",")):
        kind, _, name = item.partition(":")
        if name == evaluation or (name == "*" and evaluation != PREPARE):
            return kind
    return ""


def fail(kind: str) -> CommandFailed:
    """Fail in the way of this kind: hang, die, or return the failure."""
    match kind:
        case "hang":
            signal.pause()
        case "engine":
            os.kill(os.getpid(), signal.SIGKILL)
        case "vector" | "run_file":
            return CommandFailed(fault=kind, message=FAULT_MESSAGE)
    return CommandFailed(fault="infrastructure", message=FAULT_MESSAGE)


class Rehearsal:
    """Obeys the daemon's commands."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._spec: RunSpec | None = None
        self._kept: list[KeptAnswer] = []
        self.cut_offs = CutOffs()
        self._has_reported = threading.Event()
        self._has_reported.set()

    def obey(self, command: Command) -> None:
        """Send the answer to a command, if it has one."""
        if isinstance(command, Prepare):
            self._spec = RunSpec.model_validate(command.spec)
            kind = fault(PREPARE)
            self._channel.send(fail(kind) if kind else prepared(self._spec))
            return
        assert self._spec is not None, "the daemon prepares a run first"
        match command:
            case Measure():
                self._channel.send(measured(self._spec))
            case UseAnswers():
                self._kept += command.answers
            case Evaluate() if (kind := fault(command.evaluation)) not in ("", HANG, REPORT):
                self._kept = []
                self._channel.send(fail(kind))
            case Evaluate():
                kept, self._kept = self._kept, []
                cut_off = self.cut_offs.begin(command.lease)
                hangs = kind == HANG
                body = evaluate(self._spec, command, kept, self._channel, cut_off, hangs=hangs)
                self._report(command, fail(kind) if kind == REPORT else body)

    def _report(self, command: Evaluate, answer: Evaluated | Stepped | CommandFailed) -> None:
        """Send the answer when the report is made; return when the engine is free.

        One report is made beside another command at a time.
        """
        end = time.monotonic() + float(os.environ.get("APBMM_REHEARSAL_REPORT", "0"))
        while (left := end - time.monotonic()) > 0:
            if command.may_free and self._has_reported.is_set():
                self._has_reported.clear()
                self._channel.send(EngineFree())
                threading.Timer(left, self._end_report, (answer,)).start()
                return
            time.sleep(min(left, REPORT_POLL_SECONDS))
        self._channel.send(answer)

    def _end_report(self, answer: Evaluated | Stepped | CommandFailed) -> None:
        with contextlib.suppress(OSError):  # the daemon has ended
            self._channel.send(OfReport(event=answer))
        self._has_reported.set()


def main() -> None:
    """Entry point of the child process."""
    # One that comes before an evaluation hangs is kept for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCONT})
    channel = Channel(inherited_socket(__doc__))
    rehearsal = Rehearsal(channel)
    channel.serve(rehearsal.obey, rehearsal.cut_offs.ask)


if __name__ == "__main__":
    main()
