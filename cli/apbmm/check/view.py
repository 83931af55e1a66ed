"""What `apbmm check` prints."""

from __future__ import annotations

import sys

from rich.console import Console

from apbmm.check.inspect import Inspection
from apbmm.check.questions import shortened
from apbmm.results.words import asked_in_words, in_list, weighed_in_words
from apbmm_common.checkpoint.headers import Checkpoint, layer_count
from apbmm_common.checkpoint.identical_layers import not_searched
from apbmm_common.checkpoint.roles import BASE_ROLE
from apbmm_common.checkpoint.tensor_groups import outside_groups
from apbmm_common.datasets.benchmark_folders.selection import places_of
from apbmm_common.merge_methods import LINEAR, METHODS
from apbmm_common.metrics import metric
from apbmm_common.run_file import (
    BenchmarkSection,
    MergeSection,
    ObjectiveSection,
    RunSpec,
    part_names,
)

Row = tuple[str, str]

MOST_CHARACTERS = 1000
"""Of a question or prompt; of a longer one the middle is left out."""


def print_faults(found: Inspection, but: str = "") -> None:
    """Every fault on a numbered line of standard error; ``but`` goes before their number."""
    count = len(found.faults)
    lines = [f"{found.run_file}: {but}{count} {'error' if count == 1 else 'errors'}"]
    lines += [f"  {number}. {fault}" for number, fault in enumerate(found.faults, 1)]
    print("\n".join(lines), file=sys.stderr)  # noqa: T201


def print_plan(found: Inspection) -> None:
    """What the run would do, one line a fact."""
    console = Console(highlight=False, soft_wrap=True)
    for name, text in plan(found):
        console.print(f"{name:<12} {text}", markup=False)
    for warning in found.warnings:
        console.print(f"warning: {warning}", markup=False)
    for note in found.notes:
        console.print(f"note: {note}", markup=False)


def print_conclusion(found: Inspection) -> None:
    """That a run file has no errors, and how many warnings."""
    count = len(found.warnings)
    warnings = f", {count} warning{'s' if count > 1 else ''} (above)" if count else ""
    print(f"{found.run_file}: no errors{warnings}")  # noqa: T201


def plan(found: Inspection) -> list[Row]:
    """What a valid run would do, as (name, text) rows."""
    spec = found.spec
    assert spec is not None
    rows: list[Row] = [("run", f"{spec.name}, seed {spec.seed}")]
    if spec.evaluation.kind == "rehearsal":
        rows.append(
            ("evaluation", f"REHEARSAL: invented measurements of {spec.evaluation.layers} layers")
        )
    rows += [*_sources(found), *_code(found, spec)]
    rows.append(("merge", _merge(found, spec)))
    if found.identical_layers and spec.merge_method == LINEAR:
        rows.append(("layers", not_searched(found.identical_layers)))
    for benchmark in spec.benchmarks:
        rows.append(("benchmark", _benchmark(found, benchmark)))
        rows += _first_question(found, benchmark.name)
    for benchmark in spec.confirm.benchmarks:
        rows.append(("confirm", _benchmark(found, benchmark)))
        rows += _first_question(found, benchmark.name)
    rows += [("generation", _generation(spec)), ("prior", _prior(spec))]
    rows += [("objective", _objective(o, spec)) for o in spec.objectives]
    rows += _constraints(spec)
    point = ", ".join(f"{value:g}" for value in spec.hypervolume_reference)
    rows += [
        ("hypervolume", f"above ({point})"),
        ("algorithm", _algorithm(spec)),
        ("budget", _budget(found, spec)),
        *_steps(spec),
    ]
    return rows


def _sources(found: Inspection) -> list[Row]:
    assert found.spec is not None
    rows = [(role, _checkpoint(source)) for role, source in found.checkpoints.items()]
    if rows and BASE_ROLE not in found.checkpoints:
        *others, anchor = found.spec.sources.names
        have = "has a task vector" if len(others) == 1 else "have task vectors"
        alone = found.spec.merge_method != LINEAR
        lacks = f", so only {in_list(others)} {have}" if alone else ""
        rows.append((BASE_ROLE, f"{anchor}{lacks}"))
    if rows:
        largest = max(source.weight_bytes for source in found.checkpoints.values())
        adapted = [s for s in found.checkpoints.values() if s.adapter is not None]
        more = sum(source.weight_bytes for source in adapted)
        kept = f", and {size(more)} for sources with their adapters" if adapted else ""
        rows.append(("scratch", f"{size(largest)} on each worker, for one merged checkpoint{kept}"))
    return rows


