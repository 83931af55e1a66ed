"""The model card of an exported merge: its README.md, with the Hub's metadata at the top."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from apbmm.check.generation import unused_settings
from apbmm.export.sources import SourceFolder
from apbmm.merge.places import RECIPE
from apbmm.pick.remarks import against
from apbmm.results.confirmation import read_confirmation
from apbmm.results.run_results import EvaluationResult, RunResults
from apbmm.results.words import REHEARSAL, figure_in_words, in_list, times
from apbmm_common.checkpoint.roles import BASE_ROLE
from apbmm_common.metrics import metric
from apbmm_common.protocol.messages import Evaluated
from apbmm_common.run_file import MergeSection

if TYPE_CHECKING:
    from apbmm_common.run_file.sections.benchmarks import BenchmarkSection
    from apbmm_common.run_file.sections.generation import GenerationSection

CARD_FILE = "README.md"
PICTURE_FILE = "layer_weights.svg"
CONFIG_FILE = "mergekit_config.yml"
_WITHOUT_DEFAULTS = "--generation-config vllm"
"""Has vLLM take no settings of a folder's generation config for what a request leaves out."""
_NEIGHBOURS = 3
"""Members of the front that are shown on either side."""


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card tells.

    ``name`` is the model's; ``reason`` says why it was chosen, "" where it was named; ``dtype`` is
    the stored one; ``weights`` says what the weights were compared with.
    """

    results: RunResults
    evaluation: EvaluationResult
    sources: Mapping[str, SourceFolder]
    name: str
    reason: str
    dtype: str
    weights: str


@dataclass(frozen=True, slots=True)
class Licence:
    """The licence that a model's card states; all "" where it states none."""

    licence: str = ""
    name: str = ""
    link: str = ""


def model_card(facts: CardFacts) -> ModelCard:
    """The card. Every figure in it is the journal's."""
    licences = {role: licence_of(each.folder) for role, each in facts.sources.items()}
    text = "\n".join(_text(facts, licences))
    return ModelCard(f"---\n{_metadata(facts, licences).to_yaml()}\n---\n\n{text}\n")


def licence_of(folder: Path) -> Licence:
    """The licence in the card of a model's folder."""
    card = folder / CARD_FILE
    try:
        data = ModelCard.load(card, ignore_metadata_errors=True).data if card.is_file() else None
    except (ValueError, OSError):  # a damaged card states nothing
        data = None
    if data is None:
        return Licence()
    return Licence(
        *(str(data.get(key) or "") for key in ("license", "license_name", "license_link"))
    )


def _metadata(facts: CardFacts, licences: Mapping[str, Licence]) -> ModelCardData:
    parts = [i for each in facts.sources.values() for i in (each.hub_id, each.adapter_id)]
    ids = [each for each in parts if each]
    known = {licence for licence in licences.values() if licence.licence}
    (licence,) = known if len(known) == 1 else (Licence(),)
    tags = ["merge", "apbmm", "layer-wise-merge" if facts.evaluation.layer_weights else "mergekit"]
    more: dict[str, Any] = {"base_model_relation": "merge"} if ids else {}
    return ModelCardData(
        base_model=list(dict.fromkeys(ids)) or None,
        model_name=facts.name,
        library_name="transformers",
        pipeline_tag="text-generation",
        license=licence.licence or None,
        license_name=licence.name or None,
        license_link=licence.link or None,
        tags=[*tags, *(["rehearsal"] if facts.results.rehearsal else [])],
        eval_results=None if facts.results.rehearsal else list(_eval_results(facts)) or None,
        **more,
    )


def _eval_results(facts: CardFacts) -> Iterator[EvalResult]:
    """Measured figures as the Hub's model index has them; invented ones are left out."""
    for benchmark in facts.results.spec.benchmarks:
        measured = facts.evaluation.benchmarks.get(benchmark.name)
        for name, value in (measured.metrics if measured else {}).items():
            if name in ("accuracy", "tokens"):
                yield EvalResult(
                    task_type="text-generation",
                    dataset_type=benchmark.adapter,
                    dataset_name=benchmark.name,
                    # The Hub takes results of one type and configuration for one data set's.
                    dataset_config=benchmark.name,
                    metric_type=name,
                    metric_value=value,
                    metric_name=(metric(name).unit or name) + _avg_at_k(benchmark.repeats),
                )


def _avg_at_k(repeats: int) -> str:
    return f" (avg@{repeats})" if repeats > 1 else ""


# ---- the text ----------------------------------------------------------------------------------


