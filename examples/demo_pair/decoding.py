"""Merging two checkpoints in memory and decoding problems greedily: the measurements' own engine.

Small on purpose, and independent of apbmm's merge and of vLLM, so that each can be held against the
other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerFast, Qwen3ForCausalLM

from apbmm_worker.evaluation.demo_answers import extract_answer
from tasks import Problem
from vocabulary import prompt_text

MAX_NEW_TOKENS = 96
"""Token limit of an answer, end token included: the longest proper answer has 57."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a model did with a list of problems, one entry a problem.

    Attributes:
        correct: whether the extracted answer is the right one.
        tokens: generated tokens, the end token included (as vLLM and EvalScope count them).
        well_formed: whether an answer could be extracted.
    """

    correct: NDArray[np.bool_]
    tokens: NDArray[np.int64]
    well_formed: NDArray[np.bool_]


def merge(
    thinking: Mapping[str, Tensor], instruct: Mapping[str, Tensor], weights: Sequence[float]
) -> dict[str, Tensor]:
    """Merge layer by layer: `x_l * thinking + (1 - x_l) * instruct`.

    Tensors outside the layers get the mean of the weights, which is apbmm's default.
    """
    outside = sum(weights) / len(weights)
    merged = {}
    for name, tensor in thinking.items():
        parts = name.split(".")
        weight = weights[int(parts[2])] if parts[1] == "layers" else outside
        merged[name] = torch.lerp(instruct[name], tensor, weight)
    return merged


def left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Tokens and attention mask, each (rows, longest), padded on the left."""
    longest = max(len(row) for row in rows)
    tokens = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return tokens, mask


def generate(
    model: Qwen3ForCausalLM,
    prompts: Sequence[Sequence[int]],
    *,
    end: int,
    pad: int,
    limit: int = MAX_NEW_TOKENS,
) -> list[list[int]]:
    """Decode all prompts greedily in one batch.

    Returns:
        The new tokens of each prompt, up to and with the end token if it came within `limit`.
    """
    tokens, mask = left_padded(prompts, pad)
    cache = DynamicCache()
    answers: list[list[int]] = [[] for _ in prompts]
    active = torch.arange(len(prompts))
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    for _ in range(limit):
        with torch.inference_mode():
            logits = model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                logits_to_keep=1,
            ).logits[:, -1]
        chosen = logits.argmax(-1)
        for index, token in zip(active.tolist(), chosen.tolist(), strict=True):
            answers[index].append(token)
        going = (chosen != end).nonzero()[:, 0]
        if len(going) == 0:
            break
        if len(going) < len(chosen):
            cache.batch_select_indices(going)
            active, mask, positions = active[going], mask[going], positions[going]
        tokens = chosen[going, None]
        mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)
        positions = positions[:, -1:] + 1
    return answers


def evaluate(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, problems: Sequence[Problem]
) -> Outcome:
    """Answer problems and score them."""
    prompts = [tokenizer.encode(prompt_text(problem.question)) for problem in problems]
    answers = generate(model, prompts, end=tokenizer.eos_token_id, pad=tokenizer.pad_token_id)
    texts = [tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]
    found = [extract_answer(text) for text in texts]
    return Outcome(
        correct=np.array([a == p.answer for a, p in zip(found, problems, strict=True)]),
        tokens=np.array([len(answer) for answer in answers]),
        well_formed=np.array([each is not None for each in found]),
    )
