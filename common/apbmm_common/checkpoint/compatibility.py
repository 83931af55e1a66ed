"""Whether checkpoints can be merged: every fault, one clear line each. No torch.

Headers, configs and tokenizers are compared, and a stored output head with the embeddings. That two
sources hold the same weights is found by `identical_files` if their files are equal, and otherwise
by the digests that the workers compute.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from apbmm_common.checkpoint.config_differences import (
    ROPE_TABLES,
    config_faults,
    other_model,
    stated_by_one,
)
from apbmm_common.checkpoint.contents import opened_files, same_files, same_tensors
from apbmm_common.checkpoint.expected_tensors import expected_shapes, unexpected_tensors
from apbmm_common.checkpoint.headers import (
    Checkpoint,
    TensorHeader,
    flat_config,
    layer_count,
    tower_tensors,
)
from apbmm_common.checkpoint.roles import BASE_ROLE
from apbmm_common.checkpoint.settings_files import (
    GENERATION_FILE,
    OTHER_VOCABULARIES,
    TOKENIZER_FILES,
    WITHOUT_TOKENIZER,
    has_tokenizer,
    unusable_settings,
)
from apbmm_common.checkpoint.tensor_groups import (
    heads,
    heads_beside_embeddings,
    optional_tensors,
    stated_tie,
)
from apbmm_common.checkpoint.vocabularies import (
    different_tokens,
    read_vocabulary,
    renamed_tokens,
    vocabulary_size,
    with_common_vocabulary,
)
from apbmm_common.errors import SourceError

_QUANTISED = ("quantization_config", "quantization", "compression_config")
_PACKED = re.compile(r"\.(weight|qweight|q_weight|qzeros|weight_packed|W_q)$")
_SHOWN = 5
_TEMPLATE = "Merges get the tokenizer and chat template of the source that template_from names"


def require_compatible(
    checkpoints: Mapping[str, Checkpoint],
    *,
    without_tokenizers: bool = False,
    common_vocabulary: bool = False,
) -> None:
    """Raise one `SourceError` with every fault of `compatibility_faults`."""
    alone = _faults_of_each(checkpoints)
    between = _faults_between(checkpoints, without_tokenizers, common_vocabulary)
    if alone or between:
        lines = "\n".join(f"  {fault}" for fault in (*alone, *between))
        hint = "" if alone else "sources must be fine-tunes of one model"
        raise SourceError(f"the sources cannot be merged:\n{lines}", hint)


def compatibility_faults(
    checkpoints: Mapping[str, Checkpoint],
    *,
    without_tokenizers: bool = False,
    common_vocabulary: bool = False,
) -> list[str]:
    """Compare every role with the last merged one; one line for each fault.

    ``checkpoints`` maps roles (``base``, and names of the merged sources) to what `read_checkpoint`
    returned. Where architecture, layer count or size differ, that is the one fault of the two
    (`other_model`). Compared besides: tensor names, shapes, dtypes (two float dtypes
    may differ, anything else may not), config, and the tokenizer's vocabulary, except the base's,
    which tokenizes nothing. ``without_tokenizers`` lets checkpoints pass that have no tokenizer;
    ``common_vocabulary`` lets vocabularies pass whose common tokens and ids are the same, and
    expects checkpoints of `with_common_vocabulary`.
    """
    return [
        *_faults_of_each(checkpoints),
        *_faults_between(checkpoints, without_tokenizers, common_vocabulary),
    ]


def _faults_of_each(checkpoints: Mapping[str, Checkpoint]) -> list[str]:
    found = (_own_faults(role, checkpoint) for role, checkpoint in checkpoints.items())
    return [fault for faults in found for fault in faults]


def _faults_between(
    checkpoints: Mapping[str, Checkpoint], without_tokenizers: bool, common_vocabulary: bool
) -> list[str]:
    faults: list[str] = []
    reference = compared_with(checkpoints)
    for role, checkpoint in checkpoints.items():
        if checkpoint.path.resolve() == checkpoints[reference].path.resolve():
            continue
        roles = (role, reference)
        pair = (checkpoint, checkpoints[reference])
        if other := other_model(roles, (pair[0].config, pair[1].config)):
            faults.append(other)
            continue
        for fault in config_faults(roles, (pair[0].config, pair[1].config)):
            offer = _offer_of_common_part(roles, pair) if fault.startswith("vocab_size:") else ""
            faults.append(fault + offer)
        faults += _tensor_faults(roles, pair)
        if role == BASE_ROLE or (
            without_tokenizers and not all(has_tokenizer(each.path) for each in pair)
        ):
            continue
        faults += _vocabulary_faults(roles, pair, common=common_vocabulary)
    return faults


def compared_with(checkpoints: Mapping[str, Checkpoint]) -> str:
    """The role that the others are compared with: the last merged one, a run's anchor.

    The base where it is alone, "" without any.
    """
    merged = [role for role in checkpoints if role != BASE_ROLE]
    return merged[-1] if merged else next(iter(checkpoints), "")


def identical(roles: tuple[str, str]) -> str:
    """What is wrong with two sources that hold the same tensors."""
    return (
        f"{roles[0]} and {roles[1]} are the same checkpoint, so that no measurement can tell them "
        "apart and Eq. 2 (expert minus vanilla) would divide by zero"
    )


def identical_files(first: Checkpoint, second: Checkpoint) -> bool:
    """Whether two checkpoints have the same folder or byte-identical weight files.

    Two fine-tunes differ early, so this reads little unless they are in fact identical. Equal
    weights in different sharding are only seen by the content digest, and so is an adapter that
    changes nothing.
    """
    if first.adapter != second.adapter:
        return False
    if first.path.resolve() == second.path.resolve():
        return True
    files = (first.files, second.files)
    if [f.stat().st_size for f in files[0]] != [f.stat().st_size for f in files[1]]:
        return False
    return all(same_files(a, b) for a, b in zip(*files, strict=True))


def _own_faults(role: str, checkpoint: Checkpoint) -> list[str]:
    faults = []
    try:
        layer_count(checkpoint)
    except SourceError as error:
        faults.append(f"{role}: {error.message}")
    config = flat_config(checkpoint.config)
    faults += [
        f"{role}: {key} is {value!r}, not an object"
        for key in ROPE_TABLES
        if not isinstance(value := config.get(key), dict | None)
    ]
    if role != BASE_ROLE:
        faults += unusable_settings(checkpoint.path)
    packed = [t.name for t in checkpoint.tensors.values() if _is_packed(t)]
    quantised = packed or any(config.get(key) for key in _QUANTISED)
    if quantised:
        what = f": tensor {_some(packed)} of whole numbers" if packed else ""
        faults.append(
            f"{role}: {checkpoint.path} is quantised, and quantised weights do not mix{what}"
        )
    eight_bit = [t.name for t in checkpoint.tensors.values() if t.dtype.startswith("F8")]
    if eight_bit:
        faults.append(f"{role}: tensor {_some(eight_bit)} of an 8-bit float dtype do not mix")
    if not quantised:
        faults += _shape_faults(role, checkpoint)
    return faults + _head_faults(role, checkpoint)


def _is_packed(tensor: TensorHeader) -> bool:
    """Whether a tensor holds the whole numbers of a quantised matrix."""
    is_matrix = len(tensor.shape) > 1 and bool(_PACKED.search(tensor.name))
    return is_matrix and tensor.dtype[0] in "IU"


def _shape_faults(role: str, checkpoint: Checkpoint) -> list[str]:
    """Tensors without elements, and tensors that lack or have other sizes than the config's."""
    faults = []
    tensors = checkpoint.tensors
    empty = [t.name for t in tensors.values() if t.is_float and t.length == 0]
    if empty:
        faults.append(
            f"{role}: tensor {_some(empty)} of {checkpoint.path} has no elements, as DeepSpeed "
            "ZeRO-3 saves tensors that it has not gathered: save it anew with "
            "stage3_gather_16bit_weights_on_model_save, or convert it with zero_to_fp32.py"
        )
    expected = expected_shapes(checkpoint)
    missing = [name for name in expected if name not in tensors]
    if missing:
        faults.append(
            f"{role}: {checkpoint.path} lacks tensor {_some(missing)}, which a model of its "
            "config.json has: engines would compute with whatever is in its place"
        )
    other = [
        f"{name} ({list(tensors[name].shape)}, {list(shape)} by the config)"
        for name, shape in expected.items()
        if name in tensors and tensors[name].length and tensors[name].shape != shape
    ]
    if other:
        faults.append(f"{role}: config.json does not fit tensor {_some(other)}")
    return faults


