"""Full evaluations of merges of a pair by one resident vLLM and EvalScope, kept on disk.

`serve` holds the engine, a `Pipeline` as the worker's child does, and answers clients on a socket
in the store's folder, one vector after another. A vector that was evaluated before is read from
`evaluations.jsonl`. So methods and runs share evaluations, and clients may run in environments
without vLLM. All merges answer the same fixed sample of the pair's questions, at temperature 0. The
pair is that of a run file, the demo's by default.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from apbmm_common.run_file import RunSpec

Array = npt.NDArray[np.float64]
KEY = b"merges of a pair"
DECIMALS = 6
DISCREPANCY = "discrepancy.json"
ASKED = "asked.json"


@dataclass(frozen=True)
class Benchmark:
    """Scores and generated tokens of one merge, question by question."""

    scores: tuple[float, ...]
    tokens: tuple[int, ...]

    def measured(self) -> dict[str, float]:
        """The means, as Eq. 2 takes them."""
        return {
            "accuracy": float(np.mean(self.scores)),
            "tokens": float(np.mean(self.tokens)),
            "questions": len(self.scores),
        }


@dataclass(frozen=True)
class Discrepancy:
    """The prior's two measures (Eq. 5 and 8), one number for each layer."""

    parameter: tuple[float, ...]
    activation: tuple[float, ...]


Evaluation = dict[str, Benchmark]


@dataclass(frozen=True)
class Asked:
    """What all evaluations of a store are of.

    - `pair`: the name of the run file's run; `layers`: of its models;
    - `sample`: questions of each benchmark, None for all of them;
    - `confirming`: the questions are those of the run file's `[[confirm.benchmarks]]`;
    - `grid`: the vectors are those of the grid of this model-level method, and not layer-wise.
    """

    pair: str
    layers: int
    sample: int | None = None
    confirming: bool = False
    grid: str | None = None

    @classmethod
    def kept(cls, folder: Path) -> Asked | None:
        """That of a store, if it has been served."""
        file = folder / ASKED
        return cls(**json.loads(file.read_text())) if file.exists() else None

    def keep(self, folder: Path) -> None:
        """Write it to a store; refuse to mix evaluations of different questions in one."""
        if (Asked.kept(folder) or self) != self:
            raise SystemExit(f"{folder} holds evaluations of other questions: {Asked.kept(folder)}")
        (folder / ASKED).write_text(json.dumps(asdict(self)))


