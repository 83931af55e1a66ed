"""Hold the measurements' own decoding against vLLM, token for token.

    OMP_NUM_THREADS=1 python examples/demo_pair/check_vllm.py thinking

answers every scored problem with both, prints how many answers agree in every token (end token
included), and ends with status 1 if any prompt or answer differs.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Qwen3ForCausalLM

from decoding import MAX_NEW_TOKENS, generate
from make_problems import scored_problems
from vocabulary import prompt_text


def vllm_answers(folder: Path, questions: list[str]) -> tuple[list[list[int]], list[list[int]]]:
    """Prompt tokens and generated tokens of every question, by vLLM's chat interface."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from vllm import LLM, SamplingParams  # reads the environment on import

    engine = LLM(str(folder), dtype="float32", enforce_eager=True, max_model_len=256)
    chats: list[Any] = [[{"role": "user", "content": question}] for question in questions]
    settings = SamplingParams(temperature=0.0, max_tokens=MAX_NEW_TOKENS)
    outputs = engine.chat(chats, settings, use_tqdm=False)
    prompts = [list(output.prompt_token_ids or []) for output in outputs]
    return prompts, [list(output.outputs[0].token_ids) for output in outputs]


def main() -> None:
    """Compare both decoders on one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", choices=["thinking", "instruct"])
    folder = Path(__file__).parent / parser.parse_args().checkpoint
    torch.set_num_threads(1)
    questions = [each.question for group in scored_problems().values() for each in group]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompts = [tokenizer.encode(prompt_text(question)) for question in questions]
    answers = generate(model, prompts, end=tokenizer.eos_token_id, pad=tokenizer.pad_token_id)
    their_prompts, their_answers = vllm_answers(folder, questions)
    same = sum(mine == theirs for mine, theirs in zip(answers, their_answers, strict=True))
    print(f"{same} of {len(questions)} answers agree; prompts agree: {prompts == their_prompts}")
    sys.exit(0 if same == len(questions) and prompts == their_prompts else 1)


if __name__ == "__main__":
    main()
