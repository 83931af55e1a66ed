"""Checkpoints that bring Python code, each file of which leaves a mark when it is run."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_checkpoints import edit_config, write_json

CODE = {
    "configuration_own": """
from transformers import Qwen3Config


class OwnConfig(Qwen3Config):
    model_type = {model_type!r}
""",
    "modeling_own": """
from transformers import Qwen3ForCausalLM, Qwen3Model

from .configuration_own import OwnConfig


class OwnModel(Qwen3Model):
    config_class = OwnConfig


class OwnForCausalLM(Qwen3ForCausalLM):
    config_class = OwnConfig
""",
    "tokenization_own": """
from transformers import PreTrainedTokenizerFast


class OwnTokenizer(PreTrainedTokenizerFast):
    pass
""",
}
FILES = {f"{name}.py" for name in CODE}


def give_own_code(folder: Path, marks: Path, *, known: bool = False) -> None:
    """Let a tiny Qwen3 bring its own classes; ``known``: as a Qwen3, which needs none.

    Files that are run write their name into the folder ``marks``.
    """
    marks.mkdir(exist_ok=True)
    model_type = "qwen3" if known else "own_architecture"
    for name, code in CODE.items():
        mark = f"import pathlib\n\npathlib.Path({str(marks / name)!r}).touch()\n"
        (folder / f"{name}.py").write_text(mark + code.format(model_type=model_type))
    edit_config(
        folder,
        model_type=model_type,
        architectures=["Qwen3ForCausalLM" if known else "OwnForCausalLM"],
        auto_map={
            "AutoConfig": "configuration_own.OwnConfig",
            "AutoModel": "modeling_own.OwnModel",
            "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
        },
    )
    file = folder / "tokenizer_config.json"
    own = {
        "tokenizer_class": "OwnTokenizer",
        "auto_map": {"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]},
    }
    write_json(file, json.loads(file.read_text()) | own)


def that_ran(marks: Path) -> set[str]:
    """Names of the files that were run."""
    return {f"{mark.name}.py" for mark in marks.iterdir()}
