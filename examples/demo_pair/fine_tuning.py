"""The fine-tunes: both checkpoints trained at once, through merges of them.

The layers are split among the skills. Every step sees two batches, each answered by a merge: one of
the four that take every skill from one checkpoint or the other, and one at random weights. So each
skill is learned in its own layers, independently of the weights of the other layers, and merges in
between answer as `skills.py` says that they should. Tensors outside the layers are trained at the
mean of the layers' weights, as apbmm merges them.
"""

from __future__ import annotations

import copy
import itertools
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from skills import Choice, Mix, Skill, taught_answer
from tasks import FAMILIES, MAX_STEPS, draw
from training import Row, Schedule, answer_loss, build_optimizers, collate, encode, rate, update

CHOICE_WEIGHT = 0.1
"""Weight of the choices' log-odds in the loss."""
LARGEST_LOG_ODDS = 6.0
"""More than this is not asked for."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """One batch: what a merge at `mix` should answer.

    Attributes:
        mix: the weight of the thinking checkpoint in each skill.
        tokens: (rows, longest).
        weights: (rows, longest), of each token in the cross-entropy; 0 for choices.
        choices: (count, 4): row, position, chosen token and other token of each choice.
        log_odds: (count,).
    """

    mix: Mix
    tokens: Tensor
    weights: Tensor
    choices: Tensor
    log_odds: Tensor


def skill_of(name: str, layers: int) -> Skill | None:
    """The skill that a tensor holds: `remark` in the first half of the layers, then `begin`."""
    pieces = name.split(".")
    if "layers" not in pieces:
        return None
    return "remark" if 2 * int(pieces[2]) < layers else "begin"


def share_of_remark(layers: int) -> float:
    """The share of the layers that hold `remark`."""
    return sum(2 * layer < layers for layer in range(layers)) / layers


def merged(thinking: Qwen3ForCausalLM, instruct: Qwen3ForCausalLM, mix: Mix) -> dict[str, Tensor]:
    """The parameters of a merge; gradients flow to both models."""
    layers = thinking.config.num_hidden_layers
    share = share_of_remark(layers)
    outside = share * mix["remark"] + (1 - share) * mix["begin"]
    instruct_parameters = dict(instruct.named_parameters())
    result = {}
    for name, parameter in thinking.named_parameters():
        skill = skill_of(name, layers)
        weight = outside if skill is None else mix[skill]
        result[name] = torch.lerp(instruct_parameters[name], parameter, weight)
    return result


def encoded_choices(
    tokenizer: PreTrainedTokenizerFast, row: int, answer: int, choices: list[Choice]
) -> list[tuple[int, int, int, int]]:
    """Row, position, chosen token and other token of the choices of an answer that starts there."""
    token = tokenizer.convert_tokens_to_ids
    return [
        (row, answer + each.index, token(each.chosen), token(each.otherwise)) for each in choices
    ]


def draw_lesson(
    tokenizer: PreTrainedTokenizerFast, rng: random.Random, mix: Mix, count: int
) -> Lesson:
    """Draw a batch of problems and what a merge at `mix` should answer."""
    rows: list[Row] = []
    choices: list[tuple[int, int, int, int]] = []
    log_odds: list[float] = []
    for row in range(count):
        family, steps = rng.choice(list(FAMILIES)), rng.randint(1, MAX_STEPS)
        problem = draw(rng, family, steps, held_out=False)
        words, taught = taught_answer(rng, problem, mix)
        tokens, weights = encode(tokenizer, problem, words)
        placed = encoded_choices(tokenizer, row, len(tokens) - len(words) - 1, taught)
        for _, position, _, _ in placed:
            weights[position] = 0.0
        rows.append((tokens, weights))
        choices.extend(placed)
        log_odds.extend(each.log_odds for each in taught)
    padded, padded_weights = collate(rows, tokenizer.pad_token_id)
    targets = torch.tensor(log_odds).clamp(-LARGEST_LOG_ODDS, LARGEST_LOG_ODDS)
    return Lesson(mix, padded, padded_weights, torch.tensor(choices), targets)


def lessons(
    tokenizer: PreTrainedTokenizerFast, schedule: Schedule, seed: int
) -> Iterator[tuple[Lesson, Lesson]]:
    """Yield the two batches of every step: a corner's, all four in turn, and a random merge's."""
    rng = random.Random(seed)
    corners = itertools.cycle(itertools.product((1.0, 0.0), repeat=2))
    for _ in range(schedule.steps):
        remark, begin = next(corners)
        corner: Mix = {"remark": remark, "begin": begin}
        between: Mix = {"remark": rng.random(), "begin": rng.random()}
        yield (
            draw_lesson(tokenizer, rng, corner, schedule.batch),
            draw_lesson(tokenizer, rng, between, schedule.batch),
        )


def lesson_loss(logits: Tensor, lesson: Lesson) -> Tensor:
    """Cross-entropy of the answers, and the choices' distance from their log-odds.

    At a choice all probability belongs to its two tokens, and their log-odds are fitted by a Huber
    loss.

    Args:
        logits: (rows, length, vocabulary).
        lesson: the batch that the logits answer.
    """
    row, position, chosen, otherwise = lesson.choices.unbind(1)
    scores = logits[row, position - 1]
    first = scores.gather(1, chosen[:, None])[:, 0]
    second = scores.gather(1, otherwise[:, None])[:, 0]
    elsewhere = (scores.logsumexp(1) - torch.logaddexp(first, second)).mean()
    distance = functional.huber_loss(first - second, lesson.log_odds, delta=2.0)
    answers = answer_loss(logits, lesson.tokens, lesson.weights)
    return answers + elsewhere + CHOICE_WEIGHT * distance


def fine_tune(
    base: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    schedule: Schedule,
    seed: int,
    report: Callable[[str], None],
) -> tuple[Qwen3ForCausalLM, Qwen3ForCausalLM]:
    """Train two copies of the base; deterministic in `seed`.

    Returns:
        The thinking and the instruct checkpoint.
    """
    thinking, instruct = copy.deepcopy(base), copy.deepcopy(base)
    pair = [(model, build_optimizers(model)) for model in (thinking, instruct)]
    started = time.monotonic()
    for step, drawn in enumerate(lessons(tokenizer, schedule, seed)):
        total = 0.0
        for lesson in drawn:
            parameters = merged(thinking, instruct, lesson.mix)
            logits = functional_call(base, parameters, kwargs={"input_ids": lesson.tokens}).logits
            loss = lesson_loss(logits, lesson)
            loss.backward()
            total += loss.item()
        for model, optimizers in pair:
            update(model, optimizers, rate(schedule, step))
        if step % 50 == 0 or step == schedule.steps - 1:
            report(f"step {step:5d}  loss {total:.4f}  {time.monotonic() - started:6.0f} s")
    return thinking, instruct
