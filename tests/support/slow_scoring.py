"""Adapters of a run's own that take long to score, or ask the engine when they score."""

from __future__ import annotations

import os
import time
from typing import Any

from evalscope.api.benchmark import BenchmarkMeta, DefaultDataAdapter
from evalscope.api.dataset import Sample
from evalscope.api.evaluator import TaskState
from evalscope.api.messages import ChatMessageUser
from evalscope.api.registry import register_benchmark

MARK = "Capital:"


class Capitals(DefaultDataAdapter):  # type: ignore[misc]
    """Capitals of countries, from rows with the columns country and capital."""

    def load_from_disk(self, **_: Any) -> Any:
        """Read the folder that the run file names."""
        return super().load_from_disk(use_local_loader=True)

    def record_to_sample(self, record: dict[str, Any]) -> Sample:
        """A row as EvalScope asks it."""
        return Sample(input=record["country"], target=record["capital"])

    def extract_answer(self, prediction: str, task_state: TaskState) -> str:  # noqa: ARG002
        """What follows the last mark."""
        return prediction.rpartition(MARK)[2].strip().rstrip(".")

    def right_answer(self, sample: Sample) -> str:
        """A right answer."""
        return f"{MARK} {sample.target}"


def meta(name: str) -> BenchmarkMeta:
    """The registration of an adapter."""
    return BenchmarkMeta(
        name=name,
        dataset_id=name,
        subset_list=["capitals"],
        eval_split="test",
        metric_list=["acc"],
        prompt_template="Name the capital of {question}.",
    )


@register_benchmark(meta("slow_capitals"))
class SlowCapitals(Capitals):
    """Takes SLOW_SCORING seconds for an answer that does not begin with the mark."""

    def extract_answer(self, prediction: str, task_state: TaskState) -> str:
        """As above, later."""
        if not prediction.startswith(MARK):
            time.sleep(float(os.environ["SLOW_SCORING"]))
        return super().extract_answer(prediction, task_state)


@register_benchmark(meta("late_capitals"))
class LateCapitals(SlowCapitals):
    """Asks the engine for another answer before it scores one that does not begin with the mark."""

    _model: Any = None

    def _on_inference(self, model: Any, sample: Any) -> Any:
        self._model = model
        return super()._on_inference(model, sample)

    def extract_answer(self, prediction: str, task_state: TaskState) -> str:
        """What another answer says."""
        found = super().extract_answer(prediction, task_state)
        if prediction.startswith(MARK):
            return found
        asked = self._model.generate(input=[ChatMessageUser(content=f"Is it {found}?")])
        return super().extract_answer(f"{MARK} {asked.completion}", task_state)