def _code(found: Inspection, spec: RunSpec) -> list[Row]:
    """Whether Python code that comes with the checkpoints is run, and by whom."""
    rows = []
    if spec.adapters is not None:
        who = "workers take part only with --allow-remote-code"
        rows.append(("own adapters", f"{spec.adapters}: {who}"))
    files = ", ".join(sorted({name for code in found.code.values() for name in code}))
    if spec.engine.remote_code:
        what = f"{files} of {', '.join(found.code)}" if files else "none comes with the sources"
        return [*rows, ("own code", f"{what}: workers take part only with --allow-remote-code")]
    if not files:
        return rows
    instead = (
        "what vLLM and transformers have for these models is taken instead; a worker refuses a "
        "model that they do not know"
    )
    return [*rows, ("own code", f"{files} of {', '.join(found.code)}: not run, {instead}")]


def _checkpoint(source: Checkpoint) -> str:
    dtypes = sorted({tensor.dtype for tensor in source.tensors.values()})
    adapter = f" with {len(source.changed)} changed by {source.adapter}" if source.adapter else ""
    return (
        f"{source.path}: {layer_count(source)} layers, {len(source.tensors)} tensors{adapter}, "
        f"{size(source.weight_bytes)} ({', '.join(dtypes)})"
    )


def _merge(found: Inspection, spec: RunSpec) -> str:
    outside = f"outside the layers {spec.merge.outside_layers}"
    if spec.merge.outside_layers == "own":
        merged = [each for role, each in found.checkpoints.items() if role != BASE_ROLE]
        groups = ", ".join(outside_groups(merged)) if merged else "each group of tensors"
        outside = f"outside the layers weights of their own for {groups}"
    if spec.merge_method != LINEAR:
        method = METHODS[spec.merge_method]
        values = {**method.complete({}), **spec.merge.parameters}
        fixed = [f"{p.name} {values[p.name]:g}" for p in method.parameters if not p.grid]
        how = ", ".join((f"{method.name} of whole models", *fixed))
        outside = "all tensors alike" if spec.merge.outside_layers == "mean" else outside
    else:
        kind = "linear" if spec.merge.combine == "simplex" else "task vectors added to the base"
        how = f"{kind}, {_grain(found, spec.merge)}"
    return f"{how}, {outside}, dtype {spec.merge.dtype}"


def _grain(found: Inspection, merge: MergeSection) -> str:
    """What shares a weight, and how many numbers are searched."""
    blocks = len(merge.borders) + 1 if merge.borders else merge.blocks
    within = "each layer" if blocks is None else f"{blocks} blocks of layers"
    parts = found.space.parts if found.space is not None else part_names(merge)
    match merge.grain:
        case "layer":
            return "layer by layer"
        case "blocks":
            return within
        case "adaptive":
            return (
                f"{within} whose borders are found from how much the sources differ in each layer"
            )
    text = f"{in_list(parts)} apart in {within}"
    return f"{text} ({found.space.dimensions} numbers)" if found.space is not None else text


def _benchmark(found: Inspection, benchmark: BenchmarkSection) -> str:
    questions = found.questions.get(benchmark.name)
    kept = found.kept_for_confirm.get(benchmark.name, 0)
    count = asked_in_words(questions, benchmark.repeats)
    count += ", drawn at random," if benchmark.sample is not None else ""
    if questions is not None and kept:
        of = asked_in_words(questions + kept, benchmark.repeats)
        drawn = " drawn at random" if benchmark.sample is not None else ""
        count = f"{questions} of {of}{drawn}, {kept} kept for apbmm confirm,"
    places = ", ".join(map(str, places_of(benchmark)))
    return f"{benchmark.name}: {benchmark.adapter}, {count} from {places}"


