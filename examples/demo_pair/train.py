"""Train the demo pair from scratch: a shared base, two short fine-tunes, a tiny pair for tests.

    python examples/demo_pair/train.py --out DIR [--threads 2] [--keep-base DIR]

writes `thinking/`, `instruct/`, `tiny_thinking/` and `tiny_instruct/` to DIR. Every seed is fixed;
with the same versions and the same number of threads the run can be repeated exactly.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import time
from pathlib import Path
from typing import Final

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3ForCausalLM

from fine_tuning import fine_tune
from training import Schedule, Shape, build_model, train_base
from vocabulary import build_tokenizer

logger = logging.getLogger("train")

BASE_SEED: Final = 1
FINE_TUNE_SEED: Final = 20

MAIN_SHAPE: Final = Shape(layers=12)
MAIN_BASE: Final = Schedule(steps=3600, peak_rate=7e-3, curriculum=0.12, batch=48)
MAIN_FINE_TUNE: Final = Schedule(steps=480, peak_rate=2e-3, warm_up=10)

TINY_SHAPE: Final = Shape(
    layers=3, hidden=32, intermediate=64, heads=2, key_value_heads=1, tied=False
)
TINY_BASE: Final = Schedule(steps=120, peak_rate=1e-2, batch=40)
TINY_FINE_TUNE: Final = Schedule(steps=60, peak_rate=5e-3, batch=40)


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a Hugging Face folder that decodes greedily and stops at the end token.

    The tokenizer's class is written under the name that transformers 4 and 5 both know.
    """
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def new_base(
    tokenizer: PreTrainedTokenizerFast, shape: Shape, schedule: Schedule
) -> Qwen3ForCausalLM:
    """Train a base, which knows every way to answer."""
    torch.manual_seed(BASE_SEED)
    model = build_model(shape, len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id)
    train_base(model, tokenizer, schedule, BASE_SEED, logger.info)
    return model


def main_base(tokenizer: PreTrainedTokenizerFast, keep: Path | None) -> Qwen3ForCausalLM:
    """The main pair's base: read from `keep` if it is there, else trained and kept there."""
    if keep is not None and (keep / "model.safetensors").exists():
        logger.info("base read from %s", keep)
        return Qwen3ForCausalLM.from_pretrained(keep, dtype=torch.float32)
    base = new_base(tokenizer, MAIN_SHAPE, MAIN_BASE)
    if keep is not None:
        save(base, tokenizer, keep)
    return base


def main() -> None:
    """Train both pairs and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoints")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--keep-base", type=Path, help="where to keep, and look for, the base")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    random.seed(0)
    started = time.monotonic()
    tokenizer = build_tokenizer()
    base = main_base(tokenizer, arguments.keep_base)
    tiny = new_base(tokenizer, TINY_SHAPE, TINY_BASE)
    for prefix, start, schedule in (("", base, MAIN_FINE_TUNE), ("tiny_", tiny, TINY_FINE_TUNE)):
        pair = fine_tune(start, tokenizer, schedule, FINE_TUNE_SEED, logger.info)
        for side, model in zip(("thinking", "instruct"), pair, strict=True):
            save(model, tokenizer, arguments.out / f"{prefix}{side}")
    logger.info("done in %.0f s", time.monotonic() - started)


if __name__ == "__main__":
    main()
