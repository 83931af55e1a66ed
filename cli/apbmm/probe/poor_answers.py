"""Why a run would end after its references, by a probe: what is wrong, an example, and a fix."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from apbmm.answers.records import RecordedAnswer, recorded_answers
from apbmm.check.questions import rendered_warnings, shortened
from apbmm.probe.forecast import Probed
from apbmm.questions.messages import RenderedBenchmark
from apbmm_common.answer_rules import EXTRACTIONS, AnswerRule
from apbmm_common.errors import ApbmmError
from apbmm_common.protocol.messages import BenchmarkResult
from apbmm_common.run_file import BenchmarkSection, RunSpec
from apbmm_common.run_file.sections.benchmarks import ANSWER_ADAPTER
from apbmm_master.journal.assessment.reference_judgement import poor_answers
from apbmm_master.journal.assessment.scores import objectives_of

FEW_RIGHT = 0.2
"""Share of right answers up to which a tie says more about the adapter than about the sources."""
ANSWER_CHARACTERS = 300
"""Of an example; of a longer answer the middle is left out."""


def reasons_to_end(
    spec: RunSpec,
    probed: Sequence[Probed],
    records: Path,
    rendered: Mapping[str, RenderedBenchmark],
) -> list[str]:
    """Lines that say why such a run ends after its references; empty where it would go on.

    ``records`` holds a folder of EvalScope's records for each source; ``rendered`` has the
    benchmarks' prompts as far as they are known.
    """
    results = {each.source: each.evaluated.benchmarks for each in probed}
    lines = [] if spec.budget.any_references else poor_answers(spec, results)
    used = [b for b in spec.benchmarks if _decides(spec, b.name)]
    for benchmark in used:
        if _none_right([benchmarks[benchmark.name] for benchmarks in results.values()]):
            lines.append(f"{benchmark.name}: no source answers any question right")
    if not lines:
        return []
    tied = {b.name: _tied(spec, b.name, results) for b in used}
    for name, pair in tied.items():
        if pair:
            result = results[pair[0]][name]
            lines.append(
                f"{name}: {pair[0]} and {pair[1]} both answer {_right(result)} of {result.answers} "
                "questions right, and few: they cannot be told apart"
            )
    for name, prompts in rendered.items():  # before other rules: this may be why none fits
        lines += [f"{name}: {warning}" for warning in rendered_warnings(prompts)]
    for source, benchmarks in results.items():
        for benchmark in spec.benchmarks:
            result = benchmarks[benchmark.name]
            is_tied = source in tied.get(benchmark.name, ())
            if not (result.malformed or is_tied or _none_right([result])):
                continue
            with suppress(ApbmmError):  # without records there is no example
                kept = recorded_answers(records / source / benchmark.name, benchmark.adapter)
                lines += _example(source, benchmark.name, list(kept.values()))
                lines += _other_rule(spec, benchmark, source, list(kept.values()))
    return lines


def _decides(spec: RunSpec, benchmark: str) -> bool:
    """Whether an objective is the accuracy on a benchmark."""
    return any(
        objective.metric == "accuracy" and benchmark in (objective.benchmarks or (benchmark,))
        for objective in spec.objectives
    )


def _tied(
    spec: RunSpec, benchmark: str, results: Mapping[str, Mapping[str, BenchmarkResult]]
) -> tuple[str, ...]:
    """Expert and vanilla source of an objective that answer as few questions right; else none.

    It is no reason by itself: the run asks more questions than a probe.
    """
    for objective in objectives_of(spec):
        if objective.metric != "accuracy" or benchmark not in objective.benchmarks:
            continue
        pair = (objective.expert, objective.vanilla)
        if objective.expert and _few_and_as_many([results[each][benchmark] for each in pair]):
            return pair
    return ()


def _few_and_as_many(pair: Sequence[BenchmarkResult]) -> bool:
    if any("accuracy" not in result.metrics for result in pair):
        return False
    one, other = map(_right, pair)
    return 0 < one == other <= FEW_RIGHT * pair[0].answers


def _right(result: BenchmarkResult) -> int:
    return round(result.metrics["accuracy"] * result.answers)


def _none_right(results: Sequence[BenchmarkResult]) -> bool:
    return all(result.metrics.get("accuracy") == 0 for result in results)


def _example(source: str, benchmark: str, answers: Sequence[RecordedAnswer]) -> Iterator[str]:
    """An answer in which nothing was found, or else a wrong one; whole answers before cut ones."""
    wrong = [answer for answer in answers if not answer.score]
    wrong.sort(key=lambda answer: (answer.well_formed is not False, answer.truncated))
    for answer in wrong[:1]:
        found = repr(answer.extracted) if answer.extracted else "no answer"
        yield (
            f"{source}, {benchmark}: for example, {found} was found in "
            f"{shortened(answer.answer, ANSWER_CHARACTERS)!r}, and the right answer is "
            f"{answer.target!r}"
        )


def _other_rule(
    spec: RunSpec, benchmark: BenchmarkSection, source: str, answers: Sequence[RecordedAnswer]
) -> Iterator[str]:
    """The rule of `apbmm_answer` that finds the most right answers, or answers in most texts.

    Nothing where the run's own is as good, or no other finds much.
    """
    if benchmark.adapter != ANSWER_ADAPTER or not answers:
        return
    own = AnswerRule.of(benchmark.arguments)
    texts = [
        (answer.answer.rpartition(spec.generation.thought_end or "\0")[2], answer.target)
        for answer in answers
    ]
    counts = {"": _counts(own, texts), **_counts_of_others(own, texts)}
    best = max(counts, key=lambda name: counts[name])
    right, found = counts[best]
    if best and (right or found > len(answers) / 2):
        yield (
            f"{source}, {benchmark.name}: {best} in its arguments would find an answer in {found} "
            f"of {len(answers)}, {right} of them right"
        )


def _counts_of_others(
    own: AnswerRule, texts: Sequence[tuple[str, str]]
) -> Mapping[str, tuple[int, int]]:
    """The `_counts` of other rules, by what stands in the arguments for them."""
    ways = [("extract", name) for name in EXTRACTIONS.keys() - {"exact", own.extract}]
    ways += [("after", marker) for marker in _markers(texts) if marker != own.after]
    counts = {}
    for key, value in ways:
        rule = replace(own, **{"extract": "", "after": "", "regex": "", key: value})
        with suppress(ValueError):  # no answer of this form could be right
            targets = [(text, rule.target(right)) for text, right in texts]
            counts[f"{key} = {json.dumps(value, ensure_ascii=False)}"] = _counts(rule, targets)
    return counts


def _markers(texts: Sequence[tuple[str, str]]) -> list[str]:
    """What stands before the right answer where that ends a text, if it is one mark mostly."""
    ends = (re.search(rf"(\S*[^\w\s])\s*{re.escape(right)}\s*\Z", text) for text, right in texts)
    found = Counter(end[1] for end in ends if end is not None)
    return [mark for mark, count in found.most_common(1) if count > found.total() / 2]


def _counts(rule: AnswerRule, texts: Sequence[tuple[str, str]]) -> tuple[int, int]:
    """In how many texts the rule finds the right answer, as text or as number, and any answer."""
    found = [(rule.answer_in(text), right) for text, right in texts]
    answered = [(answer, right) for answer, right in found if answer is not None]
    right = [pair for pair in answered if rule.is_equal(*pair, lambda *_: False)]
    return len(right), len(answered)
