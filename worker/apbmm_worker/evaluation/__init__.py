"""The evaluation of one merge by EvalScope: its questions, its answers and its scores.

EvalScope runs in a process of its own, the scoring process. The process that holds the engine
imports from here what is free of EvalScope:

scoring_client    `ScoringClient`: starts the scoring process, forwards answers, receives results
scoring_protocol  the messages between the two processes, and `EvalScopeResult`
outcomes          `benchmark_result`: the metrics of answered questions; rehearsals use it, too
asking_order      `asking_order`: the order in which a run asks its questions
kept_answers      the engine's answers as the master keeps them

The scoring process (`scoring_process`) imports the others, which import EvalScope or run it:

own_adapters  `register_own_adapters`: the adapters of a run's own Python file
questions   `prepare_benchmarks`: the questions of a run, chosen and rendered once for all merges
evaluate    `evaluate`: the answers of one merge, scored
answering_model  `AnsweringModel`: the merge as a model of EvalScope's
adapters    `ensure_registered`: which benchmarks there are, apbmm's own among them
math_calls  `MathCalls`: EvalScope's mathematical extractions and comparisons, without forks
target_scores  `score_targets`: whether each right answer scores 1 when it is the model's

No other room imports EvalScope.
"""

__all__ = [
    "adapters",
    "answering_model",
    "asking_order",
    "evaluate",
    "kept_answers",
    "math_calls",
    "outcomes",
    "own_adapters",
    "questions",
    "scoring_client",
    "scoring_process",
    "scoring_protocol",
    "target_scores",
]
