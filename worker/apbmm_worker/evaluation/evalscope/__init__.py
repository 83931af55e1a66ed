"""The scoring process, with all code that imports EvalScope; no other room imports it.

scoring_process  the process itself: it reads messages of `evaluation.scoring`
own_adapters     `register_own_adapters`: the adapters of a run's own Python file
questions        `prepare_benchmarks`: the questions of a run, chosen and rendered once for all
evaluate         `evaluate`: the answers of one merge, scored
answering_model  `AnsweringModel`: the merge as a model of EvalScope's
thoughts         what of an answer is thought, and what is said
adapters         `ensure_registered`: which benchmarks there are, apbmm's own among them
math_calls       `MathCalls`: EvalScope's mathematical extractions and comparisons, without forks
target_scores    `score_targets`: whether each right answer scores 1 when it is the model's
logging_guard    EvalScope's own logging, kept from ours

The process in which `apbmm check` renders questions imports from here as well.
"""

__all__ = [
    "adapters",
    "answering_model",
    "evaluate",
    "math_calls",
    "own_adapters",
    "questions",
    "scoring_process",
    "target_scores",
]
