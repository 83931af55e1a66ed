"""Whether each question's right answer scores 1 when it is given as the model's answer.

No model can be right on a question whose own target scores less, and a target that cannot be scored
at all fails every evaluation. How an answer has to be phrased is the adapter's affair: its own
worked examples, the marks in its prompt and the common forms are tried. Where none of them fits
most targets of a subset, the form is not known, and nothing is said of single rows.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from apbmm_common.datasets.benchmark_folders.layouts import layout_of
from apbmm_common.errors import DataError
from apbmm_worker.evaluation.evalscope.logging_guard import preserved_logging
from apbmm_worker.evaluation.evalscope.math_calls import MOST_PROCESSES
from apbmm_worker.evaluation.evalscope.questions import (
    MODEL_NAME,
    PreparedBenchmark,
    PreparedBenchmarks,
    Question,
    evalscope_task,
    load_questions,
)
from apbmm_worker.evaluation.outcomes import USABLE

with preserved_logging():
    from evalscope.api.benchmark import DefaultDataAdapter
    from evalscope.api.evaluator import Target, TaskState
    from evalscope.api.mixin.code_execution_sandbox_mixin import CodeExecutionSandboxMixin
    from evalscope.api.model import ModelOutput
    from evalscope.constants import Tags

_log = logging.getLogger(__name__)

HINT = "mend these answers in the data, or leave the rows out"
MOST_NAMED = 5
FIRST_TRIED = 30
"""Questions of a subset after which an adapter that has scored no target is given up."""

_FORMS = (r"\boxed{%s}", "ANSWER: %s", "答案\uff1a%s", "%s", "#### %s", "The answer is %s.")
_MARKS = (r"\boxed", "ANSWER", "答案", "", "####", "answer is")
_RIGHT = 1.0 - 1e-9
_MOST_ALONE = 300


@dataclass(frozen=True)
class TargetReport:
    """What the targets of one benchmark show, a line each.

    ``faults`` are rows that cannot be scored, which would end every evaluation. ``notes`` are rows
    that no answer can get right, and subsets that were not checked.
    """

    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Verdict:
    """A question's target as the ``text`` of an answer: its score, or the reason for none."""

    question: Question
    text: str
    score: float | None
    reason: str = ""

    @property
    def is_right(self) -> bool:
        """Whether it scores 1."""
        return self.score is not None and self.score >= _RIGHT

    @property
    def is_unusable(self) -> bool:
        """Whether an answer was given and not scored."""
        return self.score is None and bool(self.text)

    @property
    def is_wrong(self) -> bool:
        """Whether no answer can score 1."""
        return not self.is_right and not self.is_unusable


def score_targets(prepared: PreparedBenchmarks) -> dict[str, TargetReport]:
    """Have every target scored by its benchmark's adapter; by the benchmark's name."""
    return {b.name: _report(b, prepared) for b in prepared.benchmarks}


def require_scorable(prepared: PreparedBenchmarks) -> None:
    """Raise `DataError` for targets that cannot be scored; log what else the targets show."""
    faults = []
    for name, report in score_targets(prepared).items():
        faults += [f"benchmark {name}: {fault}" for fault in report.faults]
        for note in report.notes:
            _log.warning("benchmark %s: %s", name, note)
    if faults:
        raise DataError("; ".join(faults), HINT)


