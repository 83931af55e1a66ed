"""From a merge vector to its measurements, in the evaluation child: merge, load, evaluate.

Heavy libraries are imported where they are first needed, so that a wrong path in the run file is
reported at once.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from apbmm_common.checkpoint.compatibility import compatibility_warnings
from apbmm_common.checkpoint.config_differences import config_differences
from apbmm_common.checkpoint.headers import read_checkpoint
from apbmm_common.checkpoint.remote_code import own_code, require_code
from apbmm_common.datasets.benchmark_folders.selection import select_questions
from apbmm_common.datasets.prompts import read_prompts
from apbmm_common.errors import DataError, EvaluationError, SourceError, UsageError
from apbmm_common.protocol.messages import Evaluated, KeptAnswer, Measured, Stepped
from apbmm_common.run_file import (
    EngineSection,
    GenerationSection,
    RunSpec,
    Space,
    reference_vector,
)
from apbmm_worker import environment
from apbmm_worker.child_protocol import Prepare
from apbmm_worker.engine.kinds import engine_kind, require_kind
from apbmm_worker.engine.token_progress import TokenProgress
from apbmm_worker.evaluation.asking_order import EVERYTHING, Step
from apbmm_worker.evaluation.scoring_protocol import OwnAdapters
from apbmm_worker.merging.folders.temporary_checkpoints import TemporaryCheckpoints

if TYPE_CHECKING:
    from apbmm_worker.engine.driver import Completion, Prompt
    from apbmm_worker.engine.hot_load import HotLoader, PlannedMerge
    from apbmm_worker.engine.resident import ResidentEngine
    from apbmm_worker.engine.source_answers import SourceMerge
    from apbmm_worker.evaluation.answering import AnswerListener
    from apbmm_worker.evaluation.scoring.client import ScoringClient
    from apbmm_worker.evaluation.scoring.engine_loan import EarlyEnd
    from apbmm_worker.evaluation.scoring_protocol import EvalScopeResult
    from apbmm_worker.merging.planning.plan import TensorPlan
    from apbmm_worker.merging.sources import VerifiedSources

_log = logging.getLogger(__name__)

T = TypeVar("T")
PROMPTS = 4
"""Asked when two engines, or two loads, are compared."""

ReportProgress = Callable[[str, int, int], None]
"""Called with (stage, done, total); may be called from another thread."""


@dataclass(frozen=True)
class LocalInputs:
    """Paths on this host of all that the run names, a scratch folder, and this host's settings.

    ``benchmarks`` has the folder, file or files of each, ``adapters`` is the file of the run's own
    adapters. ``engine`` has the engine arguments that this host sets, as text, by name.
    ``lora_adapters`` are adapters that are added to sources first, by role.
    """

    sources: Mapping[str, Path]
    benchmarks: Mapping[str, Sequence[Path]]
    prompts: Path | None
    scratch: Path
    device: str
    engine: Mapping[str, str] = field(default_factory=dict)
    adapters: Path | None = None
    lora_adapters: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def of(cls, command: Prepare) -> LocalInputs:
        """The inputs that the daemon's command names."""
        return cls(
            sources={role: Path(path) for role, path in command.sources.items()},
            benchmarks={n: tuple(map(Path, paths)) for n, paths in command.benchmarks.items()},
            prompts=Path(command.prompts) if command.prompts else None,
            scratch=Path(command.scratch),
            device=command.device,
            engine=command.engine,
            adapters=Path(command.adapters) if command.adapters else None,
            lora_adapters={role: Path(path) for role, path in command.lora_adapters.items()},
        )


