"""Exact match whose report takes REPORT_SECONDS longer, for measurements: a run's own adapter."""

from __future__ import annotations

import os
import time
from typing import Any

from evalscope.api.benchmark import BenchmarkMeta
from evalscope.api.registry import register_benchmark

from apbmm_worker.evaluation.evalscope.adapters import ExactMatchAdapter

ADAPTER = "slow_report"


@register_benchmark(
    BenchmarkMeta(
        name=ADAPTER,
        dataset_id=ADAPTER,
        subset_list=["test"],
        eval_split="test",
        metric_list=["acc"],
        few_shot_num=0,
        prompt_template="{question}",
    )
)
class SlowReport(ExactMatchAdapter):
    """Waits when all answers are scored."""

    def aggregate_scores(self, sample_scores: Any) -> Any:
        """EvalScope's aggregation, later."""
        time.sleep(float(os.environ["REPORT_SECONDS"]))
        return super().aggregate_scores(sample_scores)