def _head_faults(role: str, checkpoint: Checkpoint) -> list[str]:
    """A fault for each stored head that the config ties to embeddings that it is not equal to.

    vLLM and transformers compute with the stored head then; a merge, which leaves such a head out
    (`optional_tensors`), would compute with the embeddings.
    """
    if not stated_tie(checkpoint.config):
        return []
    faults = []
    try:
        for head, embeddings in sorted(heads_beside_embeddings(checkpoint).items()):
            tensors = [checkpoint.tensors[name] for name in (head, *embeddings)]
            with opened_files(tensor.file for tensor in tensors) as files:
                if not any(same_tensors((tensors[0], other), files) for other in tensors[1:]):
                    faults.append(
                        f"{role}: {checkpoint.path} stores {head}, which differs from "
                        f"{', '.join(embeddings)}, but its config.json ties them. Engines use the "
                        "stored head. If it is meant, write tie_word_embeddings false into "
                        "config.json of all sources, each with a head of its own; if not, remove "
                        "the tensor"
                    )
    except SourceError as error:
        faults.append(str(error))
    return faults


def _tensor_faults(roles: tuple[str, str], pair: tuple[Checkpoint, Checkpoint]) -> list[str]:
    first, second = pair[0].tensors, pair[1].tensors
    optional = optional_tensors(pair)
    faults = [
        f"tensor {_some(names)} only in {role}"
        for role, names in (
            (roles[0], [name for name in first if name not in second and name not in optional]),
            (roles[1], [name for name in second if name not in first and name not in optional]),
        )
        if names
    ]
    shapes: list[str] = []
    dtypes: list[str] = []
    for name in (name for name in first if name in second and name not in optional):
        one, two = first[name], second[name]
        if one.shape != two.shape:
            shapes.append(f"{name} ({list(one.shape)} and {list(two.shape)})")
        if one.dtype != two.dtype and not (one.is_float and two.is_float):
            dtypes.append(f"{name} ({one.dtype} and {two.dtype})")
    both = f"in {roles[0]} and {roles[1]}"
    faults += _tie_faults(roles, pair)
    faults += [f"shapes differ {both}: tensor {_some(shapes)}"] if shapes else []
    faults += [f"dtypes do not mix {both}: tensor {_some(dtypes)}"] if dtypes else []
    return faults + _whole_number_faults(both, pair)


