"""Batches, model and optimisation loop shared by the base model and its fine-tunes."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from tasks import FAMILIES, MAX_STEPS, Policy, Problem, answer_text, draw
from vocabulary import END_TOKEN, prompt_text

IGNORED: Final = -100
"""Label of the positions that carry no loss, as `Qwen3ForCausalLM` expects it."""

PolicyDraw = Callable[[random.Random, Problem], Policy]
"""Gives the policy that one training answer follows."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The architecture of one pair."""

    layers: int
    hidden: int = 64
    intermediate: int = 192
    heads: int = 4
    key_value_heads: int = 2
    head_dim: int = 32
    tied: bool = True


@dataclass(frozen=True, slots=True)
class Schedule:
    """The length and step size of one training.

    Attributes:
        steps: optimiser steps.
        peak_rate: learning rate after the warm-up; it then falls to a twentieth on a cosine.
        warm_up: steps over which the rate rises from zero.
        curriculum: share of the training over which the longest arithmetic problem grows from 2
            steps to `MAX_STEPS`; 0 for all lengths from the start. (Trails need none: short trails
            walked round and round are their easy cases.)
        batch: answers a step.
        first_weight: weight in the loss of an answer's first token, which decides between writing
            steps and answering at once; every other token weighs 1.
    """

    steps: int
    peak_rate: float
    warm_up: int = 40
    curriculum: float = 0.0
    batch: int = 48
    first_weight: float = 1.0


def build_model(shape: Shape, vocabulary: int, pad: int, end: int) -> Qwen3ForCausalLM:
    """Build a randomly initialised model that learns to copy quickly.

    Linear maps start with variance 1 / fan-in, those that write to the residual stream divided by
    2 * layers as well; the embeddings, tied to the output, with a standard deviation of 0.1.
    """
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=shape.hidden,
            intermediate_size=shape.intermediate,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.key_value_heads,
            head_dim=shape.head_dim,
            max_position_embeddings=256,
            tie_word_embeddings=shape.tied,
            pad_token_id=pad,
            eos_token_id=end,
            bos_token_id=None,
            dtype="float32",
        )
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                continue
            std = 0.1 if "embed" in name or "lm_head" in name else parameter.shape[1] ** -0.5
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std /= math.sqrt(2 * shape.layers)
            parameter.normal_(0.0, std)
    return model


def encode(
    tokenizer: PreTrainedTokenizerFast, problem: Problem, answer: str
) -> tuple[list[int], int]:
    """Tokens of prompt, answer and end token, and the number of prompt tokens."""
    prompt = tokenizer.encode(prompt_text(problem.question))
    return prompt + tokenizer.encode(f"{answer} {END_TOKEN}"), len(prompt)


def collate(rows: Sequence[tuple[list[int], int]], pad: int) -> tuple[Tensor, Tensor]:
    """Pad rows on the right to `(inputs, labels)`, each (rows, longest); prompts carry no loss."""
    longest = max(len(tokens) for tokens, _ in rows)
    inputs = torch.full((len(rows), longest), pad)
    labels = torch.full((len(rows), longest), IGNORED)
    for index, (tokens, prompt) in enumerate(rows):
        row = torch.tensor(tokens)
        inputs[index, : len(tokens)] = row
        labels[index, prompt : len(tokens)] = row[prompt:]
    return inputs, labels


def batches(
    tokenizer: PreTrainedTokenizerFast, policy: PolicyDraw, schedule: Schedule, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield `(inputs, labels)` for every step; four batches at a time are sorted by length."""
    rng = random.Random(seed)
    families = list(FAMILIES)
    pad = tokenizer.pad_token_id
    step = 0
    while step < schedule.steps:
        progress = step / max(1.0, schedule.curriculum * schedule.steps)
        longest = min(MAX_STEPS, 2 + int((MAX_STEPS - 1) * progress))
        rows = []
        for _ in range(4 * schedule.batch):
            family = rng.choice(families)
            steps = rng.randint(1, longest if family == "chain_arithmetic" else MAX_STEPS)
            problem = draw(rng, family, steps, held_out=False)
            answer = answer_text(problem, policy(rng, problem), rng)
            rows.append(encode(tokenizer, problem, answer))
        rows.sort(key=lambda row: len(row[0]))
        groups = [rows[i : i + schedule.batch] for i in range(0, len(rows), schedule.batch)]
        rng.shuffle(groups)
        for group in groups[: schedule.steps - step]:
            yield collate(group, pad)
        step += len(groups)


def rate(schedule: Schedule, step: int) -> float:
    """Learning rate of a step: linear warm-up, then a cosine down to a twentieth of the peak."""
    warm = min(1.0, (step + 1) / schedule.warm_up)
    cosine = 0.5 * (1 + math.cos(math.pi * step / schedule.steps))
    return schedule.peak_rate * warm * (0.05 + 0.95 * cosine)


def build_optimizers(model: Qwen3ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings and norms, at one learning rate.

    Muon learns this task in about half the steps; its updates are scaled to AdamW's size.
    """
    inner: list[torch.nn.Parameter] = []
    outer: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (inner if parameter.ndim == 2 and ".layers." in name else outer).append(parameter)
    return [
        torch.optim.Muon(inner, lr=0.0, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, lr=0.0, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def answer_loss(logits: Tensor, labels: Tensor, first_weight: float) -> Tensor:
    """Weighted mean cross-entropy of the answers' tokens.

    Args:
        logits: (rows, length, vocabulary).
        labels: (rows, length), IGNORED outside the answers.
        first_weight: weight of an answer's first token; the others weigh 1.
    """
    answered = labels != IGNORED
    first = answered[:, 1:] & ~answered[:, :-1]
    weights = answered[:, 1:] + (first_weight - 1) * first
    losses = functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="none"
    )
    return (losses * weights).sum() / weights.sum()


def train(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    policy: PolicyDraw,
    schedule: Schedule,
    seed: int,
    report: Callable[[str], None],
) -> None:
    """Train a model in place on answers that follow a policy; deterministic in `seed`."""
    optimizers = build_optimizers(model)
    model.train()
    started = time.monotonic()
    for step, (inputs, labels) in enumerate(batches(tokenizer, policy, schedule, seed)):
        loss = answer_loss(model(input_ids=inputs).logits, labels, schedule.first_weight)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate(schedule, step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0 or step == schedule.steps - 1:
            seconds = time.monotonic() - started
            report(f"step {step:5d}  loss {loss.item():.4f}  {seconds:6.0f} s")
    model.eval()
