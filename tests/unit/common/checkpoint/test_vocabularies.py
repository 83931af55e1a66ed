"""Sources cut to the rows of the vocabulary that all have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from apbmm_common.checkpoint.compatibility import compatibility_faults, compatibility_warnings
from apbmm_common.checkpoint.headers import Checkpoint, read_checkpoint
from apbmm_common.checkpoint.vocabularies import (
    different_tokens,
    read_vocabulary,
    renamed_tokens,
    vocabulary_size,
    with_common_vocabulary,
)
from apbmm_common.errors import SourceError
from tiny_checkpoints import (
    VOCABULARY,
    edit_config,
    pad_vocabulary,
    write_tiny_pair,
    write_tiny_qwen3,
    write_tokenizer,
)

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """The thinking model has 32 rows more."""
    folders = write_tiny_pair(tmp_path, layers=1, tied=False)
    pad_vocabulary(folders[0], 128)
    return folders


def read(pair: tuple[Path, Path]) -> dict[str, Checkpoint]:
    return dict(zip(("thinking", "instruct"), map(read_checkpoint, pair), strict=True))


def test_embeddings_head_and_config_have_the_rows_of_the_smallest(pair: tuple[Path, Path]) -> None:
    whole = read(pair)
    cut = with_common_vocabulary(whole)
    assert cut["instruct"] == whole["instruct"]
    assert cut["thinking"].config == {**whole["thinking"].config, "vocab_size": 96}
    for name, tensor in cut["thinking"].tensors.items():
        other = cut["instruct"].tensors[name]
        assert (tensor.shape, tensor.length) == (other.shape, other.length)
        assert tensor.offset == whole["thinking"].tensors[name].offset
    assert compatibility_faults(cut, common_vocabulary=True) == []
    assert compatibility_warnings(cut) == []


def test_the_base_may_be_the_smallest_and_needs_no_tokenizer(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    pad_vocabulary(pair[1], 100)
    base = write_tiny_qwen3(tmp_path / "base", seed=9, layers=1, tied=False, with_tokenizer=False)
    cut = with_common_vocabulary({**read(pair), "base": read_checkpoint(base)})
    assert {vocabulary_size(checkpoint) for checkpoint in cut.values()} == {96}
    assert compatibility_faults(cut, common_vocabulary=True) == []


def test_a_text_model_within_another_has_its_size_there(pair: tuple[Path, Path]) -> None:
    for folder, rows in zip(pair, (128, 96), strict=True):
        edit_config(folder, vocab_size=None, text_config={"vocab_size": rows})
    cut = with_common_vocabulary(read(pair))
    assert cut["thinking"].config["text_config"] == {"vocab_size": 96}
    assert "vocab_size" not in cut["thinking"].config


def test_sources_of_one_size_and_of_unknown_sizes_stay(pair: tuple[Path, Path]) -> None:
    alike = {"thinking": read_checkpoint(pair[0]), "instruct": read_checkpoint(pair[0])}
    assert with_common_vocabulary(alike) == alike
    edit_config(pair[0], vocab_size=120)
    assert with_common_vocabulary(read(pair)) == read(pair)
    assert compatibility_faults(read(pair), common_vocabulary=True) != []


def test_every_token_needs_a_common_row(pair: tuple[Path, Path]) -> None:
    write_tokenizer(pair[0], VOCABULARY | {"<think>": 96})
    with pytest.raises(
        SourceError, match=re.escape("'<think>' of thinking is 96, and all sources")
    ):
        with_common_vocabulary(read(pair))
    write_tokenizer(pair[0])
    edit_config(pair[0], pad_token_id=127)
    with pytest.raises(SourceError, match="'pad_token_id' of thinking is 127"):
        with_common_vocabulary(read(pair))


def test_a_source_without_a_tokenizer_does_not_say_which_rows_it_needs(
    pair: tuple[Path, Path],
) -> None:
    (pair[0] / "tokenizer.json").unlink()
    with pytest.raises(SourceError, match=r"thinking has no tokenizer\.json"):
        with_common_vocabulary(read(pair))


def test_a_token_that_one_source_lacks_is_a_warning(pair: tuple[Path, Path]) -> None:
    write_tokenizer(pair[0], VOCABULARY | {"<think>": 95})
    cut = with_common_vocabulary(read(pair))
    assert len(compatibility_faults(cut)) == 1
    assert compatibility_faults(cut, common_vocabulary=True) == []
    (warning,) = compatibility_warnings(cut)
    assert warning.startswith("vocabulary: '<think>' only in thinking, and ")


@pytest.mark.parametrize("change", [{"a": 94}, {"?": 94, "!": VOCABULARY["?"]}])
def test_tokens_and_ids_that_both_have_must_be_the_same(
    pair: tuple[Path, Path], change: dict[str, int]
) -> None:
    """A token at another id, though no other token has that id; a token at the id of another."""
    write_tokenizer(pair[0], VOCABULARY | change)
    cut = with_common_vocabulary(read(pair))
    (fault,) = compatibility_faults(cut, common_vocabulary=True)
    assert fault.startswith("vocabulary: ")


def test_the_shared_part_of_two_vocabularies(pair: tuple[Path, Path]) -> None:
    write_tokenizer(pair[0], VOCABULARY | {"<think>": 95})
    first, second = (read_vocabulary(folder) for folder in pair)
    assert first is not None
    assert second is not None
    assert different_tokens(first, second) == ["<think>"]
    assert first.shared_with(second).tokens == second.tokens == VOCABULARY
    assert renamed_tokens(first.shared_with(second), second) == []
