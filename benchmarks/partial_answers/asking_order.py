"""What an engine gains if it begins the answers first that are expected to be long. Simulated.

    python -m benchmarks.partial_answers.asking_order

The answers are those of `simulated_answers` (130 questions, up to 35,000 tokens), of random merges
one after another, and the engine's time is that of `engine_step`. The order is random, by what the
two sources and the merges before have taken (as a worker has it), or by the true lengths. The ratio
is that to the random order of the same merge, with a 95 % interval over the landscapes
(Student's t). Memory for keys and values, whose lack makes vLLM put answers off, is not simulated.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from apbmm_worker.evaluation.asking_order import AnswerLengths, asking_order
from benchmarks.partial_answers.simulated_answers import (
    QUESTIONS,
    SIZES,
    AnswerWorld,
    engine_step,
)
from benchmarks.tables import command_line, half_width, made_by, markdown

Array = npt.NDArray[np.float64]
FAMILIES = ("calibrated", "network")
LANES = (12, 32, 64, 128)
DIMENSIONS, NOISE = 12, 0.4


def orders(world: AnswerWorld, merges: int) -> Iterator[tuple[Array, Sequence[Sequence[int]]]]:
    """The tokens of each merge, and its questions in the three orders."""
    rng = np.random.default_rng(world.seed)
    lengths = AnswerLengths()
    for weight in (0.0, 1.0):
        lengths.learn(numbered(world.answers(np.full(DIMENSIONS, weight))[1]))
    sizes = dict(zip(("gpqa", "aime"), SIZES, strict=True))
    of_run = asking_order(sizes, world.seed)
    for _ in range(merges):
        tokens = world.answers(rng.random(DIMENSIONS))[1]
        true = AnswerLengths()
        true.learn(numbered(tokens))
        yield tokens, (of_run, lengths.longest_first(of_run), true.longest_first(of_run))
        lengths.learn(numbered(tokens))


def numbered(tokens: Array) -> dict[int, int]:
    """Tokens by the numbers of the questions."""
    return {number: round(float(length)) for number, length in enumerate(tokens)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--merges", type=int, default=8)
    options = parser.parse_args()
    rows = [["merges", "at once", "seconds, random order", "by earlier merges", "by true lengths"]]
    for family in FAMILIES:
        worlds = [AnswerWorld(family, seed, DIMENSIONS, NOISE) for seed in range(options.seeds)]
        asked = [list(orders(world, options.merges)) for world in worlds]
        for lanes in LANES:
            seconds = np.array(
                [
                    [
                        [engine_step(tokens[order], lanes, QUESTIONS).seconds for order in three]
                        for tokens, three in merges
                    ]
                    for merges in asked
                ]
            )
            ratios = (seconds / seconds[..., :1]).mean(axis=1)
            cells = [f"{ratios[:, k].mean():.3f} ± {half_width(ratios[:, k]):.3f}" for k in (1, 2)]
            rows.append([family, str(lanes), f"{seconds[..., 0].mean():,.0f}", *cells])
    print(made_by(command_line()) + "\n" + markdown(rows))


if __name__ == "__main__":
    main()
