"""vLLM behind the engine's protocols; no other room imports vLLM.

- `arguments` makes vLLM's arguments from a run file, and `features` hides what differs between its
  versions.
- `backend` is the engine that `engine.driver` drives.
- `extension` runs within vLLM's workers, with `live_weights` and `packing`, which find and write
  the weights of a live model, and `weight_verification`, which compares them with a checkpoint.

`engine.resident` uses `arguments` and `backend`; `child` uses `arguments` and `features`.
"""

__all__ = [
    "arguments",
    "backend",
    "extension",
    "features",
    "live_weights",
    "packing",
    "weight_verification",
]
