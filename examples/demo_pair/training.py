"""Model, batches and optimisation loop of the base, and what the fine-tunes share with them."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from policies import base_policy
from tasks import FAMILIES, MAX_STEPS, Problem, answer_words, draw
from vocabulary import END_TOKEN, prompt_text


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
        batch: answers a batch.
    """

    steps: int
    peak_rate: float
    warm_up: int = 40
    curriculum: float = 0.0
    batch: int = 48


def build_model(shape: Shape, vocabulary: int, pad: int, end: int) -> Qwen3ForCausalLM:
    """Build a randomly initialised model that learns to copy quickly; see `draw_parameters`."""
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
    draw_parameters(model, shape.layers)
    return model


def draw_parameters(model: PreTrainedModel, layers: int) -> None:
    """Draw the initial parameters of a model with so many layers.

    Linear maps start with variance 1 / fan-in, those that write to the residual stream divided by
    2 * layers as well; embeddings and output head with a standard deviation of 0.1.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                continue
            std = 0.1 if "embed" in name or "lm_head" in name else parameter.shape[1] ** -0.5
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std /= math.sqrt(2 * layers)
            parameter.normal_(0.0, std)


Row = tuple[list[int], list[float]]
"""The tokens of prompt and answer, and the weight of each in the loss."""


def encode(tokenizer: PreTrainedTokenizerFast, problem: Problem, words: Sequence[str]) -> Row:
    """Encode a prompt, its answer and the end token; the prompt has no weight."""
    prompt = tokenizer.encode(prompt_text(problem.question))
    answer = tokenizer.encode(" ".join([*words, END_TOKEN]))
    return prompt + answer, [0.0] * len(prompt) + [1.0] * len(answer)


def collate(rows: Sequence[Row], pad: int) -> tuple[Tensor, Tensor]:
    """Pad rows on the right to `(tokens, weights)`, each (rows, longest); padding has no weight."""
    longest = max(len(tokens) for tokens, _ in rows)
    tokens = torch.full((len(rows), longest), pad)
    weights = torch.zeros(len(rows), longest)
    for index, (row, row_weights) in enumerate(rows):
        tokens[index, : len(row)] = torch.tensor(row)
        weights[index, : len(row)] = torch.tensor(row_weights)
    return tokens, weights


def batches(
    tokenizer: PreTrainedTokenizerFast, schedule: Schedule, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield `(tokens, weights)` for every step; four batches at a time are sorted by length."""
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
            rows.append(encode(tokenizer, problem, answer_words(problem, base_policy(rng), rng)))
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


def answer_loss(logits: Tensor, tokens: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean cross-entropy of the answers' tokens.

    Args:
        logits: (rows, length, vocabulary).
        tokens: (rows, length).
        weights: (rows, length); 0 outside the answers.
    """
    losses = functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none"
    )
    return (losses * weights[:, 1:]).sum() / weights[:, 1:].sum()


def update(
    model: Qwen3ForCausalLM, optimizers: Iterable[torch.optim.Optimizer], learning_rate: float
) -> None:
    """Take one step along the gradients, clipped to norm 1, and clear them."""
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def train_base(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    schedule: Schedule,
    seed: int,
    report: Callable[[str], None],
) -> None:
    """Train a model in place on the base's ways of answering; deterministic in `seed`."""
    optimizers = build_optimizers(model)
    model.train()
    started = time.monotonic()
    for step, (tokens, weights) in enumerate(batches(tokenizer, schedule, seed)):
        loss = answer_loss(model(input_ids=tokens).logits, tokens, weights)
        loss.backward()
        update(model, optimizers, rate(schedule, step))
        if step % 50 == 0 or step == schedule.steps - 1:
            seconds = time.monotonic() - started
            report(f"step {step:5d}  loss {loss.item():.4f}  {seconds:6.0f} s")
    model.eval()
