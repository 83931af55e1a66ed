"""An example of a run's own adapters, which the documentation shows: the run file's `adapters`."""

from __future__ import annotations

from typing import Any

from evalscope.api.benchmark import BenchmarkMeta, DefaultDataAdapter
from evalscope.api.dataset import Sample
from evalscope.api.evaluator import TaskState
from evalscope.api.registry import register_benchmark


@register_benchmark(
    BenchmarkMeta(
        name="capitals",
        dataset_id="capitals",
        subset_list=["capitals"],
        eval_split="test",
        metric_list=["acc"],
        prompt_template="Name the capital of {question}. End with: Capital: NAME",
    )
)
class Capitals(DefaultDataAdapter):  # type: ignore[misc]
    """Capitals of countries, from `capitals.jsonl` with the columns country and capital."""

    def load_from_disk(self, **_: Any) -> Any:
        """Read the folder that the run file names."""
        return super().load_from_disk(use_local_loader=True)

    def record_to_sample(self, record: dict[str, Any]) -> Sample:
        """A row as EvalScope asks it."""
        return Sample(input=record["country"], target=record["capital"])

    def extract_answer(self, prediction: str, task_state: TaskState) -> str:  # noqa: ARG002
        """What follows the last `Capital:`."""
        return prediction.rpartition("Capital:")[2].strip().rstrip(".")

    def right_answer(self, sample: Sample) -> str:
        """A right answer as a model writes it: with this, every target is scored beforehand."""
        return f"Capital: {sample.target}"
