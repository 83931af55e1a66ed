"""What `apbmm check` finds out about a run: every fault at once, and what would run. No torch."""

from __future__ import annotations

import ast
import asyncio
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path

from apbmm.check.generation import generation_notes
from apbmm.check.questions import FirstQuestion, first_question, rendered_notes, rendered_warnings
from apbmm.questions.ask import render_questions, require_evalscope
from apbmm.questions.messages import RenderedBenchmark
from apbmm.results.words import in_list
from apbmm_common.checkpoint.compatibility import (
    compatibility_faults,
    compatibility_warnings,
    identical,
    identical_files,
)
from apbmm_common.checkpoint.config_differences import ROPE_TABLES
from apbmm_common.checkpoint.headers import (
    Checkpoint,
    is_broken_link,
    layer_count,
    read_object,
    text_config,
)
from apbmm_common.checkpoint.identical_layers import identical_layers
from apbmm_common.checkpoint.lora_adapters import read_adapted
from apbmm_common.checkpoint.remote_code import own_code, require_code
from apbmm_common.checkpoint.roles import BASE_ROLE
from apbmm_common.checkpoint.tensor_groups import outside_groups
from apbmm_common.checkpoint.vocabularies import vocabulary_size, with_common_vocabulary
from apbmm_common.datasets.benchmark_folders.layouts import LAYOUTS, layout_of
from apbmm_common.datasets.benchmark_folders.selection import places_of, select_questions
from apbmm_common.datasets.prompts import read_prompts
from apbmm_common.errors import ApbmmError, RunFileError, SourceError, UsageError, unreadable
from apbmm_common.metrics import METRICS
from apbmm_common.run_file import (
    BudgetSection,
    EngineSection,
    GenerationSection,
    MergeSection,
    PriorSection,
    RunSpec,
    Space,
    load_run_file,
    searched_parts,
)
from apbmm_common.run_file.load import read_table
from apbmm_common.run_file.paths import paths_in
from apbmm_common.run_file.sections.confirm import ConfirmSection
from apbmm_worker.engine.kinds import require_kind

SHORT_SECONDS = 10.0
"""An evaluation that takes less is rare: vLLM starts for longer."""
TOKENIZER_CONFIG = "tokenizer_config.json"
NO_SEARCH = (
    "this host cannot run apbmm-master: pip install '.[master]', in the folder of apbmm's sources, "
    "adds what it needs"
)


@dataclass
class Inspection:
    """What a dry run found. ``spec`` is None when the tables of the run file are not valid."""

    run_file: Path
    spec: RunSpec | None = None
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    """What most likely spoils a run, although it would begin."""
    notes: list[str] = field(default_factory=list)
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    identical_layers: tuple[int, ...] = ()
    """Layers that are not searched: their tensors are the same in all sources."""
    space: Space | None = None
    """What is searched, where the sources can be merged; blocks yet to be found are one."""
    code: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Python files that come with a checkpoint, by role; only where there are any."""
    questions: dict[str, int | None] = field(default_factory=dict)
    """Questions of each benchmark; None where apbmm does not know how many it has."""
    kept_for_confirm: dict[str, int] = field(default_factory=dict)
    """Questions of each benchmark that ``holdout`` keeps out of the search."""
    first_questions: dict[str, FirstQuestion] = field(default_factory=dict)
    """By benchmark, where apbmm knows the adapter's files."""
    rendered: dict[str, RenderedBenchmark] = field(default_factory=dict)
    """The benchmarks as EvalScope reads them; empty where it was not asked."""

    def fault(self, error: ApbmmError, name: str = "") -> None:
        """Add a fault; its hint goes into the same line."""
        text = f"{name}: {error}" if name else str(error)
        if text not in self.faults:
            self.faults.append(text)


def inspect(run_file: Path) -> Inspection:
    """Look at everything that a run file names, without torch and without changing anything.

    Where a run file's own tables are not valid, only the existence of its paths is looked at.
    """
    from apbmm_master.run_checks import load_run

    found = Inspection(run_file)
    try:
        found.spec = load_run(run_file)
    except RunFileError as error:
        if not error.faults:
            found.fault(error)
            return found
        found.faults += error.faults
        with suppress(RunFileError):  # the tables may be valid all the same
            found.spec = load_run_file(run_file)
    if find_spec("botorch") is None:
        found.notes.append(NO_SEARCH)
    if found.spec is not None:
        found.notes += _budget_notes(found.spec.budget, len(found.spec.sources.names))
    if found.spec is None:
        _inspect_paths(found)
    elif found.spec.evaluation.kind != "rehearsal":  # which reads no files
        _inspect_sources(found, found.spec)
        _inspect_benchmarks(found, found.spec)
        _inspect_prompts(found, found.spec.prior)
        _inspect_adapters(found, found.spec)
        _inspect_objectives(found, found.spec)
    return found