def _first_question(found: Inspection, name: str) -> list[Row]:
    """A benchmark's first question: its prompt where it was rendered, else as its data has it."""
    if name in found.rendered:
        rendered = found.rendered[name]
        first = rendered.first[0]
        prompt = shortened(first.prompt, MOST_CHARACTERS)
        return [
            ("prompt", f"{prompt!r}, {first.tokens} tokens, target {first.target!r}"),
            ("", f"the longest of {rendered.count} prompts has {rendered.longest} tokens"),
        ]
    if name not in found.first_questions:
        return []
    raw = found.first_questions[name]
    question, target = (shortened(t, MOST_CHARACTERS) for t in (raw.question, raw.target))
    return [("question", f"{question!r}, target {target!r} (as in the data)")]


def _generation(spec: RunSpec) -> str:
    g = spec.generation
    return (
        f"chat template and tokenizer of {g.template_from}, at most {g.max_tokens} tokens in a "
        f"context of {g.context}, temperature {g.temperature:g}, top_p {g.top_p:g}, "
        f"top_k {g.top_k}, seed {g.seed}"
    )


def _prior(spec: RunSpec) -> str:
    where = spec.prior.prompts or "the first benchmark questions (they are scored as well)"
    return f"up to {spec.prior.questions} prompts from {where}"


def _objective(objective: ObjectiveSection, spec: RunSpec) -> str:
    weights = objective.benchmarks or dict.fromkeys((b.name for b in spec.benchmarks), 1.0)
    described = metric(objective.metric)
    zero, one = objective.vanilla, objective.expert
    if objective.scale is not None:
        zero, one = map(described.text_with_unit, objective.scale)
    elif objective.target is not None:
        zero, one = "the worst source", described.text_with_unit(objective.target)
    where = weighed_in_words(weights)
    return f"{objective.name}: {objective.metric} on {where}, 0 = {zero}, 1 = {one}"


def _constraints(spec: RunSpec) -> list[Row]:
    words = ", ".join(each.in_words for each in spec.constraints)
    return [("constraints", f"{words} (what breaks one is on no front)")] if words else []


def _algorithm(spec: RunSpec) -> str:
    settings = ", ".join(f"{key} = {value}" for key, value in spec.algorithm.settings.items())
    return spec.algorithm.name + (f" with {settings}" if settings else "")


def _budget(found: Inspection, spec: RunSpec) -> str:
    budget = spec.budget
    costs = [f"{budget.gpu_hours:g} GPU-hours"] if budget.gpu_hours else []
    costs += [f"{budget.generated_tokens:,} generated tokens"] if budget.generated_tokens else []
    most = "evaluations" if budget.evaluations is None else f"{budget.evaluations} evaluations"
    references = len(found.spec.sources.names) if found.spec is not None else 0
    text = f"{most} ({budget.initial} of them initial) and {references} references"
    text += f" within {' and '.join(costs)}" if costs else ""
    if budget.patience is not None:
        text += (
            f", while {budget.patience} evaluations' worth of cost add more than "
            f"{budget.patience_growth:.2%} of hypervolume"
        )
    text += f", at most {budget.failures} failures"
    counts = [(b.repeats, found.questions.get(b.name)) for b in spec.benchmarks]
    known = [repeats * count for repeats, count in counts if count is not None]
    if not known or len(known) < len(counts):
        return text
    if budget.evaluations is None:
        return f"{text}: {sum(known):,} answers each"
    return f"{text}: {(budget.evaluations + references) * sum(known):,} answers"


def _steps(spec: RunSpec) -> list[Row]:
    """What merges that are measured in part answer."""
    steps = spec.steps
    texts = []
    if steps.enabled:
        until = f", until {steps.front} are on the front" if steps.front else ""
        texts.append(f"each merge answers {steps.first:.0%} first, the promising ones all{until}")
    if steps.stop_beaten:
        texts.append("merges that are beaten whatever they still answer are stopped")
    return [("steps", "; ".join(texts))] if texts else []


def size(count: float) -> str:
    """Bytes for people, in decimal units."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"
