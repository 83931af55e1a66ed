"""The files that questions and prompts come from.

- `benchmark_folders`: whether a benchmark's folder is complete, and which of its questions are
  asked (`check_folder`, `choose_questions`);
- `prompts`: the prompts of the activation discrepancy (`read_prompts`);
- `demo_pair`: where the shipped pair of models, its problems and its run file lie.

`SourceError` is raised for files that are missing, damaged or incomplete.
"""

__all__ = ["benchmark_folders", "demo_pair", "prompts"]
