"""What the real vLLM and EvalScope take for the evaluation of a merge."""