def _whole_number_faults(both: str, pair: tuple[Checkpoint, Checkpoint]) -> list[str]:
    """A fault where tensors of integers or booleans differ, which cannot be interpolated."""
    optional, second = optional_tensors(pair), pair[1].tensors
    same_kind = [
        (one, second[name])
        for name, one in pair[0].tensors.items()
        if not one.is_float
        and name in second
        and name not in optional
        and not _is_packed(one)
        and (one.dtype, one.shape) == (second[name].dtype, second[name].shape)
    ]
    try:
        with opened_files(tensor.file for two in same_kind for tensor in two) as files:
            other = [one.name for one, two in same_kind if not same_tensors((one, two), files)]
    except SourceError as error:
        return [str(error)]
    what = "hold other integers or booleans, and those cannot be interpolated"
    return [f"tensor {_some(other)} {both} {what}"] if other else []


def _tie_faults(roles: tuple[str, str], pair: tuple[Checkpoint, Checkpoint]) -> list[str]:
    """A fault where both hold a head, one ties it to the embeddings, and the other does not say."""
    ties = [stated_tie(checkpoint.config) for checkpoint in pair]
    stored = sorted(heads(pair[0]) & heads(pair[1]))
    if not stored or set(ties) != {True, None}:
        return []
    tied, silent = (roles[0], roles[1]) if ties[0] else (roles[1], roles[0])
    return [
        f"tie_word_embeddings: {tied} has True, {silent} does not say, and both hold tensor "
        f"{_some(stored)}: write true or false into both config.json"
    ]


