"""Train a third source, for searches of merges of three: another fine-tune of the pair's base.

    python examples/demo_pair/train_picker.py [--base DIR] [--out DIR] [--threads 2]

writes `picker/` and `problems/largest_digit/test.jsonl` to `--out`. The task is one that the pair
was not trained for: `hop 4 7 1 9` asks for the largest digit, `# 9`. Every seed is fixed; with the
same versions and the same number of threads the run can be repeated exactly.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from make_problems import write_lines
from policies import base_policy
from tasks import DIGITS, FAMILIES, HELD_OUT_SHARE, MAX_STEPS, Problem, answer_words, draw
from train import save
from training import (
    Schedule,
    answer_loss,
    build_optimizers,
    collate,
    encode,
    rate,
    update,
)
from vocabulary import build_tokenizer

logger = logging.getLogger("train")

SEED: Final = 30
SCHEDULE: Final = Schedule(steps=240, peak_rate=2e-3, warm_up=10)
SHARE: Final = 0.75
"""Of the batches that is the new task; the rest keeps the answers of the base."""
MOST_DIGITS: Final = 9
PROBLEMS: Final = 208


def largest_digit(rng: random.Random) -> Problem:
    """Draw a problem with two to nine digits."""
    digits = [rng.choice(DIGITS) for _ in range(rng.randint(2, MOST_DIGITS))]
    answer = (max(digits),)
    return Problem("largest_digit", f"hop {' '.join(digits)}", answer, answer, answer)


def draw_largest(rng: random.Random, *, held_out: bool) -> Problem:
    """Draw a problem of the test side, or of the training side."""
    while True:
        problem = largest_digit(rng)
        digest = hashlib.sha256(problem.question.encode()).digest()
        if (digest[0] % HELD_OUT_SHARE == 0) is held_out:
            return problem


def batches(tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[Tensor, Tensor]]:
    """`(tokens, weights)` for every step."""
    rng = random.Random(SEED)
    for _ in range(SCHEDULE.steps):
        drawn = new_task if rng.random() < SHARE else old_tasks
        rows = [encode(tokenizer, *drawn(rng)) for _ in range(SCHEDULE.batch)]
        yield collate(rows, tokenizer.pad_token_id)


def new_task(rng: random.Random) -> tuple[Problem, list[str]]:
    """A problem of the new task, and its answer."""
    problem = draw_largest(rng, held_out=False)
    return problem, ["#", problem.answer]


def old_tasks(rng: random.Random) -> tuple[Problem, list[str]]:
    """A problem that the base was trained on, and an answer of the base."""
    family = rng.choice(list(FAMILIES))
    problem = draw(rng, family, rng.randint(1, MAX_STEPS), held_out=False)
    return problem, answer_words(problem, base_policy(rng), rng)


def train_picker(base: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Fine-tune the base in place."""
    optimizers = build_optimizers(base)
    base.train()
    started = time.monotonic()
    for step, (tokens, weights) in enumerate(batches(tokenizer)):
        loss = answer_loss(base(input_ids=tokens).logits, tokens, weights)
        loss.backward()
        update(base, optimizers, rate(SCHEDULE, step))
        if step % 50 == 0 or step == SCHEDULE.steps - 1:
            seconds = time.monotonic() - started
            logger.info("step %5d  loss %.4f  %6.0f s", step, loss.item(), seconds)
    base.eval()


def write_problems(file: Path) -> None:
    """Write distinct problems of the test side."""
    rng = random.Random(SEED + 1)
    drawn: dict[str, Problem] = {}
    while len(drawn) < PROBLEMS:
        problem = draw_largest(rng, held_out=True)
        drawn[problem.question] = problem
    write_lines(
        file,
        (
            {"id": f"largest_digit-{number:03d}", "question": each.question, "answer": each.answer}
            for number, each in enumerate(drawn.values())
        ),
    )


def main() -> None:
    """Train the checkpoint, and write it and its problems."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, default=here / "base", help="folder of the base")
    parser.add_argument("--out", type=Path, default=here, help="folder for checkpoint and problems")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    tokenizer = build_tokenizer()
    picker = Qwen3ForCausalLM.from_pretrained(arguments.base, dtype=torch.float32)
    write_problems(arguments.out / "problems" / "largest_digit" / "test.jsonl")
    train_picker(picker, tokenizer)
    save(picker, tokenizer, arguments.out / "picker")


if __name__ == "__main__":
    main()