def _text(facts: CardFacts, licences: Mapping[str, Licence]) -> Iterator[str]:
    yield f"# {facts.name}\n"
    if facts.results.rehearsal:
        yield f"> **{REHEARSAL}.** The weights are a real merge; every figure below is invented.\n"
    yield from _what(facts)
    yield "\n## Figures\n"
    yield from _figures(facts)
    yield from _confirmed(facts)
    yield "\n## The front around it\n"
    yield from _front(facts)
    yield "\n## How much of each source\n"
    yield from _weights(facts)
    yield "\n## Serving it\n"
    yield from _serving(facts)
    yield "\n## How it was made\n"
    yield from _making(facts)
    yield "\n## Licence\n"
    yield from _licence(facts, licences)


def _what(facts: CardFacts) -> Iterator[str]:
    results, evaluation = facts.results, facts.evaluation
    merged = [_linked(role, each) for role, each in facts.sources.items() if role != BASE_ROLE]
    method = "layer by layer" if evaluation.layer_weights else "as whole models"
    yield (
        f"A merge of {' and '.join(merged)}, {method}. It is evaluation `{evaluation.id}` of the "
        f"apbmm run `{results.run}`, which searched the trade-off between capability and generated "
        "tokens. Nothing was trained."
    )
    if facts.reason:
        yield f"\nChosen as {facts.reason}."
    told = [each for name in results.references if (each := against(results, evaluation, name))]
    if told:
        yield f"\nIt has {'; '.join(told)}."


def _figures(facts: CardFacts) -> Iterator[str]:
    results = facts.results
    yield from _figure_table(results, facts.evaluation)
    yield (
        "\nIntervals are at 95 % (Wilson's for shares of answers); ± is one standard error. The "
        f"merge was chosen among {len(results.merges)} that answered these very questions, so "
        "expect a little less on others. Questions:\n"
    )
    yield from _asked(results)


def _confirmed(facts: CardFacts) -> Iterator[str]:
    """The figures on questions that the search did not ask, where it was confirmed."""
    confirmation = read_confirmation(facts.results)
    merge = None if confirmation is None else confirmation.of(facts.evaluation.id)
    if confirmation is None or merge is None:
        return
    yield "\n### Confirmed\n"
    yield (
        "The same merge on questions that the search did not ask, so that choosing the best of "
        "many measurements does not flatter it:\n"
    )
    yield from _figure_table(confirmation.run, merge.confirmed)
    yield ""
    yield from _asked(confirmation.run)
    if merge.holds is not None:
        still = "still" if merge.holds else "no longer"
        yield f"\nIt is {still} on the front of what is confirmed."


def _figure_table(results: RunResults, evaluation: EvaluationResult) -> Iterator[str]:
    """A row for each benchmark and metric, a column for the merge and for each reference."""
    columns = {"this merge": evaluation, **results.references}
    if evaluation.id in results.references:
        del columns["this merge"]
    metrics = results.shown_metrics
    yield from _table(
        ("benchmark", "questions", "", *columns),
        (
            (
                name,
                f"{measured.questions}{times(measured.repeats)}",
                metric(wanted).unit or wanted,
                *(figure_in_words(wanted, e.figure(wanted, [name])) for e in columns.values()),
            )
            for name, measured in evaluation.benchmarks.items()
            for wanted in metrics
            if measured.figure(wanted) is not None
        ),
    )


def _asked(results: RunResults) -> Iterator[str]:
    for benchmark in results.spec.benchmarks:
        yield f"- {benchmark.name}: `{benchmark.adapter}`, {questions_in_words(benchmark)}"


def questions_in_words(benchmark: BenchmarkSection) -> str:
    """Which questions of a benchmark were asked, and how often."""
    often = f", {benchmark.repeats} answers to each" if benchmark.repeats > 1 else ""
    return _chosen(benchmark) + often


def _chosen(benchmark: BenchmarkSection) -> str:
    if benchmark.held_out:
        return "those of its questions that were kept out of the search: a subset"
    part = ""
    if benchmark.question_ids is not None:
        part = f"{len(benchmark.question_ids)} chosen questions"
    elif benchmark.sample is not None:
        part = f"a random sample of {benchmark.sample} questions"
    elif benchmark.questions is not None:
        part = f"its first {benchmark.questions} questions"
    if benchmark.holdout:
        share = f"{1 - benchmark.holdout:.0%} of {part or 'its questions'}"
        return f"{share}, the rest kept out: a subset"
    return f"{part}: a subset" if part else "all questions of its data file"


