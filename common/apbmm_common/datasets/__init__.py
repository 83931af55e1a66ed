"""The files that questions and prompts come from.

- `benchmark_folders`: a benchmark's data read as its adapter needs it, and which of its questions
  are asked (`selection`, `chosen_questions`);
- `data_files`: the rows of JSON Lines, JSON, CSV and Parquet files;
- `prompts`: the prompts of the activation discrepancy (`read_prompts`);
- `demo_pair`: where the shipped pair of models, its problems and its run file lie.

`SourceError` is raised for files that are missing, damaged or incomplete, with file and row.
"""

__all__ = ["benchmark_folders", "data_files", "demo_pair", "prompts"]
