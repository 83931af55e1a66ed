"""The evaluation of one merge by EvalScope: its questions, its answers and its scores.

Other rooms import these modules from here, where they use them, because all but `outcomes` import
EvalScope, which takes seconds:

questions   `prepare_benchmarks`: the questions of a run, chosen and rendered once for all merges
evaluate    `evaluate`: the answers of one merge, scored
outcomes    `benchmark_result`: the metrics of answered questions; rehearsals use it, too
adapters    `ensure_registered`: which benchmarks there are, apbmm's own among them

No other room imports EvalScope.
"""

__all__ = ["adapters", "evaluate", "outcomes", "questions"]