def inspect_questions(found: Inspection, *, required: bool, allowed_code: bool = False) -> None:
    """Have EvalScope read the benchmarks of a run without faults, and render all questions.

    Every right answer is scored as if the model had given it. Adds the first questions as the
    model will see them, faults and notes to ``found``. Takes as long as EvalScope's import, 3 to 16
    seconds, and some milliseconds for each answer that is compared as mathematics. Unless it is
    ``required``, a note says why this was not possible. Python code that the run asks for is run
    only if it is ``allowed_code``.
    """
    spec = found.spec
    assert spec is not None
    if spec.adapters is not None and not allowed_code:
        found.notes.append(
            f"{spec.adapters} is not run without --allow-remote-code, so prompts and right answers "
            "were not checked"
        )
        return
    try:
        require_evalscope()
        print(  # noqa: T201
            "EvalScope is loaded and reads the benchmarks, which takes it 10 s to a minute "
            "(--no-questions leaves it out)",
            file=sys.stderr,
            flush=True,
        )
        with tempfile.TemporaryDirectory(prefix="apbmm-check-") as scratch:
            asked = render_questions(
                _with_confirmed(spec), Path(scratch), 1, allowed_code=allowed_code, targets=True
            )
            found.rendered = asyncio.run(asked)
    except ApbmmError as error:
        if required or (isinstance(error, UsageError) and find_spec("evalscope")):
            found.fault(error)
        else:
            found.notes.append(f"prompts and right answers were not checked: {error.message}")
    for name, benchmark in found.rendered.items():
        notes = rendered_notes(benchmark, found.first_questions.get(name))
        notes += benchmark.target_notes
        faults = list(benchmark.target_faults)
        if benchmark.distinct == 1 < benchmark.count:
            unknown = f" ({benchmark.unknown_share:.0%} of the tokens are unknown to it)"
            faults.append(
                "all its questions have the same prompt: a template leaves them out, or the "
                f"tokenizer does not tell them apart{unknown if benchmark.unknown_share else ''}"
            )
        found.faults += [f"benchmark {name}: {fault}" for fault in faults]
        found.warnings += [f"benchmark {name}: {each}" for each in rendered_warnings(benchmark)]
        found.notes += [f"benchmark {name}: {note}" for note in notes]


def _with_confirmed(spec: RunSpec) -> RunSpec:
    """The run with the benchmarks that its front is confirmed on among those of the search."""
    benchmarks = (*spec.benchmarks, *spec.confirm.benchmarks)
    return spec.model_copy(update={"benchmarks": benchmarks, "confirm": ConfirmSection()})


def _budget_notes(budget: BudgetSection, references: int) -> Iterator[str]:
    if budget.evaluations is not None and budget.initial >= budget.evaluations:
        yield (
            f"budget.initial: all {budget.evaluations} evaluations are initial ones, so no search "
            "takes place: lower initial, or raise evaluations"
        )
    least = references + budget.initial + 1
    each = (budget.gpu_hours or math.inf) * 3600 / least
    if each < SHORT_SECONDS:
        yield (
            f"budget.gpu_hours: {budget.gpu_hours:g} GPU-hours are {each:.2g} s for each of the "
            f"{references} references, the {budget.initial} initial evaluations and one of the "
            "search: apbmm check --probe says what an evaluation takes"
        )


def _inspect_paths(found: Inspection) -> None:
    """Add a fault for every path that does not exist, of a run file whose tables are not valid."""
    table = read_table(found.run_file)
    evaluation = table.get("evaluation")
    if isinstance(evaluation, Mapping) and evaluation.get("kind") == "rehearsal":
        return
    for key in paths_in(table, RunSpec):
        try:
            if key.path is not None and not Path(key.path).exists():
                found.faults.append(f"{key.place}: {key.path}: no such file or folder")
        except OSError as error:
            found.fault(unreadable(Path(error.filename), error), key.place)