class Pipeline:
    """One run on one device. The engine starts with the first merge and stays.

    The constructor checks every path before anything heavy is imported, then verifies the sources
    and renders the benchmarks. Raises `SourceError`, `RunFileError` or `UsageError`.
    """

    def __init__(self, spec: RunSpec, inputs: LocalInputs, progress: ReportProgress) -> None:
        self._spec = spec
        self._inputs = inputs
        self._progress = progress
        require_kind(spec.engine.kind)
        _check_paths(spec, inputs)
        inputs.scratch.mkdir(parents=True, exist_ok=True)
        environment.apply(
            inputs.device, inputs.scratch, batch_invariant=spec.engine.batch_invariant
        )
        require_cards(inputs.device)
        self._adapters = OwnAdapters.of(inputs.adapters) if inputs.adapters else None
        with contextlib.ExitStack() as undo:
            self._scoring = self._start_scoring()
            undo.callback(self._scoring.close)
            self.sources = self._verify_sources()
            # Raises where there are too few layers to search.
            found = self.sources
            Space.of(spec, found.layers, found.outside, found.identical_layers, found.parts)
            self._check_engine()
            progress("read benchmarks", 0, len(spec.benchmarks))
            self._scoring.benchmarks()
            undo.pop_all()
        self._checkpoints = TemporaryCheckpoints(inputs.scratch)
        self._loader = self._new_loader()
        self._sources_compared = False

    @property
    def usable(self) -> bool:
        """False once the engine has failed: this process must be replaced."""
        return self._loader.engine is None or self._loader.engine.usable

    def measure(self) -> Measured:
        """How much the sources differ, layer by layer."""
        from apbmm_worker.discrepancy import measure

        prior = self._spec.prior
        if self._inputs.prompts is not None:
            prompts = read_prompts(self._inputs.prompts, prior.questions)
        else:
            _log.warning("no prior.prompts: the prior is measured on questions scored later")
            prompts = self._questions(prior.questions)
        device = environment.CPU
        if self._inputs.device != environment.CPU:
            # The card's memory does not hold both the engine and the sources.
            self._loader.close()
            device = "cuda:0"
        return measure.measure(
            self.sources,
            prompts,
            prior,
            self._spec.generation.template_from,
            device,
            remote_code=self._spec.engine.remote_code,
            progress=lambda done, total: self._progress("measure", done, total),
        )

    @property
    def digests(self) -> dict[str, str]:
        """Digests of all inputs by name: weights, settings files and questions.

        Two workers with the same digests measure the same.
        """
        return (
            self.sources.digests
            | {f"{role}.settings": digest for role, digest in self.sources.settings.items()}
            | {f"benchmark.{b.name}": b.digest for b in self._scoring.benchmarks()}
            | ({"adapters": self._adapters.digest} if self._adapters else {})
        )

    def evaluate(
        self,
        evaluation: str,
        vector: Sequence[float],
        outputs: Path,
        *,
        reference: bool = False,
        borders: Sequence[int] = (),
        kept: Sequence[KeptAnswer] = (),
        listener: AnswerListener | None = None,
        step: Step = EVERYTHING,
    ) -> Evaluated | Stepped:
        """Merge, load and evaluate one vector: what `begin` comes to."""
        begun = self.begin(
            evaluation, vector, outputs, reference=reference, borders=borders, kept=kept,
            listener=listener, step=step, may_free=None,
        )  # fmt: skip
        return begun.result()

    def begin(  # noqa: PLR0913 - those of an evaluation, by their names
        self,
        evaluation: str,
        vector: Sequence[float],
        outputs: Path,
        *,
        reference: bool,
        borders: Sequence[int],
        kept: Sequence[KeptAnswer],
        listener: AnswerListener | None,
        step: Step,
        may_free: Callable[[], bool] | None,
    ) -> Future[Evaluated | Stepped]:
        """Merge, load and evaluate one vector; EvalScope's records go to ``outputs/evaluation``.

        Returns when the evaluation is over, or, once ``may_free`` is true, when its engine is free
        before the report is made: another one may begin then.

        The vector is of the run's space, that of a ``reference`` as `reference_vector` has it;
        ``borders`` are those of the blocks of `Assign`. The engine is not asked for the finished
        answers in ``kept``, and goes on behind the others; ``listener`` is told of its answers and
        of all outcomes. The result of a ``step`` that has not everything is `Stepped`, without
        records. Raises `EvaluationError`; `usable` tells whether the engine survived. The first
        evaluation compares the sources with the merges that equal them, and fails if they answer
        otherwise.
        """
        from apbmm_worker.evaluation.kept_answers import completions
        from apbmm_worker.evaluation.scoring.engine_loan import EarlyEnd

        stages: dict[str, float] = {}
        merge = self._planned(vector, reference=reference, borders=borders)
        engine, how = self._loaded(merge, stages)
        answers = completions(kept)
        records = records_folder(outputs, evaluation)
        is_free = threading.Event()
        stall = self._spec.timings.stall
        early = EarlyEnd(may_free, is_free.set, stall) if may_free is not None else None

        def evaluated() -> Evaluated | Stepped:
            result = ask(
                self._scoring, engine, records, self._progress, answers, listener, step, early
            )
            return _message_of(result, stages, how)

        begun = _in_thread(evaluated)
        begun.add_done_callback(lambda _: is_free.set())
        is_free.wait()
        return begun

    def close(self, *, ending: bool = False) -> None:
        """Stop the engine and the scoring, and remove temporary checkpoints.

        ``ending``: this process is about to end, which stops an engine inside it too, and sooner.
        An engine on a card has processes of its own, and is stopped in any case.
        """
        if not ending or self._inputs.device != environment.CPU:
            self._loader.close()
        self._scoring.close()
        self._checkpoints.remove()

    # ---- preparation ----

    def _verify_sources(self) -> VerifiedSources:
        from apbmm_worker.merging.sources import verify_sources

        remote_code = self._spec.engine.remote_code
        for folder in self._inputs.sources.values():
            require_allowed_code(folder, remote_code=remote_code)
        if self._inputs.lora_adapters:
            from apbmm_worker.merging.adapted_sources import FOLDER, with_adapters

            sources_with = with_adapters(
                self._inputs.sources,
                self._inputs.lora_adapters,
                self._inputs.scratch / FOLDER,
                lambda done, total: self._progress("add adapter", done, total),
            )
            self._inputs = replace(self._inputs, sources=sources_with)
        cache = self._inputs.scratch / "source-digests"
        sources = verify_sources(
            self._inputs.sources,
            cache,
            lambda done, total: self._progress("verify", done, total),
            distinct=self._spec.sources.names,
            common_vocabulary=self._spec.merge.vocabulary == "common",
            merge=self._spec.merge,
        )
        for warning in compatibility_warnings(sources.checkpoints):
            _log.warning("%s", warning)
        return sources

    def _check_engine(self) -> None:
        """Raise `RunFileError` or `UsageError` for arguments that the engine does not take."""
        spec = self._spec
        engine_kind(spec.engine.kind).arguments(
            spec.engine,
            spec.generation,
            self._inputs.sources[spec.generation.template_from],
            self._inputs.device,
            self._inputs.engine,
        )

    def _start_scoring(self) -> ScoringClient:
        """EvalScope's process, which reads the benchmarks while this one reads the sources."""
        from apbmm_worker.evaluation.scoring.client import ScoringClient

        return ScoringClient(
            self._spec.benchmarks,
            self._inputs.benchmarks,
            self._spec.generation,
            self._inputs.sources[self._spec.generation.template_from],
            self._inputs.scratch / "questions",
            self._inputs.scratch / "scoring.log",
            remote_code=self._spec.engine.remote_code,
            adapters=self._adapters,
        )

    def _questions(self, limit: int) -> list[str]:
        """At most ``limit`` questions, taken from the benchmarks in turn."""
        repeats = {benchmark.name: benchmark.repeats for benchmark in self._spec.benchmarks}
        asked = self._scoring.benchmarks()
        return in_turn([benchmark.texts[:: repeats[benchmark.name]] for benchmark in asked], limit)

    def _prompts(self) -> list[Prompt]:
        """A few prompts, taken from the benchmarks in turn."""
        return in_turn([benchmark.prompts for benchmark in self._scoring.benchmarks()], PROMPTS)

    # ---- one evaluation ----

    def _loaded(
        self, merge: PlannedMerge, stages: dict[str, float]
    ) -> tuple[ResidentEngine, dict[str, Any]]:
        """An engine that holds the merge, and what results say of it and of how it came there."""
        if not self._sources_compared:
            self._compare_sources(stages)
            self._sources_compared = True
        self._progress("load", 0, 1)
        engine = self._loader.bring(merge, stages)
        return engine, {**engine.description(), "hot_load": self._loader.description()}

    def _planned(
        self, vector: Sequence[float], *, reference: bool, borders: Sequence[int] = ()
    ) -> PlannedMerge:
        """The merge of a vector. Raises `EvaluationError` if it cannot be made."""
        from apbmm_worker.engine.hot_load import PlannedMerge
        from apbmm_worker.merging.merge import write_merge
        from apbmm_worker.merging.run_merges import merge_of

        merge = merge_of(self._spec, self.sources, vector, reference=reference, borders=borders)

        def write(slot: Path) -> None:
            write_merge(
                self.sources,
                merge.plans,
                merge.recipe,
                self._spec.generation.template_from,
                slot,
                lambda done, total: self._progress("merge", done, total),
                dtype=self._spec.merge.dtype,
            )

        self.sources.require_unchanged()
        return PlannedMerge(merge.plans, write)

    def _other(self, plans: Sequence[TensorPlan]) -> PlannedMerge:
        """A merge that differs from the given one: one of the sources."""
        merges = (
            self._planned(self._reference(name), reference=True)
            for name in self._spec.sources.names
        )
        return next(other for other in merges if other.plans != plans)

    def _reference(self, name: str) -> tuple[float, ...]:
        """The vector of the merge that is one source alone."""
        return reference_vector(self._spec.sources, name, self.sources.layers)

    def _new_loader(self) -> HotLoader[ResidentEngine]:
        from apbmm_worker.engine.hot_load import HotLoader

        setting = self._spec.engine.hot_load
        return HotLoader(setting, self._start, self._checkpoints, self._other, self._prompts())

    # ---- the sources as they stand ----

    def _compare_sources(self, stages: dict[str, float]) -> None:
        """Raise `EvaluationError` unless each source answers as the merge that equals it."""
        from apbmm_worker.engine.source_answers import (
            STAGE,
            require_source_answers,
            settings_for_sources,
            short,
        )

        self._progress(STAGE, 0, 1)
        merges = self._source_merges()
        if not merges:
            return
        settings = settings_for_sources(self._spec, self.sources, merges[0].merge.plans)
        require_source_answers(
            self._loader,
            merges,
            lambda folder: self._start(folder, *settings),
            short(self._prompts(), settings[1].context),
            stages,
        )
        self._progress(STAGE, 1, 1)

    def _source_merges(self) -> list[SourceMerge]:
        """The merges that are one source each; none for a source whose vocabulary is cut.

        Such a source may answer with a token that merges do not have, as the run file allows.
        """
        from apbmm_worker.engine.source_answers import SourceMerge

        checkpoints = self.sources.checkpoints  # maybe cut to a common vocabulary
        of_merges = checkpoints[self._spec.generation.template_from].config
        found = []
        for role in self._spec.sources.names:
            folder = checkpoints[role].path
            differences = config_differences(read_checkpoint(folder).config, of_merges)
            if self._spec.merge.vocabulary == "common" and "vocab_size" in differences:
                continue
            merge = self._planned(self._reference(role), reference=True)
            found.append(SourceMerge(role, folder, merge, differences))
        return found

    # ---- the engine ----

    def _start(
        self,
        checkpoint: Path,
        engine: EngineSection | None = None,
        generation: GenerationSection | None = None,
    ) -> ResidentEngine:
        from apbmm_worker.engine.resident import ResidentEngine

        self._progress("start engine", 0, 1)
        return ResidentEngine(
            engine or self._spec.engine,
            generation or self._spec.generation,
            self._checkpoints.at_one_path(checkpoint),
            self._inputs.device,
            self._inputs.engine,
        )


