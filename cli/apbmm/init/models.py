"""The models: where they are, what they are called, and which of two is the thinking one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from apbmm.hub_cache import REVISION, cached_snapshot, download_snapshot, hub_id_of
from apbmm.init.close_paths import meant
from apbmm_common.checkpoint.headers import (
    Checkpoint,
    is_broken_link,
    read_checkpoint,
    read_object,
)
from apbmm_common.checkpoint.lora_adapters import base_of, is_adapter, read_adapted
from apbmm_common.checkpoint.settings_files import OTHER_VOCABULARIES, WITHOUT_TOKENIZER
from apbmm_common.checkpoint.vocabularies import TOKENIZER_FILE
from apbmm_common.errors import SourceError, UsageError
from apbmm_common.run_file.sections.sources import SOURCE_NAME

THOUGHTS = ("<think>", "[THINK]")
"""Tags that open a thought."""
THINKS = re.compile(r"think|reason|(^|[^a-z])r1([^a-z0-9]|$)|qwq", re.IGNORECASE)
ANSWERS_AT_ONCE = re.compile(r"instruct|chat|no.?think|non.?think", re.IGNORECASE)


@dataclass(frozen=True)
class Model:
    """A model as it was named, and its files."""

    named: str
    checkpoint: Checkpoint
    template: str
    """Its chat template; "" without one."""

    @property
    def place(self) -> tuple[Path, Path | None]:
        """Its folder, and that of its adapter where it is one."""
        return self.checkpoint.path, self.checkpoint.adapter

    @property
    def label(self) -> str:
        """Its id on the hub, or the last part of its folder."""
        path = self.checkpoint.adapter or self.checkpoint.path
        return hub_id_of(path) or path.name

    @property
    def thought(self) -> str:
        """The tag that opens a thought in its chat template; "" where none does."""
        return next((tag for tag in THOUGHTS if tag in self.template), "")


@dataclass(frozen=True)
class Source:
    """A model as a run file names it, and what says so, for a person."""

    name: str
    model: Model
    said_by: str = ""


def named_model(given: str) -> tuple[str, str]:
    """The name and the place of ``NAME=PLACE``; without a name, "" and all of it."""
    name, mark, place = given.partition("=")
    if mark and SOURCE_NAME.fullmatch(name) and not Path(given).expanduser().is_dir():
        return name, place
    return "", given


def read_model(named: str, *, download: bool = False) -> Model:
    """Read the headers of a model in a folder or in the Hugging Face cache.

    With ``download`` a model that is not in the cache is fetched from the Hub. Raises `UsageError`
    for a model that cannot be had, and `SourceError` for damaged files.
    """
    if not named:
        raise UsageError("a model is needed", "a folder, or ORG/MODEL in the Hugging Face cache")
    folder = Path(named).expanduser()
    if not folder.is_dir():
        hub = REVISION.fullmatch(named)
        if folder.exists() or hub is None:
            raise UsageError(
                f"{named}: no such folder, and not ORG/MODEL",
                meant(folder) or "name a folder with config.json and safetensors weights",
            )
        if download:
            snapshot: Path | None = download_snapshot(hub["id"], hub["revision"])
        else:
            snapshot = cached_snapshot(hub["id"], hub["revision"])
        if snapshot is None:
            raise UsageError(
                f"{named}: no such folder, and not in the Hugging Face cache",
                f"{near} If not, --download fetches it"
                if (near := meant(folder))
                else "--download fetches it; HF_HOME says where the cache is",
            )
        folder = snapshot
    folder = folder.absolute()
    if is_adapter(folder):
        model = _base(folder, download=download)
        checkpoint = read_adapted(model.checkpoint.path, folder)
        return Model(named, checkpoint, model.template)
    checkpoint = read_checkpoint(folder)
    files = [folder / name for name in (TOKENIZER_FILE, *OTHER_VOCABULARIES)]
    if not any(file.exists() or is_broken_link(file) for file in files):
        raise UsageError(f"{named} has no tokenizer ({TOKENIZER_FILE})", WITHOUT_TOKENIZER)
    return Model(named, checkpoint, chat_template(checkpoint.path))


def _base(adapter: Path, *, download: bool) -> Model:
    """The model that an adapter was trained on, as its config names it.

    A folder may be named from where the adapter is. Raises `UsageError` as `read_model` does.
    """
    stated = base_of(adapter)
    if stated and (adapter / stated).is_dir():
        stated = str((adapter / stated).resolve())
    try:
        model = read_model(stated, download=download)
    except UsageError as error:
        raise UsageError(
            f"{adapter}: a LoRA adapter on {stated or 'a model that its config does not name'}, "
            "which is not here",
            f"{error.hint}; or write {{ path = BASE, adapter = FOLDER }} into the run file",
        ) from error
    if model.checkpoint.adapter is not None:
        raise UsageError(f"{adapter}: its base {stated} is an adapter itself")
    return model


def chat_template(folder: Path) -> str:
    """The text of a folder's chat template; "" where it has none that can be read."""
    try:
        jinja = folder / "chat_template.jinja"
        if jinja.is_file():
            return jinja.read_text(encoding="utf-8-sig")
        return str(read_object(folder / "tokenizer_config.json").get("chat_template") or "")
    except (OSError, ValueError, SourceError):
        return ""


def knows(folder: Path, text: str) -> bool:
    """Whether a folder's tokenizer has tokens for all of a text.

    True as well where that cannot be told: `tokenizers` is not installed, or cannot read the file.
    """
    try:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        found = tokenizer.encode(text, add_special_tokens=False).tokens
    except Exception:  # noqa: BLE001 - tokenizers raises no narrower class
        return True
    return getattr(tokenizer.model, "unk_token", None) not in found


def which_thinks(pair: tuple[Model, Model]) -> tuple[Model, Model, str] | None:
    """The thinking model, the other one, and what says so; None where nothing does.

    The chat templates say it where one of them only opens a thought, otherwise the names do.
    """
    first, second = pair
    scores = [2 * bool(model.thought) + _by_name(model.label) for model in pair]
    if scores[0] == scores[1]:
        return None
    thinking, instruct = (first, second) if scores[0] > scores[1] else (second, first)
    return thinking, instruct, " and ".join(_reasons(thinking, instruct))


def swapped(thinking: Model, instruct: Model) -> str:
    """A note where templates and names of a pair say the opposite of its roles; "" otherwise."""
    found = which_thinks((thinking, instruct))
    if found is None or found[0] is thinking:
        return ""
    return (
        f"{thinking.label} is given as thinking and {instruct.label} as instruct, and of the two "
        f"{instruct.label} looks like the thinking model: {found[2]}"
    )


def _by_name(label: str) -> int:
    if ANSWERS_AT_ONCE.search(label):
        return -1
    return 1 if THINKS.search(label) else 0


def _reasons(thinking: Model, instruct: Model) -> Iterator[str]:
    if thinking.thought and not instruct.thought:
        yield f"only its chat template has {thinking.thought}"
    if _by_name(thinking.label) > _by_name(instruct.label):
        whose = "its" if _by_name(thinking.label) == 1 else "the other one's"
        yield f"{whose} name says so"
