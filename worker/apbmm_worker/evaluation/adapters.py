"""EvalScope's benchmark adapters, and apbmm's own: JSON Lines of id, question and answer.

apbmm's own are scored by exact match. ``apbmm_exact`` compares the whole answer, and
``apbmm_demo_<family>`` the symbol after the marker, which is how the demo pair writes its answers.
"""

from __future__ import annotations

from typing import Any

from apbmm_common.run_file.schema import EXACT_ADAPTER, is_own_adapter
from apbmm_worker.evaluation import demo_answers
from apbmm_worker.evaluation.logging_guard import preserved_logging

with preserved_logging():
    import evalscope.benchmarks  # noqa: F401 - with which EvalScope's registry knows them
    from evalscope.api.benchmark import BenchmarkMeta, DefaultDataAdapter
    from evalscope.api.dataset import Sample
    from evalscope.api.evaluator import TaskState
    from evalscope.api.metric import Score
    from evalscope.api.registry import BENCHMARK_REGISTRY, register_benchmark

WELL_FORMED = "well_formed"


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

    def extract_answer(self, prediction: str, task_state: TaskState) -> str:  # noqa: ARG002
        """What EvalScope shows as the answer; empty for a malformed text."""
        return self.answer_in(prediction) or ""

    def match_score(
        self,
        original_prediction: str,
        filtered_prediction: str,
        reference: str,
        task_state: TaskState,  # noqa: ARG002
    ) -> Score:
        """1 for the right answer, else 0. A malformed text is wrong and marked as malformed."""
        answer = self.answer_in(original_prediction)
        right = answer is not None and answer.strip() == reference.strip()
        return Score(
            value={"acc": float(right)},
            extracted_prediction=filtered_prediction,
            prediction=original_prediction,
            main_score_name="acc",
            metadata={WELL_FORMED: answer is not None},
        )


class DemoAdapter(ExactMatchAdapter):
    """A family of the demo pair's problems."""

    def answer_in(self, text: str) -> str | None:
        """The symbol after the marker."""
        return demo_answers.extract_answer(text)


def ensure_registered(adapter: str) -> bool:
    """Register ``adapter`` with EvalScope if it is one of apbmm's own.

    Returns whether EvalScope's registry then has it.
    """
    if adapter in BENCHMARK_REGISTRY:
        return True
    if not is_own_adapter(adapter):
        return False
    kind = ExactMatchAdapter if adapter == EXACT_ADAPTER else DemoAdapter
    register_benchmark(
        BenchmarkMeta(
            name=adapter,
            # EvalScope never looks this up: a local path always replaces it.
            dataset_id=adapter,
            pretty_name=adapter,
            description="JSON Lines of id, question and answer, scored by exact match.",
            subset_list=["test"],
            eval_split="test",
            metric_list=["acc"],
            few_shot_num=0,
            prompt_template="{question}",
        )
    )(kind)
    return True