def ask(
    scoring: ScoringClient,
    engine: ResidentEngine,
    records: Path,
    progress: ReportProgress,
    kept: Mapping[str, Completion] = MappingProxyType({}),
    listener: AnswerListener | None = None,
    step: Step = EVERYTHING,
    early: EarlyEnd | None = None,
) -> EvalScopeResult:
    """Have an engine answer all questions; EvalScope's records go to the folder ``records``.

    ``kept`` and all that follow are as in `ScoringClient.evaluate`. There is no progress once the
    engine is free. Raises `EvaluationError`.
    """
    with contextlib.ExitStack() as until_free:
        signs = until_free.enter_context(
            TokenProgress(engine, lambda done, n: progress("evaluate", done, n))
        )

        def free(told: Callable[[], None]) -> None:
            until_free.close()
            told()

        if early is not None:
            early = replace(early, freed=partial(free, early.freed))
        return scoring.evaluate(
            engine, records, signs.answered, kept, listener, step, early, engine.count_tokens
        )


def _message_of(
    result: EvalScopeResult, stages: Mapping[str, float], how: Mapping[str, Any]
) -> Evaluated | Stepped:
    """The result of an evaluation: `Stepped` where it has not everything."""
    stages = {**stages, "evaluate": result.seconds, "report": result.report_seconds}
    engine = {**how, "kept_answers": result.kept} if result.kept else dict(how)
    if result.parts:
        return Stepped(benchmarks=result.parts, stages=stages, engine=engine)
    return Evaluated(benchmarks=result.benchmarks, stages=stages, engine=engine)