def _front(facts: CardFacts) -> Iterator[str]:
    results, evaluation = facts.results, facts.evaluation
    front = list(results.front)
    place = next((n for n, each in enumerate(front) if each.id == evaluation.id), None)
    if not front:
        yield "The run has no front yet."
        return
    if place is None:
        yield "This merge is not on the front. The front:\n"
        shown = front
    else:
        shown = front[max(0, place - _NEIGHBOURS) : place + _NEIGHBOURS + 1]
        yield (
            f"{len(front)} merges are on the front: no merge of the run is better than one of "
            f"these in every objective. This one is number {place + 1}; those beside it:\n"
        )
    metrics = [m for m in ("accuracy", "tokens") if all(e.figure(m) is not None for e in shown)]
    yield from _table(
        ("merge", *results.objectives, *(results.over_all(name) for name in metrics)),
        (
            (
                f"**{each.id}**" if each.id == evaluation.id else each.id,
                *(f"{value:.3f}" for value in each.objectives or ()),
                *(figure_in_words(name, each.figure(name)) for name in metrics),
            )
            for each in shown
        ),
    )
    yield (
        "\nObjectives are scaled by the sources, 0 is the source that is poor at it and 1 the one "
        "that is good at it, or by values of the run file. The front's hypervolume is "
        f"{results.hypervolume:.4f}."
    )
    if limits := [each.in_words for each in results.spec.constraints]:
        broken = f"breaks {', '.join(evaluation.breaks)}" if evaluation.breaks else "breaks none"
        yield f"\nMembers of the front are within {', '.join(limits)}. This merge {broken}."


def _weights(facts: CardFacts) -> Iterator[str]:
    evaluation, spec = facts.evaluation, facts.results.spec
    if not evaluation.layer_weights:
        yield from _table(
            ("parameter", "value"), ((n, f"{v:.6g}") for n, v in evaluation.parameters.items())
        )
        return
    shown = facts.results.weighed
    names = spec.sources.names
    if spec.merge.combine != "simplex":
        rule = (
            "Each tensor is the base's plus the differences of those of "
            f"{in_list(names)} from it, times these weights."
        )
    elif len(shown) == 1:
        yield f"![Weight of {names[0]} in each layer]({PICTURE_FILE})\n"
        rule = f"Each tensor is `x` times {names[0]}'s plus `1 - x` times {names[1]}'s."
    else:
        yield f"![Weights of {in_list(names)} in each layer]({PICTURE_FILE})\n"
        rule = f"Each tensor is the sum of those of {in_list(names)} with these weights."
    yield f"{rule} {_outside(facts, spec.merge.outside_layers)}\n"
    if parts_in_words := _parts(spec.merge):
        yield f"{parts_in_words}\n"
    columns: dict[str, Sequence[float]] = {}
    for name in shown:
        source = name if len(shown) > 1 else "x"
        parts = evaluation.part_weights[name] or {"": evaluation.source_weights[name]}
        columns |= {f"{source} {part}".rstrip(): weights for part, weights in parts.items()}
    yield from _table(
        ("layer", *columns),
        (
            (str(n), *(f"{weight:.6f}" for weight in row))
            for n, row in enumerate(zip(*columns.values(), strict=True))
        ),
    )


def _parts(merge: MergeSection) -> str:
    """Which tensors of a layer the weights of its parts are of; "" where it has no parts."""
    if merge.grain == "parts":
        parts = "Attention, MLP and experts" if merge.experts_apart else "Attention and MLP"
        return f"{parts} of a layer have weights of their own, with the norms before them."
    if merge.grain != "filters":
        return ""
    filters = (
        f"{each.name} is what has {' or '.join(f'`{text}`' for text in each.texts)} in its name"
        for each in merge.filters
    )
    return (
        f"Of the tensors of a layer, {'; '.join(filters)}. The first that fits counts; what none "
        "fits has the mean of the layer's weights."
    )


def _outside(facts: CardFacts, rule: str) -> str:
    """What happens to tensors that belong to no layer."""
    own = facts.evaluation.outside_source_weights
    shown = facts.results.weighed
    what = "`x` is" if len(shown) == 1 else "the weights are"
    if facts.evaluation.outside_weights:
        groups = (
            f"{f'{name} ' if len(shown) > 1 else ''}{group} {weight:.6f}"
            for name in shown
            for group, weight in own[name].items()
        )
        return f"Outside the layers {what}: {', '.join(groups)}."
    if rule in facts.results.spec.sources.names:
        return f"Embeddings, final norm and output head are {rule}'s."
    mean = "`x`" if len(shown) == 1 else "weights"
    return f"Embeddings, final norm and output head get the mean of the layers' {mean}."