def _vocabulary_faults(
    roles: tuple[str, str], pair: tuple[Checkpoint, Checkpoint], *, common: bool
) -> list[str]:
    """Faults of two tokenizers; with ``common``, of the tokens and ids alone that both have."""
    files = [checkpoint.path / "tokenizer.json" for checkpoint in pair]
    try:
        if all(file.exists() for file in files) and same_files(files[0], files[1]):
            return []
        first, second = (read_vocabulary(checkpoint.path) for checkpoint in pair)
        if first is None and second is None:
            return _other_vocabulary_faults(roles, pair)
    except SourceError:
        return []  # a fault of one source alone: `unusable_settings`
    if first is None or second is None:
        index = 0 if first is None else 1
        return [
            f"vocabulary: {roles[index]} has no tokenizer.json in {pair[index].path} "
            f"(hint: {WITHOUT_TOKENIZER})"
        ]
    if common:
        first, second = first.shared_with(second), second.shared_with(first)
    different = different_tokens(first, second)
    if not different or renamed_tokens(first, second):
        return []
    one, two = first.tokens, second.tokens
    # The lowest id differs first; the order of a set would change from run to run.
    token = min(different, key=lambda t: (min(one.get(t, 1 << 62), two.get(t, 1 << 62)), t))
    ids = [tokens.get(token, "absent") for tokens in (one, two)]
    return [
        f"vocabulary: {len(different)} tokens differ; {token!r} is {ids[0]} in {roles[0]} "
        f"and {ids[1]} in {roles[1]}" + ("" if common else _offer_of_common_part(roles, pair))
    ]


def _offer_of_common_part(roles: tuple[str, str], pair: tuple[Checkpoint, Checkpoint]) -> str:
    """How vocabularies that differ can be merged; empty where their common part differs, too."""
    try:
        first, second = with_common_vocabulary(dict(zip(roles, pair, strict=True))).values()
    except SourceError:
        return ""
    if vocabulary_size(first) is None or vocabulary_size(first) != vocabulary_size(second):
        return ""
    if BASE_ROLE not in roles and _vocabulary_faults(roles, (first, second), common=True):
        return ""
    return (
        ': the part that both have is the same, and vocabulary = "common" in [merge] (apbmm merge: '
        "--vocabulary common) merges it"
    )


def compatibility_warnings(checkpoints: Mapping[str, Checkpoint]) -> list[str]:
    """What a user should know of sources that can be merged; one line each.

    One config may state a setting that the other leaves to the engine's default. The tokens that
    were added to a vocabulary may have other names at the same ids. With a common vocabulary, one
    source may have tokens that another lacks.
    """
    reference = compared_with(checkpoints)
    warnings: list[str] = []
    for role, checkpoint in checkpoints.items():
        warnings += _own_warnings(role, checkpoint)
        if role not in (reference, BASE_ROLE):
            pair = (checkpoint, checkpoints[reference])
            warnings += _warnings_between((role, reference), pair)
    return warnings


