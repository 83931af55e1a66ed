"""vLLM behind the engine's protocols; no other room imports vLLM.

- `kind` is the entry of `engine.kinds`.
- `arguments` makes vLLM's arguments from a run file, and `features` hides what differs between its
  versions.
- `backend` is the engine that `engine.driver` drives; `start_failure` finds out why it did not
  start.
- `extension` runs within vLLM's workers, with `live_weights`, which finds, writes and packs the
  weights of a live model, and `weight_verification`, which compares them with a checkpoint.

Other rooms use `kind` alone.
"""

__all__ = [
    "arguments",
    "backend",
    "extension",
    "features",
    "kind",
    "live_weights",
    "start_failure",
    "weight_verification",
]