# ---- the files that a valid run file names -----------------------------------------------------


def _inspect_sources(found: Inspection, spec: RunSpec) -> None:
    folders, names = spec.sources.with_base, spec.sources.names
    adapters = spec.sources.lora_adapters
    for role, path in folders.items():
        try:
            adapter = adapters.get(role)
            found.checkpoints[role] = read_adapted(Path(path), Path(adapter) if adapter else None)
        except SourceError as error:
            found.fault(error, f"sources.{role}")
    if found.checkpoints.keys() == folders.keys() and spec.merge.vocabulary == "common":
        _take_common_vocabulary(found)
    checkpoints = found.checkpoints
    _inspect_engine(found, spec.engine)
    _inspect_code(found, spec.engine)
    _inspect_generation(found, spec.generation)
    if names[-1] in checkpoints:
        _inspect_blocks(found, spec.merge, checkpoints[names[-1]])
    if checkpoints.keys() != folders.keys():
        return
    pairs = combinations(names, 2)
    same = [pair for pair in pairs if identical_files(*(checkpoints[name] for name in pair))]
    if same:
        found.faults += [f"sources: {identical(pair)}" for pair in same]
    elif faults := compatibility_faults(
        checkpoints, common_vocabulary=spec.merge.vocabulary == "common"
    ):
        found.faults += [f"sources: {fault}" for fault in faults]
    else:
        found.notes += compatibility_warnings(checkpoints)
        _inspect_layers(found)


def _take_common_vocabulary(found: Inspection) -> None:
    """Cut the sources to the rows that all have; a note, or a fault where they do not suffice."""
    sizes = {role: vocabulary_size(checkpoint) for role, checkpoint in found.checkpoints.items()}
    try:
        found.checkpoints = with_common_vocabulary(found.checkpoints)
    except SourceError as error:
        found.fault(error, "merge")
        return
    for role, checkpoint in found.checkpoints.items():
        if sizes[role] != (rows := vocabulary_size(checkpoint)):
            found.notes.append(
                f"vocabulary: merges have {rows} rows, and {role} has {sizes[role]}: the rest is "
                "left out"
            )


def _inspect_engine(found: Inspection, engine: EngineSection) -> None:
    try:
        require_kind(engine.kind)
    except RunFileError as error:
        found.fault(error)
    for role, checkpoint in found.checkpoints.items():
        named = checkpoint.config.get("architectures")
        if role != BASE_ROLE and not (isinstance(named, list) and named):
            found.faults.append(
                f"sources.{role}: architectures in {checkpoint.path / 'config.json'} is {named!r}, "
                "but must list the model's class, by which engines find its code"
            )


def _inspect_code(found: Inspection, engine: EngineSection) -> None:
    for role, checkpoint in found.checkpoints.items():
        code = own_code(checkpoint.path)
        if code:
            found.code[role] = code
            try:
                require_code(checkpoint.path, remote_code=engine.remote_code)
            except SourceError as error:
                found.fault(error, f"sources.{role}")


def _inspect_blocks(found: Inspection, merge: MergeSection, checkpoint: Checkpoint) -> None:
    with suppress(SourceError):  # layers that cannot be counted are a fault of their own
        layers = layer_count(checkpoint)
        try:
            merge.block_of(layers)
        except RunFileError as error:
            found.fault(error)


def _inspect_layers(found: Inspection) -> None:
    """Find the layers that are not searched; a fault where none is left to search."""
    merged = [each for role, each in found.checkpoints.items() if role != BASE_ROLE]
    try:
        found.identical_layers = identical_layers(merged)
        if found.spec is not None:
            groups = outside_groups(merged)
            layers, identical = layer_count(merged[-1]), found.identical_layers
            parts = searched_parts(found.spec.merge, merged)
            found.space = Space.of(found.spec, layers, groups, identical, parts)
    except (SourceError, RunFileError) as error:
        found.fault(error)


