"""The run file: what a run is.

- `RunSpec` is a whole run, and the `...Section` classes are its tables: every key with its type,
  range, default and description. They also travel to the workers.
- `load_run_file` reads a file, `parse_run` validates its tables. Both raise `RunFileError`, which
  names every fault at once. `run_as_toml` writes one.
- `Space` says what the components of a decision vector mean, `block_of` and `block_by_borders`
  which block of layers each layer belongs to, `parts_of_tensors` which part of its layer a tensor
  is in, `searched_parts` which parts a run searches, `reference_vector` which vector stands for one
  source alone.

A key is looked up in `sections`, a module for each subject; those at the top of the file are in
`run_spec`, and so is what follows from a whole run (its paths, its hash). `rules_between_tables`
says which tables do not go together, `paths` finds tables and paths within tables. The others:
`load` (reading, and faults in words), `space`, `descriptions` (what each key means), `json_schema`
(the keys, for editors), `blocks`, `constraints`, `engine_limits` (vLLM's arguments that a run file
may not set).
"""

from apbmm_common.run_file.blocks import block_by_borders, block_of
from apbmm_common.run_file.load import load_run_file, parse_run, run_as_toml
from apbmm_common.run_file.run_spec import RunSpec
from apbmm_common.run_file.sections.benchmarks import BenchmarkSection
from apbmm_common.run_file.sections.budget import BudgetSection, StepsSection
from apbmm_common.run_file.sections.engine import EngineSection, EvaluationSection
from apbmm_common.run_file.sections.generation import GenerationSection
from apbmm_common.run_file.sections.merge import MergeSection
from apbmm_common.run_file.sections.objectives import PAPER_OBJECTIVES, ObjectiveSection
from apbmm_common.run_file.sections.search import AlgorithmSection, PriorSection
from apbmm_common.run_file.sections.sources import LEAST_SOURCES, SourcesSection
from apbmm_common.run_file.sections.timings import TimingsSection
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
