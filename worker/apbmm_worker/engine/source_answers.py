"""Whether the engine answers from each source folder as from the merge that ought to equal it.

A merge leaves tensors out, and has the config of one of the sources, on beliefs about what an
engine reads. Greedy answers from the folders as they stand test these beliefs.

The resident engine reloads a source that has the config of merges, if its reloads are known to be
right. Other sources get an engine of their own, because an engine reads a config only at its start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from apbmm_common.checkpoint.byte_order_marks import without_marks
from apbmm_common.checkpoint.headers import text_config
from apbmm_common.errors import EvaluationError
from apbmm_common.run_file import EngineSection, GenerationSection, RunSpec
from apbmm_worker.engine.driver import Prompt
from apbmm_worker.engine.hot_load import E, HotLoader, PlannedMerge, timed
from apbmm_worker.merging.merge import stated_dtype_of_merges
from apbmm_worker.merging.planning.plan import TensorPlan
from apbmm_worker.merging.sources import VerifiedSources

STAGE = "compare sources"
TOKENS = 16
Answers = tuple[tuple[int, ...], ...]
"""The token ids of the greedy answers, one for each prompt."""


@dataclass(frozen=True)
class SourceMerge:
    """A source, and the merge that is this source alone.

    ``settings``: what its config states otherwise than that of merges, as `config_differences`.
    """

    role: str
    folder: Path
    merge: PlannedMerge
    settings: Mapping[str, tuple[str, str]]


def settings_for_sources(
    spec: RunSpec, sources: VerifiedSources, plans: Sequence[TensorPlan]
) -> tuple[EngineSection, GenerationSection]:
    """Settings with which an engine starts from a source and computes as for the merge ``plans``.

    That is in the dtype of merges, and with a context that the config of every source allows.
    """
    engine = spec.engine
    named = stated_dtype_of_merges(sources, plans, spec.merge.dtype)
    if engine.dtype == "auto" and named is not None:
        engine = engine.model_copy(update={"dtype": named})
    configs = [text_config(checkpoint.config) for checkpoint in sources.checkpoints.values()]
    stated = [config.get("max_position_embeddings") for config in configs]
    context = min([spec.generation.context, *(n for n in stated if isinstance(n, int))])
    return engine, spec.generation.model_copy(update={"context": context})


def short(prompts: Sequence[Prompt], context: int) -> list[Prompt]:
    """The prompts, cut off where they and their answers are longer than a context."""
    return [Prompt(prompt.token_ids[: context - TOKENS], prompt.seed) for prompt in prompts]


def require_source_answers(
    loader: HotLoader[E],
    sources: Sequence[SourceMerge],
    start: Callable[[Path], E],
    prompts: Sequence[Prompt],
    stages: dict[str, float],
) -> None:
    """Raise `EvaluationError` unless each source answers as its merge does.

    Its kind is ``run_file`` if the configs differ, which they do on every worker, and otherwise
    ``infrastructure``. ``start`` makes an engine from a source folder, in the dtype of merges. The
    loader's engine is stopped before: a card has no room for two. Seconds are added to ``stages``.
    """
    expected: dict[str, Answers] = {}
    merged: dict[str, Answers] = {}

    def start_each(some: Iterable[SourceMerge]) -> None:
        for source in some:
            loader.close()
            with timed(stages, STAGE):
                expected[source.role] = _fresh_answers(start, source.folder, prompts)

    start_each(source for source in sources if source.settings)
    for source in sources:
        engine = loader.bring(source.merge, stages)
        with timed(stages, STAGE):
            merged[source.role] = engine.greedy(prompts, TOKENS)
            if loader.reloads and not source.settings:
                with without_marks(source.folder) as folder:
                    engine.load(folder)
                expected[source.role] = engine.greedy(prompts, TOKENS)
    start_each(source for source in sources if source.role not in expected)
    for source in sources:
        _require_same(source, expected[source.role], merged[source.role])


def _fresh_answers(start: Callable[[Path], E], folder: Path, prompts: Sequence[Prompt]) -> Answers:
    with without_marks(folder) as readable:
        engine = start(readable)
        try:
            return engine.greedy(prompts, TOKENS)
        finally:
            engine.close()


def _require_same(source: SourceMerge, expected: Answers, merged: Answers) -> None:
    for number, (one, two) in enumerate(zip(expected, merged, strict=True), 1):
        if one == two:
            continue
        token = next(i for i, (a, b) in enumerate(zip(one, two, strict=True), 1) if a != b)
        settings = "; ".join(
            f"{key} is {own} there and {other} in merges"
            for key, (own, other) in source.settings.items()
        )
        cause = f"config.json: {settings}" if settings else "its config.json is that of merges"
        raise EvaluationError(
            f"{source.role}: from {source.folder} as it stands the engine answers otherwise than "
            f"from the merge that is {source.role} alone (prompt {number}, from token {token} on); "
            f"{cause}",
            "merges would be measured by a reference that is not this model: give all sources the "
            "same settings in config.json"
            if settings
            else "the engine reads something in that folder that a merge does not keep",
            kind="run_file" if settings else "infrastructure",
        )