def _inspect_generation(found: Inspection, generation: GenerationSection) -> None:
    source = found.checkpoints.get(generation.template_from)
    if source is not None and not _has_chat_template(source.path):
        found.faults.append(
            f"generation.template_from: {source.path} has no chat template "
            "(hint: it is in tokenizer_config.json or chat_template.jinja)"
        )
    if source is not None and not (source.path / TOKENIZER_CONFIG).exists():
        found.notes.append(
            f"generation.template_from: {source.path} has no {TOKENIZER_CONFIG}, so transformers "
            "takes the tokenizer of its model type, which may read text otherwise"
        )
    found.notes += generation_notes(found.checkpoints, generation)
    short: dict[int, list[str]] = {}
    for role, checkpoint in found.checkpoints.items():
        config = text_config(checkpoint.config)
        longest = config.get("max_position_embeddings")
        tables = [table for key in ROPE_TABLES if isinstance(table := config.get(key), dict)]
        tables += [table for each in tables for table in each.values() if isinstance(table, dict)]
        scaled = any(table.get("factor") for table in tables)
        if role == BASE_ROLE or scaled or not isinstance(longest, int):
            continue
        if generation.context > longest:
            short.setdefault(longest, []).append(role)
    if short:
        each = [
            f"{in_list(roles)} {'have' if len(roles) > 1 else 'has'} positions for {longest}"
            for longest, roles in sorted(short.items())
        ]
        found.faults.append(
            f"generation.context: {generation.context} tokens, but {' and '.join(each)}"
        )


def _has_chat_template(folder: Path) -> bool:
    """Whether a folder's tokenizer comes with a chat template.

    True also where the file that would hold it cannot be read, which is a fault of its own.
    """
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():  # it counts before any other, though it be empty
        return jinja.stat().st_size > 0
    if (folder / "chat_template.json").is_file():
        return True
    file = folder / TOKENIZER_CONFIG
    if not file.is_file():
        return is_broken_link(file)
    try:
        return bool(read_object(file).get("chat_template"))
    except SourceError:
        return True


def _inspect_benchmarks(found: Inspection, spec: RunSpec) -> None:
    for benchmark in (*spec.benchmarks, *spec.confirm.benchmarks):
        # Adapters of the run's own are known only when their file is run.
        if spec.adapters is None and not is_known_adapter(benchmark.adapter):
            found.faults.append(f"benchmark {benchmark.name}: {unknown_adapter(benchmark.adapter)}")
        try:
            selection = select_questions(benchmark, places_of(benchmark), spec.generation.seed)
        except SourceError as error:
            found.fault(error)
        else:
            known = selection.positions is not None
            count = len(selection.records) if known else benchmark.questions
            found.questions[benchmark.name] = count
            if not benchmark.held_out:
                found.kept_for_confirm[benchmark.name] = selection.left_to_other
            first = first_question(selection.records)
            if first is not None:
                found.first_questions[benchmark.name] = first
            found.notes += [f"benchmark {benchmark.name}: {note}" for note in selection.notes]


def _inspect_prompts(found: Inspection, prior: PriorSection) -> None:
    if prior.prompts is not None:
        try:
            read_prompts(Path(prior.prompts), sys.maxsize)
        except SourceError as error:
            found.fault(error, "prior.prompts")


def _inspect_adapters(found: Inspection, spec: RunSpec) -> None:
    """Add a fault for a file of adapters that is not there or is no Python; runs nothing of it."""
    if spec.adapters is None:
        return
    file = Path(spec.adapters)
    try:
        ast.parse(file.read_bytes(), str(file))
    except OSError as error:
        found.fault(unreadable(file, error), "adapters")
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        found.faults.append(f"adapters: {file}{line}: {error}")


def _inspect_objectives(found: Inspection, spec: RunSpec) -> None:
    """Add a note for every metric that only EvalScope can report: whether it does is not known."""
    for objective in spec.objectives:
        if objective.metric not in METRICS:
            found.notes.append(
                f"objective {objective.name}: {objective.metric} is not {' or '.join(METRICS)}, so "
                "EvalScope must report it: known when the references are measured"
            )


def is_known_adapter(adapter: str) -> bool:
    """Whether there is a benchmark adapter of that name; True where EvalScope is not installed.

    EvalScope takes seconds to import, so it is asked only about an adapter whose files apbmm does
    not know.
    """
    if layout_of(adapter) is not None or find_spec("evalscope") is None:
        return True
    from apbmm_worker.evaluation.evalscope.adapters import ensure_registered

    return ensure_registered(adapter)


def unknown_adapter(adapter: str) -> str:
    """What to say of an adapter that `is_known_adapter` does not know, with the nearest one."""
    near = get_close_matches(adapter.lower().replace("-", "_"), LAYOUTS, 1)
    return f"EvalScope has no benchmark {adapter!r}" + (f", {near[0]} is one" if near else "")
