"""Train a pair of models that apbmm was not designed against, for `searches.py`.

    PYTHONPATH=examples/demo_pair python -m benchmarks.pairs.second_pair --out DIR

writes `base/`, `thinking/`, `instruct/`, `problems/` (`second_pair_problems.py`) and `run.toml` to
DIR, in about eight minutes of one core. Every seed is fixed; with the same versions the run can be
repeated exactly.

What differs from the demo pair: Llama instead of Qwen3, 10 layers instead of 12, an output head of
its own, other tasks, and plain fine-tunes. A base is trained on all ways to answer, and each of the
two is fine-tuned from it alone, on one way to answer: thinking works everything out, instruct
answers at once. No merge takes part in the training, and no layer is told what to hold.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.pairs.run_file import run_file
from benchmarks.pairs.second_pair_problems import (
    MOST_STEPS,
    TASKS,
    WORDS,
    Problem,
    draw,
    write_problems,
)
from train import save
from training import (
    Row,
    Schedule,
    answer_loss,
    build_optimizers,
    collate,
    draw_parameters,
    rate,
    update,
)
from vocabulary import END_TOKEN, build_tokenizer, prompt_text

LAYERS, HIDDEN, INTERMEDIATE, HEADS, KEY_VALUE_HEADS = 10, 64, 176, 4, 2
BASE_SEED, FINE_TUNE_SEED = 5, 6
BASE: Final = Schedule(steps=1600, peak_rate=7e-3, curriculum=0.25)
FINE_TUNE: Final = Schedule(steps=160, peak_rate=1.5e-3, warm_up=10)

Answer = Callable[[Problem, random.Random], Sequence[str]]
"""Draws the steps of an answer, without the result itself."""


def worked_out(problem: Problem, rng: random.Random) -> Sequence[str]:
    """Every step in full: thinking's way."""
    del rng
    return problem.worked


def at_once(problem: Problem, rng: random.Random) -> Sequence[str]:
    """No step at all: instruct's way."""
    del problem, rng
    return ()


def in_any_way(problem: Problem, rng: random.Random) -> Sequence[str]:
    """The base's: in full, in full up to some step, or at once."""
    steps = len(problem.worked)
    return problem.worked[: rng.choice((steps, steps, rng.randrange(steps + 1), 0))]


def encoded(tokenizer: PreTrainedTokenizerFast, problem: Problem, steps: Sequence[str]) -> Row:
    """A prompt without weight, and its answer."""
    prompt = tokenizer.encode(prompt_text(problem.question))
    answer = tokenizer.encode(" ".join([*steps, "#", problem.answer, END_TOKEN]))
    return prompt + answer, [0.0] * len(prompt) + [1.0] * len(answer)


def batches(
    tokenizer: PreTrainedTokenizerFast, schedule: Schedule, seed: int, answer: Answer
) -> Iterator[tuple[Tensor, Tensor]]:
    """`(tokens, weights)` for every step; four batches at a time are sorted by length."""
    rng = random.Random(seed)
    step = 0
    while step < schedule.steps:
        progress = step / max(1.0, schedule.curriculum * schedule.steps)
        most = min(MOST_STEPS, 1 + int(MOST_STEPS * progress))
        rows = []
        for _ in range(4 * schedule.batch):
            problem = draw(rng, rng.choice(list(TASKS)), held_out=False, most_steps=most)
            rows.append(encoded(tokenizer, problem, answer(problem, rng)))
        rows.sort(key=lambda row: len(row[0]))
        groups = [rows[i : i + schedule.batch] for i in range(0, len(rows), schedule.batch)]
        rng.shuffle(groups)
        for group in groups[: schedule.steps - step]:
            yield collate(group, tokenizer.pad_token_id)
        step += len(groups)


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    schedule: Schedule,
    seed: int,
    answer: Answer,
) -> LlamaForCausalLM:
    """Train a model in place on one way to answer; deterministic in `seed`."""
    optimizers = build_optimizers(model)
    model.train()
    begun = time.monotonic()
    for step, (tokens, weights) in enumerate(batches(tokenizer, schedule, seed, answer)):
        loss = answer_loss(model(input_ids=tokens).logits, tokens, weights)
        loss.backward()
        update(model, optimizers, rate(schedule, step))
        if step % 50 == 0 or step == schedule.steps - 1:
            seconds = time.monotonic() - begun
            print(f"{answer.__name__} {step:5d}  {loss.item():.4f}  {seconds:.0f} s", flush=True)
    return model.eval()


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A random model; see `draw_parameters`."""
    torch.manual_seed(BASE_SEED)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=HIDDEN,
            intermediate_size=INTERMEDIATE,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=KEY_VALUE_HEADS,
            head_dim=32,
            max_position_embeddings=256,
            tie_word_embeddings=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            dtype="float32",
        )
    )
    draw_parameters(model, LAYERS)
    return model


def main() -> None:
    """Write problems and run file, train the base where it is missing, then the pair."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the pair")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    write_problems(options.out / "problems")
    run = run_file("second-pair", TASKS, "#", "float32")
    (options.out / "run.toml").write_text(run, encoding="utf-8")
    tokenizer = build_tokenizer(WORDS)
    folder = options.out / "base"
    if (folder / "model.safetensors").exists():
        base = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    else:
        base = train(new_model(tokenizer), tokenizer, BASE, BASE_SEED, in_any_way)
        save(base, tokenizer, folder)
    for name, answer in (("thinking", worked_out), ("instruct", at_once)):
        tuned = train(copy.deepcopy(base), tokenizer, FINE_TUNE, FINE_TUNE_SEED, answer)
        save(tuned, tokenizer, options.out / name)


if __name__ == "__main__":
    main()