def records_folder(outputs: Path, evaluation: str) -> Path:
    """Where the records of an evaluation go. Raises `EvaluationError`."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", evaluation).lstrip(".")
    if not name:
        raise EvaluationError(f"{evaluation!r} is not a usable id", kind="infrastructure")
    return outputs / name


def _in_thread(work: Callable[[], T]) -> Future[T]:
    """What ``work`` returns or raises, in a thread of its own."""
    future = Future[T]()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name="evaluation", daemon=True).start()
    return future


def in_turn(columns: Sequence[Sequence[T]], limit: int) -> list[T]:
    """At most ``limit`` values: the first of each column, then the second of each, and so on."""
    rows = zip_longest(*(column[:limit] for column in columns), fillvalue=None)
    return [value for row in rows for value in row if value is not None][:limit]


def _check_paths(spec: RunSpec, inputs: LocalInputs) -> None:
    """Raise `SourceError` that names all missing folders and unusable data.

    It is a `DataError` where all that is wrong is in the data. Nothing heavy is imported.
    """
    faults = [
        f"{role}: {folder} is not a folder"
        for role, folder in inputs.sources.items()
        if not folder.is_dir()
    ]
    faults += [
        f"{role}: its adapter {folder} is not a folder"
        for role, folder in inputs.lora_adapters.items()
        if not folder.is_dir()
    ]
    if inputs.prompts is not None and not inputs.prompts.is_file():
        faults.append(f"prompts: {inputs.prompts} is not a file")
    if inputs.adapters is not None and not inputs.adapters.is_file():
        faults.append(f"adapters: {inputs.adapters} is not a file")
    is_missing = bool(faults)
    hints = []
    for benchmark in spec.benchmarks:
        try:
            found = select_questions(
                benchmark, inputs.benchmarks[benchmark.name], spec.generation.seed
            )
            for note in found.notes:
                _log.warning("benchmark %s: %s", benchmark.name, note)
        except UsageError as error:
            faults.append(error.message)
            hints.append(error.hint)
            is_missing |= not isinstance(error, DataError)
    if faults:
        hint = "name this worker's own folders with its --path options" if not hints else hints[0]
        raise (SourceError if is_missing else DataError)("; ".join(faults), hint)


def require_allowed_code(folder: Path, *, remote_code: bool) -> None:
    """As `require_code`, which needs transformers' own architectures for code that may not run."""
    # transformers takes seconds to import, so it is asked only if needed.
    known = model_types() if own_code(folder) and not remote_code else None
    require_code(folder, remote_code=remote_code, known_types=known)


def model_types() -> Container[str]:
    """Every ``model_type`` that transformers loads without code from the checkpoint."""
    from transformers import CONFIG_MAPPING

    return frozenset(CONFIG_MAPPING.keys())


def require_cards(device: str) -> None:
    """Raise `UsageError` unless PyTorch sees the cards of ``device``; does not initialise them."""
    if device == environment.CPU:
        return
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        raise UsageError(
            f"--gpu {device}: the PyTorch installed here is a build for the CPU",
            "pip install '.[worker]' into an environment of its own, or start it with --gpu cpu",
        )
    seen = torch.cuda.device_count()
    needed = environment.cards(device)
    if seen < needed:
        raise UsageError(
            f"--gpu {device}: PyTorch sees {seen} of {needed} cards",
            "nvidia-smi lists the cards of this host; --gpu cpu needs none",
        )