def _own_warnings(role: str, checkpoint: Checkpoint) -> Iterator[str]:
    own = (*TOKENIZER_FILES, GENERATION_FILE)
    if checkpoint.adapter is not None and (
        other := [name for name in own if _differs(checkpoint.adapter / name, checkpoint.path)]
    ):
        yield (
            f"{role}: {_some(other)} of the adapter in {checkpoint.adapter} is not used: a source "
            "has the tokenizer and templates of its base"
        )
    if (checkpoint.path / "adapter_config.json").exists():
        yield (
            f"{role}: the adapter in {checkpoint.path} is not applied: merges and engines take "
            "the weights beside it"
        )
    if unexpected := unexpected_tensors(checkpoint):
        yield (
            f"{role}: a model of this config.json has no tensor {_some(unexpected)}: merges "
            "keep it, and engines may refuse it"
        )


def _differs(file: Path, base: Path) -> bool:
    """Whether an adapter's file is there, and is not the base's."""
    own = base / file.name
    try:
        return file.is_file() and not (own.is_file() and same_files(file, own))
    except SourceError:
        return True


def _warnings_between(roles: tuple[str, str], pair: tuple[Checkpoint, Checkpoint]) -> Iterator[str]:
    if pair[0].path.resolve() == pair[1].path.resolve() and pair[0].adapter == pair[1].adapter:
        yield f"{roles[0]} and {roles[1]} are the same folder"
    if stated := stated_by_one(roles, (pair[0].config, pair[1].config)):
        yield (
            f"config.json: {_some(stated)}. Merges get the config of the source that "
            "template_from names; a run ends if a source answers otherwise with its own"
        )
    yield from _tower_warnings(roles, pair)
    first, second = (read_vocabulary(each.path) for each in pair)
    if first is None or second is None:
        return
    shared = (first.shared_with(second), second.shared_with(first))
    if renamed := renamed_tokens(*shared):
        token, *names = renamed[0]
        yield (
            f"vocabulary: {len(renamed)} added tokens have other names in {roles[0]} and "
            f"{roles[1]}: {token} is {names[0]!r} and {names[1]!r}. {_TEMPLATE}"
        )
    for role, whole, part in zip(roles, (first, second), shared, strict=True):
        alone = [repr(token) for token in whole.tokens if token not in part.tokens]
        if alone:
            yield (
                f"vocabulary: {_some(alone)} only in {role}, and the rows of other sources are "
                f"merged with theirs. {_TEMPLATE}"
            )


def _tower_warnings(roles: tuple[str, str], pair: tuple[Checkpoint, Checkpoint]) -> Iterator[str]:
    """A warning where the towers of multimodal models differ, of which merges get one."""
    both = [(pair[0].tensors.get(name), pair[1].tensors[name]) for name in tower_tensors(pair[1])]
    same_kind = sorted((a.name, a, b) for a, b in both if a is not None)
    try:
        with opened_files(tensor.file for _, *two in same_kind for tensor in two) as files:
            other = [name for name, *two in same_kind if not same_tensors(two, files)]
    except SourceError as error:
        yield str(error)
        return
    if other:
        yield (
            f"tensor {_some(other)} beside the language model differs in {roles[0]} and "
            f"{roles[1]}: all merges get those of {roles[1]}, and no evaluation uses them"
        )


def _other_vocabulary_faults(
    roles: tuple[str, str], pair: tuple[Checkpoint, Checkpoint]
) -> list[str]:
    """Faults of tokenizers in older formats, whose files are compared byte by byte."""
    for name in OTHER_VOCABULARIES:
        files = [checkpoint.path / name for checkpoint in pair]
        if any(file.exists() for file in files):
            if all(file.exists() for file in files) and same_files(files[0], files[1]):
                return []
            return [f"vocabulary: {name} differs in {roles[0]} and {roles[1]}"]
    return [
        f"vocabulary: neither {roles[0]} nor {roles[1]} has a tokenizer (hint: {WITHOUT_TOKENIZER})"
    ]


def _some(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