def _report(benchmark: PreparedBenchmark, prepared: PreparedBenchmarks) -> TargetReport:
    adapter_name = benchmark.chosen.benchmark.adapter
    task = evalscope_task(benchmark.chosen, prepared.generation, None, 0, benchmark.chosen.folder)
    adapter, subsets = load_questions(benchmark.chosen, task, prepared.generation.seed)
    if not isinstance(adapter, DefaultDataAdapter):
        return TargetReport(notes=(_not_checked("", "its adapter scores in a way of its own"),))
    if isinstance(adapter, CodeExecutionSandboxMixin) or Tags.CODING in (adapter.tags or ()):
        return TargetReport(notes=(_not_checked("", "its adapter runs answers as programs"),))
    is_known = layout_of(adapter_name) is not None or hasattr(adapter, "right_answer")
    repeats = benchmark.chosen.benchmark.repeats
    questions = {
        (question.place[0], question.place[1] // repeats): question
        for question in benchmark.questions
        if question.repetition == 0
    }
    verdicts: list[_Verdict] = []
    notes: list[str] = []
    for subset, samples in subsets.items():
        asked = [(questions[subset, sample.id], sample) for sample in samples]
        only_target = layout_of(adapter_name) is not None
        found = _Scorer(adapter, only_target=only_target).verdicts(asked)
        right = sum(verdict.is_right for verdict in found)
        if (is_known and all(verdict.text for verdict in found)) or 2 * right > len(asked):
            verdicts += found
        elif asked:
            where = f" in subset {subset}" if len(subsets) > 1 else ""
            notes.append(_not_checked(where, "the form that its adapter reads is not known"))
    return TargetReport(_faults(verdicts), (*notes, *_wrong(verdicts)))


class _Scorer:
    """Scores targets with one adapter, in the form that has fitted most often so far.

    ``only_target``: a score depends on nothing but answer, target and choices, so equal ones are
    scored once.
    """

    def __init__(self, adapter: Any, *, only_target: bool) -> None:
        self._adapter = adapter
        self._only_target = only_target
        self._fitted: Counter[str] = Counter()
        self._known: dict[tuple[str, str, str], tuple[float | None, str]] = {}

    def verdicts(self, asked: Sequence[tuple[Question, Any]]) -> list[_Verdict]:
        """The verdict on each question; fewer where no form fits the first of them."""
        # Another process that compares mathematics takes longer to start than many comparisons.
        at_once = MOST_PROCESSES if len(asked) > _MOST_ALONE else 1
        with ThreadPoolExecutor(at_once, "targets") as threads:
            remaining = iter(asked)
            found = list(threads.map(self._verdict, islice(remaining, FIRST_TRIED)))
            if self._fitted or self._only_target:
                found += threads.map(self._verdict, remaining)
        return found

    def _verdict(self, asked: tuple[Question, Any]) -> _Verdict:
        question, sample = asked
        best = _Verdict(question, "", None, "its adapter finds it in no text")
        phrased = list(_phrased(self._adapter, question, sample))
        for form, text in sorted(phrased, key=lambda pair: -self._fitted[pair[0]]):
            score, reason = self._score(text, sample)
            if score is not None and score >= _RIGHT:
                self._fitted[form] += 1
                return _Verdict(question, text, score)
            if not best.text:
                best = _Verdict(question, text, score, reason)
        return best

    def _score(self, text: str, sample: Any) -> tuple[float | None, str]:
        if not self._only_target:
            return _score(self._adapter, text, sample)
        key = (text, str(sample.target), str(sample.choices))
        if key not in self._known:
            self._known[key] = _score(self._adapter, text, sample)
        return self._known[key]


def _phrased(adapter: Any, question: Question, sample: Any) -> Iterator[tuple[str, str]]:
    """A question's right answer in every form that its adapter may read: the form, and the text."""
    phrase = getattr(adapter, "right_answer", None)
    if phrase is not None:  # an adapter that knows its form
        text = phrase(sample)
        if text is not None:
            yield "", text
        return
    target = Target(sample.target)
    answer = target.compact() if sample.choices else next(iter(target), "")
    by_prompt = sorted(zip(_FORMS, _MARKS, strict=True), key=partial(_unlikeliness, question.text))
    yield from ((form, form.replace("%s", answer)) for form, _ in by_prompt)
    try:  # as in its worked examples, without the question
        yield "worked example", adapter.sample_to_fewshot(sample.model_copy(update={"input": ""}))
    except Exception:  # noqa: BLE001 - an adapter without worked examples
        return


def _unlikeliness(prompt: str, form: tuple[str, str]) -> int:
    """The forms whose mark is in the prompt go first, then the bare answer, then the others."""
    _, mark = form
    return 1 if not mark else 2 * (mark not in prompt)


def _score(adapter: Any, text: str, sample: Any) -> tuple[float | None, str]:
    """The primary score of an answer as EvalScope computes it; or None, and why there is none."""
    output = ModelOutput.from_content(MODEL_NAME, text)
    state = TaskState(
        model=MODEL_NAME,
        sample=sample,
        messages=[*sample.input, output.message],
        output=output,
        completed=True,
    )
    try:
        score = adapter.calculate_metrics(state).score
        status = str(getattr(score.status, "value", score.status))
        if status != USABLE:
            told = [str(v) for v in (score.metadata or {}).values() if str(v).startswith("error")]
            return None, next(iter(told), score.explanation or status)
        return float(score.value[score.main_score_name or next(iter(score.value))]), ""
    except Exception as error:  # noqa: BLE001 - whatever an adapter raises, there is no score
        return None, f"{type(error).__name__}: {error}"


def _faults(verdicts: Sequence[_Verdict]) -> tuple[str, ...]:
    unusable = [verdict for verdict in verdicts if verdict.is_unusable]
    what = "cannot be scored when they are given as the answer, which ends an evaluation"
    return _told(unusable, len(verdicts), what)


def _wrong(verdicts: Sequence[_Verdict]) -> tuple[str, ...]:
    wrong = [verdict for verdict in verdicts if verdict.is_wrong]
    what = "do not score 1 when they are given as the answer, so no model can be right there"
    return _told(wrong, len(verdicts), what)


def _told(found: Sequence[_Verdict], targets: int, what: str) -> tuple[str, ...]:
    """One line about some of so many targets; none without any."""
    return (f"{len(found)} of {targets} targets {what}: {_named(found)}",) if found else ()


def _named(verdicts: Sequence[_Verdict]) -> str:
    named = [
        f"{v.question.row or f'question {v.question.identity}'} (target {_short(v.question.target)}"
        f", as the answer {_short(v.text)}: {v.reason or f'{v.score:g}'})"
        for v in verdicts[:MOST_NAMED]
    ]
    more = [f"and {len(verdicts) - MOST_NAMED} more"] if len(verdicts) > MOST_NAMED else []
    return "; ".join(named + more)


def _not_checked(where: str, why: str) -> str:
    return f"whether its own right answers score 1{where} was not checked: {why}"


def _short(text: str, most: int = 80) -> str:
    return repr(text if len(text) <= most else f"{text[:most]}...")
