"""The evaluation of one merge by EvalScope: its questions, its answers and its scores.

EvalScope runs in a process of its own, the scoring process, whose code is in `evalscope`. What
stands here is free of EvalScope, and the process that holds the engine imports it:

scoring           `ScoringClient`: starts the scoring process, forwards answers, receives results
answering         what an evaluation uses of an engine, and who is told of its answers
scoring_protocol  the messages between the two processes, and `EvalScopeResult`
outcomes          `benchmark_result`: the metrics of answered questions; rehearsals use it, too
asking_order      `asking_order`: the random order of a run; `AnswerLengths`: the longest first
cut_off           `CutOff`: ends an evaluation with what is answered
kept_answers      the engine's answers as the master keeps them
demo_answers      prompt and answer format of the demo pair's benchmarks
"""

__all__ = [
    "answering",
    "asking_order",
    "cut_off",
    "demo_answers",
    "evalscope",
    "kept_answers",
    "outcomes",
    "scoring",
    "scoring_protocol",
]
