"""`apbmm answers`: what one merge answered, or two side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from apbmm.answers.side_by_side import (
    AnsweredQuestion,
    answered_questions,
    questions_called,
    texts_folder,
    usual_folders,
)
from apbmm.answers.view import answers_as_json, print_list, print_texts
from apbmm.results.json_form import print_json
from apbmm.results.run_directories import find_run
from apbmm.results.run_results import EvaluationResult, RunResults, read_results
from apbmm.results.words import print_rehearsal
from apbmm.status.view import console
from apbmm_common.errors import EXIT_DONE, ApbmmError


@dataclass(frozen=True)
class AnswersRequest:
    """What the command line asks for; None stands for an option that was not given."""

    run: str | None
    evaluation: str
    against: str | None = None
    question: str | None = None
    state: Sequence[Path] = ()
    as_json: bool = False


def show_answers(request: AnswersRequest) -> int:
    """Print the answers; returns the exit code.

    Raises `UsageError` for a run, an evaluation or a question that does not exist, and `ApbmmError`
    for answers or texts that are not kept here.
    """
    results = read_results(find_run(request.run))
    names = (
        [request.evaluation] if request.against is None else [request.evaluation, request.against]
    )
    evaluations = [results.evaluation(name) for name in names]
    folders = [*request.state, *usual_folders(results.run_dir)]
    questions = answered_questions(results, evaluations, folders)
    if request.question is not None:
        questions = questions_called(questions, request.question)
    if request.as_json:
        print_json(answers_as_json(results, names, questions))
        return EXIT_DONE
    if request.question is not None:
        _require_texts(results, evaluations, folders, questions)
    screen = console()
    print_rehearsal(screen, rehearsal=results.rehearsal)
    if request.question is None:
        print_list(screen, names, questions)
    else:
        print_texts(screen, questions)
    return EXIT_DONE


def _require_texts(
    results: RunResults,
    evaluations: Sequence[EvaluationResult],
    folders: Sequence[Path],
    questions: Sequence[AnsweredQuestion],
) -> None:
    """Raise `ApbmmError` saying where the texts are, unless there is one at least."""
    if any(answer.recorded for question in questions for answer in question.answers.values()):
        return
    first = evaluations[0]
    hosts = {stay.worker: stay.host for stay in results.run_state.sessions.stays}
    where = f"worker {first.worker} on {hosts.get(first.worker, 'its host')}"
    if texts_folder(results, first, folders) is not None:
        raise ApbmmError(
            f"the texts of {first.id} here are of another attempt",
            f"{where} delivered it and keeps the texts of its last runs",
        )
    raise ApbmmError(
        f"the texts of {first.id} are not on this host: {where} keeps those of its last runs",
        f"copy STATE{os.sep}outputs{os.sep}{results.run} from there, and name STATE with --state",
    )
