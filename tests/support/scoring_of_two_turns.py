"""The scoring process with a benchmark adapter that asks each question, and then something else.

The second turn depends on the first one's answer, so it cannot be prepared.
"""

from __future__ import annotations

import re
from typing import Any

from evalscope.api.benchmark import BenchmarkMeta
from evalscope.api.messages import ChatMessageUser
from evalscope.api.registry import register_benchmark

from apbmm_worker.evaluation.evalscope.adapters import ExactMatchAdapter
from apbmm_worker.evaluation.evalscope.scoring_process import main

ADAPTER = "two_turns"


class TwoTurns(ExactMatchAdapter):
    """The second answer is scored."""

    def _on_inference(self, model: Any, sample: Any) -> Any:
        first = model.generate(input=sample.input)
        number = re.sub(r"\D", "", first.completion)
        again = ChatMessageUser(content=f"{number} plus 1 again?")
        return model.generate(input=[*sample.input, first.message, again])


register_benchmark(
    BenchmarkMeta(
        name=ADAPTER,
        dataset_id=ADAPTER,
        pretty_name=ADAPTER,
        description="Questions of two turns.",
        subset_list=["test"],
        eval_split="test",
        metric_list=["acc"],
        few_shot_num=0,
        prompt_template="{question}",
    )
)(TwoTurns)


if __name__ == "__main__":
    main()
