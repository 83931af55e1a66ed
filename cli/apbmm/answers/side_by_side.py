"""The answers of one or two evaluations, question by question.

Score and tokens of every answer are in the journal. The texts are with the worker that delivered
the evaluation, in the folder of its state; see `texts_folder`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from apbmm.answers.records import RecordedAnswer, recorded_answers
from apbmm.results.run_results import EvaluationResult, RunResults
from apbmm_common.errors import ApbmmError, UsageError
from apbmm_common.repetitions import question_of, repetition_id
from apbmm_master.journal.storage.store import OutcomeRow, read_outcomes
from apbmm_worker.daemon.options import state_folder


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as the journal has it; ``recorded`` is None where its text was not found."""

    outcome: OutcomeRow
    recorded: RecordedAnswer | None


@dataclass(frozen=True, slots=True)
class AnsweredQuestion:
    """A question with the answers to it, by evaluation.

    A question that is asked several times is there once for each repetition: ``answer_id`` names
    question and repetition, and is the question's own id where it is asked once.
    """

    benchmark: str
    question: str
    answer_id: str
    answers: Mapping[str, Answer]

    @property
    def asked(self) -> str:
        """The text of the question; "" where no text was found."""
        return next((a.recorded.asked for a in self.answers.values() if a.recorded), "")

    @property
    def target(self) -> str:
        """The right answer; "" where no text was found."""
        return next((a.recorded.target for a in self.answers.values() if a.recorded), "")

    @property
    def differs(self) -> bool:
        """Whether the answers' scores differ."""
        return len({answer.outcome.score for answer in self.answers.values()}) > 1


def answered_questions(
    results: RunResults, evaluations: Sequence[EvaluationResult], folders: Iterable[Path]
) -> tuple[AnsweredQuestion, ...]:
    """The questions that all ``evaluations`` were asked, in the order of the first one's answers.

    ``folders`` are those in which a worker's state may be. Raises `ApbmmError` for an evaluation
    whose answers the journal does not have.
    """
    searched, repeats = tuple(folders), {b.name: b.repeats for b in results.spec.benchmarks}
    answers = [_answers(results, evaluation, searched) for evaluation in evaluations]
    return tuple(
        AnsweredQuestion(
            benchmark,
            question_of(answer, repeats[benchmark]),
            answer,
            {
                e.id: theirs[benchmark, answer]
                for e, theirs in zip(evaluations, answers, strict=True)
            },
        )
        for benchmark, answer in answers[0]
        if all((benchmark, answer) in theirs for theirs in answers)
    )


def questions_called(
    questions: Sequence[AnsweredQuestion], name: str
) -> tuple[AnsweredQuestion, ...]:
    """The questions of an id, or of BENCHMARK/ID, in all repetitions or in the one that it names.

    Raises `UsageError` where there is none.
    """
    found = tuple(
        q
        for q in questions
        if name in (q.question, q.answer_id)
        or name in (f"{q.benchmark}/{q.question}", f"{q.benchmark}/{q.answer_id}")
    )
    if not found:
        some = ", ".join(f"{q.benchmark}/{q.answer_id}" for q in questions[:3])
        raise UsageError(f"--question {name}: was not asked", f"questions are {some}, ...")
    return found


def _answers(
    results: RunResults, evaluation: EvaluationResult, folders: Sequence[Path]
) -> dict[tuple[str, str], Answer]:
    rows = read_outcomes(results.run_dir, evaluation.id)
    if not rows:
        raise ApbmmError(
            f"{results.label}: no answers of {evaluation.id}: {_why(results, evaluation)}"
        )
    texts = texts_folder(results, evaluation, folders)
    by_benchmark: dict[str, list[OutcomeRow]] = {}
    for row in rows:
        by_benchmark.setdefault(row.benchmark, []).append(row)
    found = {}
    for benchmark in results.spec.benchmarks:
        theirs = by_benchmark.get(benchmark.name, [])
        recorded = (
            matched(
                theirs,
                recorded_answers(texts / benchmark.name, benchmark.adapter),
                benchmark.repeats,
            )
            if texts is not None
            else {}
        )
        for row in theirs:
            found[benchmark.name, row.question] = Answer(row, recorded.get(row.question))
    return found


def _why(results: RunResults, evaluation: EvaluationResult) -> str:
    if results.rehearsal:
        return "a rehearsal asks no questions"
    if evaluation.purpose == "measure":
        return "it measures the layers and asks no questions"
    return "the journal has only its means" if evaluation.benchmarks else "it is not done"


def matched(
    rows: Sequence[OutcomeRow], recorded: Mapping[tuple[str, int], RecordedAnswer], repeats: int
) -> dict[str, RecordedAnswer]:
    """The recorded answers by the ids of the journal.

    A question's id is the data's own, or SUBSET/INDEX, or else the position of its row in the data
    file. The last is not recorded: such questions are matched in their order. Records whose score
    or tokens are not the journal's are of another attempt, and are left out. The ``repeats``
    answers to a question are recorded one after another.
    """
    one_subset = len({subset for subset, _ in recorded}) == 1
    by_id: dict[str, RecordedAnswer] = {}
    for number, ((subset, index), answer) in enumerate(sorted(recorded.items())):
        question, repetition = f"{subset}/{index // repeats}", index % repeats + 1
        if answer.question:
            question = answer.question
        elif one_subset and number < len(rows):
            question = question_of(rows[number].question, repeats)
        by_id[repetition_id(question, repetition) if repeats > 1 else question] = answer
    measured = {row.question: (row.score, row.tokens) for row in rows}
    return {
        question: answer
        for question, answer in by_id.items()
        if measured.get(question) == (answer.score, answer.tokens)
    }


def texts_folder(
    results: RunResults, evaluation: EvaluationResult, folders: Iterable[Path]
) -> Path | None:
    """The folder with the texts of an evaluation; None where no folder of ``folders`` has it.

    Each of ``folders`` may be the state of the worker that delivered it, or hold such states by the
    names of their workers.
    """
    within = Path("outputs") / results.run / evaluation.id
    for folder in folders:
        for state in (folder / evaluation.worker, folder):
            if (state / within).is_dir():
                return state / within
    return None


def usual_folders(run_dir: Path) -> list[Path]:
    """Where a run's workers keep their states: in its folder, or with this user's own workers."""
    return [run_dir / "workers", state_folder("NAME", None).parent]
