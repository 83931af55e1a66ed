"""The resident inference engine: started once per worker, then given one merge after another.

- `resident` is the engine that an evaluation uses, on the thread of `driver`.
- `hot_load` decides how merges reach it, and `resident_sources` keeps the sources in memory for it.
- `token_progress` reports progress from the engine's steps; `stage_times` times stages.
- `checksum` compares tensors by their bits.
- `vllm` is the only room that imports vLLM.

`child` uses `resident`, `hot_load` and `token_progress`; `evaluation` uses `driver`. Nothing
heavy is imported here.
"""

__all__ = [
    "checksum",
    "driver",
    "hot_load",
    "resident",
    "resident_sources",
    "stage_times",
    "token_progress",
    "vllm",
]
