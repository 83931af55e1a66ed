"""The run file: what a run is.

- `RunSpec` is a whole run, and the `...Section` classes are its tables: every key with its type,
  range, default and description. They also travel to the workers.
- `load_run_file` reads a file, `parse_run` validates its tables. Both raise `RunFileError`, which
  names every fault at once. `run_as_toml` writes one.
- `Space` says what the components of a decision vector mean, `block_of` and `block_by_borders`
  which block of layers each layer belongs to, `parts_of_tensors` which part of its layer a tensor
  is in, `searched_parts` which parts a run searches, `reference_vector` which vector stands for one
  source alone.

The modules: `schema` (the keys), `load` (reading, and faults in words), `engine_limits` (vLLM's
arguments that a run file may not set), `blocks`, `space`, `descriptions` (what each key means),
`json_schema` (the keys, for editors).
"""

from apbmm_common.run_file.blocks import block_by_borders, block_of
from apbmm_common.run_file.load import load_run_file, parse_run, run_as_toml
from apbmm_common.run_file.schema import (
    LEAST_SOURCES,
    PAPER_OBJECTIVES,
    AlgorithmSection,
    BenchmarkSection,
    BudgetSection,
    EngineSection,
    EvaluationSection,
    GenerationSection,
    MergeSection,
    ObjectiveSection,
    PriorSection,
    RunSpec,
    SourcesSection,
    StepsSection,
    TimingsSection,
)
from apbmm_common.run_file.space import (
    Space,
    part_names,
    parts_of_tensors,
    reference_vector,
    searched_parts,
)

__all__ = [
    "LEAST_SOURCES",
    "PAPER_OBJECTIVES",
    "AlgorithmSection",
    "BenchmarkSection",
    "BudgetSection",
    "EngineSection",
    "EvaluationSection",
    "GenerationSection",
    "MergeSection",
    "ObjectiveSection",
    "PriorSection",
    "RunSpec",
    "SourcesSection",
    "Space",
    "StepsSection",
    "TimingsSection",
    "block_by_borders",
    "block_of",
    "load_run_file",
    "parse_run",
    "part_names",
    "parts_of_tensors",
    "reference_vector",
    "run_as_toml",
    "searched_parts",
]
