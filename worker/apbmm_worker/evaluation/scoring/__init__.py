"""The scoring process as the engine's process sees it: started before the engine, fed with answers.

- `client` has `ScoringClient`: an evaluation from its first question to its scores.
- `answers_in_flight` sends the engine's answers to the scoring process, and does what that asks
  for.
- `engine_loan` frees the engine for the next merge while the report on this one is made.
- `process` starts the scoring process, writes to it and reads from it.

EvalScope is not imported here, nor may it be in any process that holds vLLM.
"""

__all__ = ["answers_in_flight", "client", "engine_loan", "process"]
