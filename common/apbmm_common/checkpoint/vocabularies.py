"""The vocabularies of tokenizers, and sources cut to the rows of the vocabulary that all have.

Embeddings and head often have more rows than the tokenizer has tokens, and fine-tunes of one model
may be padded to other sizes. A `Checkpoint` of `with_common_vocabulary` has the first rows alone,
as if its files held no others: rows lie one after the other in a file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apbmm_common.checkpoint.headers import Checkpoint, TensorHeader, flat_config, read_object
from apbmm_common.checkpoint.roles import BASE_ROLE
from apbmm_common.errors import SourceError

TOKENIZER_FILE = "tokenizer.json"
# Tensors with one row for each id of the vocabulary.
_ROWS = re.compile(
    r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in|lm_head|embed_out|shared_head\.head)"
    r"\.(weight|bias)$|^(model\.)?output\.weight$"
)
_SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class Vocabulary:
    """Token -> id of a tokenizer, and the ids of the tokens that were added to its model."""

    tokens: dict[str, int]
    added: frozenset[int]

    def shared_with(self, other: Vocabulary) -> Vocabulary:
        """The part whose tokens or ids ``other`` has, too."""
        ids = set(other.tokens.values())
        tokens = {t: i for t, i in self.tokens.items() if i in ids or t in other.tokens}
        return Vocabulary(tokens, self.added)


def read_vocabulary(path: Path) -> Vocabulary | None:
    """The vocabulary in a folder's tokenizer.json; None without the file.

    Raises `SourceError` when the file cannot be read or has none.
    """
    file = path / TOKENIZER_FILE
    if not file.exists():
        return None
    table = read_object(file)
    try:
        vocab = table["model"]["vocab"]
        # Unigram models list [token, score] pairs: the id is the position.
        tokens = (
            dict(vocab)
            if isinstance(vocab, dict)
            else {token: index for index, (token, _) in enumerate(vocab)}
        )
        added = {added["content"]: added["id"] for added in table.get("added_tokens") or []}
        tokens |= added
        if not all(isinstance(t, str) and isinstance(index, int) for t, index in tokens.items()):
            raise TypeError("a token is no text or its id no number")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SourceError(f"{file}: not a readable tokenizer: {error!r}") from error
    return Vocabulary(tokens, frozenset(added.values()))


def different_tokens(first: Vocabulary, second: Vocabulary) -> list[str]:
    """Tokens that have another id in the other vocabulary, or none."""
    one, two = first.tokens, second.tokens
    return [token for token in one.keys() | two.keys() if one.get(token) != two.get(token)]


def renamed_tokens(first: Vocabulary, second: Vocabulary) -> list[tuple[int, str, str]]:
    """Ids and both names of added tokens, where vocabularies differ in nothing but their names."""
    one, two = ({i: t for t, i in v.tokens.items()} for v in (first, second))
    found = [(i, one[i], two[i]) for i in sorted(one.keys() & two.keys()) if one[i] != two[i]]
    names = {name for _, *both in found for name in both}
    moved = names & first.tokens.keys() & second.tokens.keys()
    added = {i for i, *_ in found} <= first.added & second.added
    return found if one.keys() == two.keys() and added and not moved else []


def vocabulary_size(checkpoint: Checkpoint) -> int | None:
    """The rows of embeddings and head; None where the config does not say or tensors differ."""
    size = flat_config(checkpoint.config).get("vocab_size")
    tensors = [t for name, t in checkpoint.tensors.items() if _ROWS.search(name)]
    fits = isinstance(size, int) and tensors and all(t.shape[:1] == (size,) for t in tensors)
    return size if fits and isinstance(size, int) else None


def with_common_vocabulary(checkpoints: Mapping[str, Checkpoint]) -> dict[str, Checkpoint]:
    """The sources, by role, cut to the rows of the vocabulary that all have.

    Config and tensors of those with more rows say so. Sources of one size stay as they are, and so
    do sources whose size is not known, which `compatibility` finds faults in. Raises `SourceError`
    where a tokenizer has a token without a row, or cannot be read.
    """
    sizes = {role: vocabulary_size(checkpoint) for role, checkpoint in checkpoints.items()}
    known = [size for size in sizes.values() if size is not None]
    if len(known) < len(sizes) or len(set(known)) < 2:
        return dict(checkpoints)
    rows = min(known)
    for role, checkpoint in checkpoints.items():
        if role != BASE_ROLE:
            _require_rows(role, checkpoint, rows)
    return {role: _cut(checkpoint, rows) for role, checkpoint in checkpoints.items()}


def _require_rows(role: str, checkpoint: Checkpoint, rows: int) -> None:
    """Raise `SourceError` unless all tokens of a source have one of the first ``rows`` ids."""
    vocabulary = read_vocabulary(checkpoint.path)
    if vocabulary is None:
        raise SourceError(
            f'vocabulary = "common": {role} has no tokenizer.json in {checkpoint.path}',
            "it says which rows of the vocabulary are needed",
        )
    config = flat_config(checkpoint.config)
    special = {key: config[key] for key in _SPECIAL_IDS if isinstance(config.get(key), int)}
    highest = {**special, **vocabulary.tokens}
    token = max(highest, key=highest.__getitem__, default="")
    if token and highest[token] >= rows:
        raise SourceError(
            f'vocabulary = "common": {token!r} of {role} is {highest[token]}, and all sources '
            f"have rows for 0 to {rows - 1} alone",
            "give the smaller source more rows with transformers' resize_token_embeddings",
        )


def _cut(checkpoint: Checkpoint, rows: int) -> Checkpoint:
    tensors = {
        name: _first_rows(tensor, rows) if _ROWS.search(name) else tensor
        for name, tensor in checkpoint.tensors.items()
    }
    config = _with_size(checkpoint.config, rows)
    nested: Any = config.get("text_config")
    if isinstance(nested, dict):
        config["text_config"] = _with_size(nested, rows)
    return replace(checkpoint, config=config, tensors=tensors)


def _with_size(config: Mapping[str, Any], rows: int) -> dict[str, Any]:
    return {**config, "vocab_size": rows} if "vocab_size" in config else dict(config)


def _first_rows(tensor: TensorHeader, rows: int) -> TensorHeader:
    length = tensor.length // tensor.shape[0] * rows
    return replace(tensor, shape=(rows, *tensor.shape[1:]), length=length)
