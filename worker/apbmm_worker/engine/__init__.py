"""The resident inference engine: started once per worker, then given one merge after another.

- `kinds` names the engines that a run file may choose.
- `resident` is the engine that an evaluation uses, on the thread of `driver`.
- `hot_load` decides how merges reach it, and `resident_sources` keeps the sources in memory for it.
- `source_answers` compares the engine's answers from a source with those from its merge.
- `token_progress` reports progress from the engine's steps.
- `checksum` compares tensors by their bits, and takes digests of checkpoints.
- `vllm` is the only room that imports vLLM.

`child` uses `kinds`, `resident`, `hot_load` and `token_progress`; `evaluation` uses `driver`, and
`apbmm check` asks `kinds`. Nothing
heavy is imported here.
"""

__all__ = [
    "checksum",
    "driver",
    "hot_load",
    "kinds",
    "resident",
    "resident_sources",
    "source_answers",
    "token_progress",
    "vllm",
]
