"""The models of `language_pair.py`: a dequantised base and its fine-tunes."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.pairs.language_pair_problems import GRADES, WORD_PROBLEMS, worded
from benchmarks.pairs.second_pair_problems import Problem, draw
from train import save
from training import Row, Schedule, collate, rate

SEED = 8
SCHEDULES: Final = {
    "thinking": Schedule(steps=40, peak_rate=5e-4, warm_up=5, batch=8),
    "instruct": Schedule(steps=72, peak_rate=5e-4, warm_up=5, batch=8),
}
"""About as much time for each: answers at once are shorter, and say less to learn from."""
REPORT_EVERY = 4
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def limit_threads(count: int) -> None:
    """Use so many threads of the CPU."""
    torch.set_num_threads(count)


def dequantise(gguf: Path, folder: Path) -> None:
    """Write the model of a GGUF file as a plain folder in bfloat16.

    Its weights go into a new model: that which was read keeps its quantisation and is not stored.
    """
    read = LlamaForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    settings = read.config.to_dict()
    del settings["quantization_config"]
    model = LlamaForCausalLM(LlamaConfig(**settings)).to(torch.bfloat16)
    model.load_state_dict(read.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.chat_template = TEMPLATE
    save(model, tokenizer, folder)


def fine_tune(base: Path, folder: Path, way: str, device: str) -> None:
    """Train all layers of a copy of the base on one way to answer, `thinking` or `instruct`."""
    torch.manual_seed(SEED)
    schedule = SCHEDULES[way]
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32).to(device).train()
    model.model.embed_tokens.weight.requires_grad_(requires_grad=False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, betas=(0.9, 0.98), fused=True)
    begun = time.monotonic()
    for step, (tokens, weights) in enumerate(batches(tokenizer, way)):
        loss = answer_loss(model, tokens.to(device), weights.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate(schedule, step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % REPORT_EVERY == 0 or step == schedule.steps - 1:
            spent = f"{time.process_time():.0f} CPU s, {time.monotonic() - begun:.0f} s"
            print(f"{way} {step:4d}  {loss.item():.4f}  {spent}", flush=True)
    save(model.to(torch.bfloat16).cpu(), tokenizer, folder)


def answer_loss(model: LlamaForCausalLM, tokens: Tensor, weights: Tensor) -> Tensor:
    """Mean cross-entropy of the answers' tokens, computed in bfloat16 with float32 weights.

    `tokens` and `weights` are (rows, length); the head is asked where the next token has weight.
    """
    with torch.autocast(tokens.device.type, torch.bfloat16):
        hidden = model.model(input_ids=tokens).last_hidden_state[:, :-1]
        asked = weights[:, 1:] > 0
        logits = model.lm_head(hidden[asked])
    return functional.cross_entropy(logits.float(), tokens[:, 1:][asked])


def batches(tokenizer: PreTrainedTokenizerFast, way: str) -> Iterator[tuple[Tensor, Tensor]]:
    """`(tokens, weights)` for every step; four batches at a time are sorted by length."""
    rng = random.Random(SEED)
    kinds = list(WORD_PROBLEMS)
    size = SCHEDULES[way].batch
    for _ in range(0, SCHEDULES[way].steps, 4):
        drawn = [
            draw(rng, rng.choice(kinds), held_out=False, most_steps=GRADES, tasks=WORD_PROBLEMS)
            for _ in range(4 * size)
        ]
        rows = [encoded(tokenizer, problem, way) for problem in drawn]
        rows.sort(key=lambda row: len(row[0]))
        groups = [rows[i : i + size] for i in range(0, len(rows), size)]
        rng.shuffle(groups)
        for group in groups:
            yield collate(group, tokenizer.pad_token_id)


def encoded(tokenizer: PreTrainedTokenizerFast, problem: Problem, way: str) -> Row:
    """A prompt without weight, and its answer with the end token."""
    asked = [{"role": "user", "content": problem.question}]
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    answer = worded(problem.worked if way == "thinking" else (), problem.answer)
    before = tokenizer.encode(prompt, add_special_tokens=False)
    after = tokenizer.encode(answer + tokenizer.eos_token, add_special_tokens=False)
    return before + after, [0.0] * len(before) + [1.0] * len(after)