def _serving(facts: CardFacts) -> Iterator[str]:
    generation = facts.results.spec.generation
    yield "In this folder:\n"
    yield f"```console\n$ {serve_command('.', facts)}\n```\n"
    yield (
        f"It was measured {sampling_in_words(generation)} and with at most "
        f"{generation.max_tokens} new tokens. "
        f"Tokenizer and chat template are those of {generation.template_from}."
    )
    if unused := unused_settings(facts.sources[generation.template_from].folder):
        said = ", ".join(f"`{key}={value}`" for key, value in unused.items())
        yield (
            f"\n`generation_config.json` says {said}, without which it was measured: "
            f"`{_WITHOUT_DEFAULTS}` leaves that out."
        )
    if generation.thought_end:
        yield f"\nWhere a text has `{generation.thought_end}`, the answer follows the last one."


def sampling_in_words(generation: GenerationSection) -> str:
    """How answers were drawn."""
    if generation.temperature == 0:
        return "greedily (`temperature=0`)"
    return (
        f"with `temperature={generation.temperature:g}`, `top_p={generation.top_p:g}`, "
        f"`top_k={generation.top_k}`"
    )


def serve_command(folder: str, facts: CardFacts, *, cpu_build: bool = False) -> str:
    """How vLLM, or its CPU build, serves a merge as the run had it."""
    spec = facts.results.spec
    server = "vllm serve"
    if cpu_build:  # its `vllm` looks for the version of another distribution, and ends
        server = "python -m vllm.entrypoints.openai.api_server --model"
    dtype: str = spec.engine.dtype
    if dtype == "auto" and facts.dtype == "float32":
        dtype = facts.dtype  # the run computed in it; vLLM's own default has 16 bits
    more = "" if dtype == "auto" else f" --dtype {dtype}"
    if unused_settings(facts.sources[spec.generation.template_from].folder):
        more += f" {_WITHOUT_DEFAULTS}"
    return f"{server} {folder} --max-model-len {spec.generation.context}{more}"


def _making(facts: CardFacts) -> Iterator[str]:
    results, evaluation = facts.results, facts.evaluation
    spec = results.spec
    yield f"- weights: {facts.weights}; stored as {facts.dtype}"
    yield (
        f"- search: {spec.algorithm.name}, {results.completed_of_budget} evaluations, "
        f"seed {spec.seed}"
    )
    begun = datetime.fromtimestamp(evaluation.begun_at or results.begun_at, UTC)
    yield f"- evaluated: {begun:%Y-%m-%d}"
    yield f"- versions: {', '.join(f'{n} {v}' for n, v in versions(results, evaluation).items())}"
    yield (
        f"- [{RECIPE}]({RECIPE}) has the vector, the rule and the digests of the "
        f"sources; [{CONFIG_FILE}]({CONFIG_FILE}) makes the same merge with mergekit"
    )


def versions(results: RunResults, evaluation: EvaluationResult) -> dict[str, str]:
    """Versions of what evaluated a merge, as journaled, and of the apbmm that exports it."""
    body = results.run_state.evaluations[evaluation.id].body
    engine = body.engine.get("versions", {}) if isinstance(body, Evaluated) else {}
    return {"apbmm": importlib.metadata.version("apbmm"), **engine}


def _licence(facts: CardFacts, licences: Mapping[str, Licence]) -> Iterator[str]:
    stated = {
        role: licences[role].name or licences[role].licence or "its card states none"
        for role in facts.sources
    }
    if len(set(stated.values())) > 1 or not any(each.licence for each in licences.values()):
        yield "The sources' cards do not state one licence for all; the merge is bound by each:\n"
    else:
        yield "That of the sources, by their own cards:\n"
    for role, each in facts.sources.items():
        yield f"- {_linked(role, each)}: {stated[role]}"


def _linked(role: str, source: SourceFolder) -> str:
    places = [_place_linked(source.hub_id, source.folder)]
    if source.adapter is not None:
        places.append(_place_linked(source.adapter_id, source.adapter))
    return f"{' with the LoRA adapter '.join(places)} ({role})"


def _place_linked(hub_id: str, folder: Path) -> str:
    return f"[{hub_id}](https://huggingface.co/{hub_id})" if hub_id else f"`{folder.name}`"


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heading)} |"
    yield f"|{'---|' * len(heading)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
