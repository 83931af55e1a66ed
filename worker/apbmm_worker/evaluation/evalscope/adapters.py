"""EvalScope's benchmark adapters, and apbmm's own: JSON Lines of id, question and answer.

``apbmm_exact`` compares the whole answer, ``apbmm_demo_<family>`` the symbol after the marker, as
the demo pair writes its answers, both exactly. ``apbmm_answer`` finds and compares answers
by the rule that the benchmark's arguments give.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from apbmm_common.answer_rules import AnswerRule
from apbmm_common.run_file.sections.benchmarks import ANSWER_ADAPTER, EXACT_ADAPTER, is_own_adapter
from apbmm_worker.evaluation import demo_answers
from apbmm_worker.evaluation.evalscope.logging_guard import preserved_logging

with preserved_logging():
    import evalscope.benchmarks  # noqa: F401 - with which EvalScope's registry knows them
    from evalscope.api.benchmark import BenchmarkMeta, DefaultDataAdapter
    from evalscope.api.dataset import Sample
    from evalscope.api.evaluator import TaskState
    from evalscope.api.metric import Score
    from evalscope.api.registry import (
        BENCHMARK_REGISTRY,
        EVALUATOR_REGISTRY,
        register_benchmark,
    )
    from evalscope.metrics.math import parser

WELL_FORMED = "well_formed"
EXPRESSION_SECONDS = 10.0
"""For one comparison of expressions. An answer that takes longer is not equal."""
LONGEST_EXPRESSION = 500
"""Characters. A longer answer is not equal."""


class ExactMatchAdapter(DefaultDataAdapter):  # type: ignore[misc]
    """Sends the question, unchanged, as the user's message; the answer must match exactly."""

    def load_from_disk(self, **_: Any) -> Any:
        """Read test.jsonl of the local folder."""
        return super().load_from_disk(use_local_loader=True)

    def record_to_sample(self, record: dict[str, Any]) -> Sample:
        """One line of the data file as EvalScope wants it."""
        return Sample(
            input=record["question"],
            target=str(record["answer"]).strip(),
            metadata={"question_id": str(record["id"])},
        )

    def answer_in(self, text: str) -> str | None:
        """The answer that a generated text gives, or None for a malformed text."""
        return text.strip() or None

    def right_answer(self, sample: Sample) -> str | None:
        """The right answer as a model would write it; None where its form is not known."""
        return str(sample.target)

    def extract_answer(self, prediction: str, task_state: TaskState) -> str:  # noqa: ARG002
        """What EvalScope shows as the answer; empty for a malformed text."""
        return self.answer_in(prediction) or ""

    def is_right(self, answer: str, reference: str, task_state: TaskState) -> bool:  # noqa: ARG002
        """Whether an answer is the right one."""
        return answer == reference.strip()

    def match_score(
        self,
        original_prediction: str,
        filtered_prediction: str,
        reference: str,
        task_state: TaskState,
    ) -> Score:
        """1 for the right answer, else 0. A malformed text is wrong and marked as malformed."""
        answer = filtered_prediction.strip()
        right = bool(answer) and self.is_right(answer, reference, task_state)
        return Score(
            value={"acc": float(right)},
            extracted_prediction=filtered_prediction,
            prediction=original_prediction,
            main_score_name="acc",
            metadata={WELL_FORMED: bool(answer)},
        )


class DemoAdapter(ExactMatchAdapter):
    """A family of the demo pair's problems."""

    def answer_in(self, text: str) -> str | None:
        """The symbol after the marker."""
        return demo_answers.extract_answer(text)

    def right_answer(self, sample: Sample) -> str | None:
        """The marker and the symbol."""
        return f"# {sample.target}"


class AnswerAdapter(ExactMatchAdapter):
    """Questions and answers of one's own; each copied row holds the benchmark's `AnswerRule`."""

    def record_to_sample(self, record: dict[str, Any]) -> Sample:
        """One line of the data file as EvalScope wants it."""
        sample = super().record_to_sample(record)
        sample.metadata["rule"] = record["rule"]
        return sample

    def right_answer(self, sample: Sample) -> str | None:
        """The answer in the form that the rule finds."""
        return AnswerRule.of(sample.metadata["rule"]).phrased(str(sample.target))

    def extract_answer(self, prediction: str, task_state: TaskState) -> str:
        """The answer that the rule finds; empty for a malformed text."""
        return AnswerRule.of(task_state.metadata["rule"]).answer_in(prediction) or ""

    def is_right(self, answer: str, reference: str, task_state: TaskState) -> bool:
        """Whether the rule calls an answer equal to the right one."""
        rule = AnswerRule.of(task_state.metadata["rule"])
        return rule.is_equal(answer, reference, is_same_expression)


@lru_cache(maxsize=4096)
def is_same_expression(answer: str, target: str) -> bool:
    """Whether EvalScope calls two mathematical expressions equal; not where that takes long."""
    if max(len(answer), len(target)) > LONGEST_EXPRESSION:
        return False
    try:
        found = parser.run_isolated(
            parser.compare_answers,
            (answer, target),
            EXPRESSION_SECONDS,
            "comparison",
            kwargs={"validate_reference": False},
        )
    except Exception:  # noqa: BLE001 - what cannot be read as mathematics is not equal
        return False
    return bool(found.matched)


_OWN = {EXACT_ADAPTER: ExactMatchAdapter, ANSWER_ADAPTER: AnswerAdapter}


def ensure_registered(adapter: str) -> bool:
    """Register ``adapter`` with EvalScope if it is one of apbmm's own.

    Returns whether EvalScope's registry then has it.
    """
    if adapter in BENCHMARK_REGISTRY:
        return True
    if not is_own_adapter(adapter):
        return False
    kind = _OWN.get(adapter, DemoAdapter)
    register_benchmark(
        BenchmarkMeta(
            name=adapter,
            # EvalScope never looks this up: a local path always replaces it.
            dataset_id=adapter,
            pretty_name=adapter,
            description="JSON Lines of id, question and answer.",
            subset_list=["test"],
            eval_split="test",
            metric_list=["acc"],
            few_shot_num=0,
            prompt_template="{question}",
        )
    )(kind)
    return True


_INFERENCE = ("run_inference", "_on_inference_start", "_on_inference", "_on_inference_end")
"""The methods in which an adapter asks its model, and makes of the answer what EvalScope keeps."""


def asks_once(adapter: Any) -> bool:
    """Whether an adapter asks each question once, and its result has the tokens of that answer.

    EvalScope's own methods do, where no agent is configured. Of an adapter with methods of its own
    it is not known: those of several turns keep the tokens of their last answer alone.
    """
    task = getattr(adapter, "_task_config", None)
    return (
        isinstance(adapter, DefaultDataAdapter)
        and all(
            getattr(getattr(adapter, name), "__func__", None) is getattr(DefaultDataAdapter, name)
            for name in _INFERENCE
        )
        and getattr(task, "agent_config", None) is None
        and EVALUATOR_REGISTRY.get(adapter.name) is None
    )


def unknown_arguments(adapter: str, arguments: Iterable[str]) -> tuple[str, ...]:
    """Those of ``arguments`` that EvalScope would ignore: no setting of a benchmark has the name.

    Names of ``extra_params`` are not looked at: EvalScope refuses unknown ones itself. Those of
    ``apbmm_answer`` do not go to EvalScope.
    """
    if adapter == ANSWER_ADAPTER:
        return ()
    ensure_registered(adapter)
    known = {field.name for field in dataclasses.fields(BENCHMARK_REGISTRY[adapter])}
    return tuple(name for name in arguments if name not in known)
