"""`[generation]`: how answers are decoded."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from apbmm_common.run_file.sections.section import Integer, Number, Section, SourceName, Tokens
from apbmm_common.run_file.sections.sources import PAPER_SOURCES


class GenerationSection(Section):
    """How answers are decoded. One choice serves every evaluation, references included."""

    template_from: SourceName = PAPER_SOURCES[0]
    """Source whose tokenizer, chat template and generation config all evaluations use. The other
    sources are then asked with a template that is not their own. Without it `thinking`, or the
    first source where none is called so."""
    max_tokens: Tokens
    """Most tokens of one answer. A longer answer is cut off and counts as truncated. Choose it so
    that few answers of the source that thinks longest are cut."""
    context: Tokens
    """Length of vLLM's context: prompt and answer together. It must be larger than `max_tokens` by
    the longest prompt, and no larger than the models' position limit."""
    temperature: Annotated[Number, Field(ge=0)] = 0.0
    """Sampling temperature. 0 is greedy decoding, which gives the same answers each time on one
    kind of device."""
    top_p: Annotated[Number, Field(gt=0, le=1)] = 0.95
    """Nucleus sampling: only the most probable tokens with this total probability are drawn. Of no
    effect at temperature 0."""
    top_k: Annotated[Integer, Field(ge=-1)] = 20
    """Only so many of the most probable tokens are drawn; -1 draws from all. Of no effect at
    temperature 0."""
    seed: Integer = 0
    """Seed of everything that an evaluation draws: sampling at a temperature above 0, and the
    worked examples or orders of choices that a benchmark draws. It is apart from the seed of the
    search, so that every merge is asked the same."""
    thought_end: Annotated[str, Field(max_length=64)] = "</think>"
    """Tag that closes a model's thought; without its slash, the tag that opens one. An answer is
    scored after its last closing tag. If the answer, or the chat template in the prompt, opened a
    thought that the answer never closed, the answer is empty and counts as truncated. Tokens count
    the thought all the same. `""` leaves answers as they are to EvalScope."""

    @field_validator("thought_end")
    @classmethod
    def _closes(cls, tag: str) -> str:
        if tag and "/" not in tag:
            raise ValueError(
                f"{tag!r} has no slash, so the tag that opens a thought would be equal"
            )
        return tag

    @field_validator("context")
    @classmethod
    def _leaves_room_for_a_prompt(cls, context: int, info: ValidationInfo) -> int:
        most = info.data.get("max_tokens", 0)
        if most >= context:
            raise ValueError(
                f"max_tokens ({most}) leaves no room for a prompt in a context of {context}"
            )
        return context