class Evaluations:
    """The client: what the store in `folder` has, and from its server what it lacks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known = dict(kept(folder))
        asked = Asked.kept(folder)
        if asked is None:
            raise SystemExit(f"{folder} is no store: `searches serve` makes one")
        self.asked = asked

    @property
    def layers(self) -> int:
        """The number of layers of the pair."""
        return self.asked.layers

    def of(self, vector: npt.ArrayLike) -> Evaluation:
        """All outcomes of a merge, by benchmark."""
        key = rounded(vector)
        if key not in self._known:
            self._known[key] = self._asked(key)
        return self._known[key]

    def discrepancy(self) -> Discrepancy:
        """How much the two sources differ, layer by layer."""
        found: Discrepancy = kept_discrepancy(self._folder) or self._asked(())
        return found

    def _asked(self, request: tuple[float, ...]) -> Any:
        with Client(str(self._folder / "socket"), authkey=KEY) as connection:
            connection.send(request)
            return connection.recv()


def rounded(vector: npt.ArrayLike) -> tuple[float, ...]:
    """A vector as it is evaluated and kept."""
    return tuple(np.round(np.asarray(vector, dtype=np.float64), DECIMALS).tolist())


class Store:
    """What is kept in a folder, and what measures the rest."""

    def __init__(
        self,
        folder: Path,
        evaluate: Callable[[Sequence[float]], Evaluation],
        measure: Callable[[], Discrepancy],
    ) -> None:
        self._folder, self._file = folder, folder / "evaluations.jsonl"
        self._evaluate, self._measure = evaluate, measure
        self._known = dict(kept(folder))

    def answer(self, request: tuple[float, ...]) -> Evaluation | Discrepancy:
        """The evaluation of a vector; the discrepancy for an empty one."""
        if not request:
            return self._discrepancy()
        if request not in self._known:
            found = self._evaluate(request)
            line = {"x": request, "benchmarks": {name: asdict(b) for name, b in found.items()}}
            with self._file.open("a") as file:
                file.write(json.dumps(line) + "\n")
            self._known[request] = found
        return self._known[request]

    def _discrepancy(self) -> Discrepancy:
        found = kept_discrepancy(self._folder)
        if found is None:
            found = self._measure()
            (self._folder / DISCREPANCY).write_text(json.dumps(asdict(found)))
        return found


def kept_discrepancy(folder: Path) -> Discrepancy | None:
    """The discrepancy in a store, if it was measured."""
    file = folder / DISCREPANCY
    if not file.exists():
        return None
    values = json.loads(file.read_text())
    return Discrepancy(tuple(values["parameter"]), tuple(values["activation"]))


def kept(folder: Path) -> Iterator[tuple[tuple[float, ...], Evaluation]]:
    """Every evaluation in a store, by vector."""
    file = folder / "evaluations.jsonl"
    for line in file.read_text().splitlines() if file.exists() else ():
        entry = json.loads(line)
        yield (
            tuple(entry["x"]),
            {
                name: Benchmark(tuple(b["scores"]), tuple(b["tokens"]))
                for name, b in entry["benchmarks"].items()
            },
        )


def serve(
    folder: Path, run_file: Path | None, sample: int | None, *, confirming: bool, grid: str | None
) -> None:
    """Answer clients until interrupted.

    `run_file` is the pair's, the demo's by default. Each merge is asked `sample` questions of each
    benchmark, or all. `confirming` and `grid` are as in `Asked`.
    """
    from apbmm_common.datasets.demo_pair import RUN_FILE, demo_folder
    from apbmm_common.run_file import load_run_file

    spec = load_run_file(run_file or demo_folder() / RUN_FILE)
    config = Path(next(iter(spec.sources.folders.values()))) / "config.json"
    layers = json.loads(config.read_text())["num_hidden_layers"]
    folder.mkdir(parents=True, exist_ok=True)
    Asked(spec.name, layers, sample, confirming, grid).keep(folder)
    if confirming:
        spec = spec.model_copy(update={"benchmarks": spec.confirm.benchmarks})
    if grid:
        algorithm = spec.algorithm.model_copy(update={"name": grid})
        spec = spec.model_copy(update={"algorithm": algorithm})
    measuring = Measuring(folder, spec, sample, layers)
    socket = folder / "socket"
    socket.unlink(missing_ok=True)
    try:
        store = Store(folder, measuring.evaluate, measuring.discrepancy)
        with Listener(str(socket), authkey=KEY) as listener:
            print(f"answering at {socket}", flush=True)
            while True:
                answer_next(listener, store)
    finally:
        measuring.close()


def answer_next(listener: Listener, store: Store) -> None:
    """Answer one client. One that is gone, even while it waited, ends nobody else's search."""
    with suppress(EOFError, ConnectionError), listener.accept() as connection:
        connection.send(store.answer(connection.recv()))


class Measuring:
    """The worker's own pipeline on a run file."""

    def __init__(self, folder: Path, spec: RunSpec, sample: int | None, layers: int) -> None:
        from apbmm_common.checkpoint.roles import BASE_ROLE
        from apbmm_common.datasets.benchmark_folders.selection import places_of
        from apbmm_worker.child.pipeline import LocalInputs, Pipeline

        asked = [b.model_copy(update={"sample": sample}) for b in spec.benchmarks]
        engine = {"max_num_seqs": 512, **spec.engine.arguments}
        spec = spec.model_copy(
            update={
                "benchmarks": tuple(asked),
                "engine": spec.engine.model_copy(update={"arguments": engine}),
            }
        )
        sources = {role: Path(path) for role, path in spec.sources.with_base.items()}
        sources.setdefault(BASE_ROLE, sources[spec.sources.names[-1]])
        prompts = Path(spec.prior.prompts) if spec.prior.prompts else None
        places = {benchmark.name: places_of(benchmark) for benchmark in spec.benchmarks}
        inputs = LocalInputs(sources, places, prompts, folder / "scratch", "cpu")
        self._pipeline = Pipeline(spec, inputs, lambda *_: None)
        self._layers = layers
        self._outputs = folder / "scratch" / "outputs"

    def evaluate(self, vector: Sequence[float]) -> Evaluation:
        """Merge, load, ask and score; one weight of 0 or 1 for all layers is a source."""
        source = len(vector) == self._layers and set(vector) in ({0.0}, {1.0})
        result = self._pipeline.evaluate("merge", vector, self._outputs, reference=source)
        return {
            name: Benchmark(
                tuple(row[1] for row in sorted(found.outcomes)),
                tuple(row[2] for row in sorted(found.outcomes)),
            )
            for name, found in result.benchmarks.items()
        }

    def discrepancy(self) -> Discrepancy:
        """Measure the prior."""
        found = self._pipeline.measure()
        return Discrepancy(found.parameter, found.activation)

    def close(self) -> None:
        """Stop the engine and the scoring."""
        self._pipeline.close()
