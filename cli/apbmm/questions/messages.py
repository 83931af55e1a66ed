"""What `ask` and the process of `main` say to each other, as JSON on its standard streams."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class RenderRequest(BaseModel):
    """Render the benchmarks of a run; ``most`` questions of each come back with their prompts.

    ``scratch`` is a folder for copies of the questions. ``allowed_code``: whether the run's own
    adapters, and a tokenizer of its source's own code, may be run where the run asks for it.
    ``targets``: whether to have the right answers scored.
    """

    spec: dict[str, Any]
    scratch: str
    most: int
    allowed_code: bool = False
    targets: bool = False


class RenderedQuestion(BaseModel):
    """A question as the model will see it.

    ``subset`` and ``index`` are EvalScope's place of it. ``prompt`` is decoded from the ``tokens``
    token ids that the engine gets, chat template included; ``asked`` is the text of the user's
    message within it, and ``target`` the right answer.
    """

    question: str
    subset: str
    index: int
    prompt: str
    tokens: int
    asked: str
    target: str


class RenderedBenchmark(BaseModel):
    """A benchmark whose questions are read and rendered.

    ``count`` questions will be asked, with ``distinct`` different prompts, the longest with
    ``longest`` tokens. ``unknown_prompts`` of them have the tokenizer's unknown token, the first of
    which ``first_unknown`` shows; ``unknown_share`` of all their tokens are that token, and
    ``template_unknown_share`` of those of the template that `apbmm_answer` puts around a question.
    ``first`` has the first questions. ``unknown_arguments`` are those that the
    adapter does not have, which EvalScope would ignore. ``target_faults`` and ``target_notes`` say
    what its own right answers score.
    """

    count: int
    distinct: int
    longest: int
    unknown_prompts: int = 0
    first_unknown: str = ""
    unknown_share: float = 0.0
    template_unknown_share: float = 0.0
    first: tuple[RenderedQuestion, ...]
    unknown_arguments: tuple[str, ...] = ()
    target_faults: tuple[str, ...] = ()
    target_notes: tuple[str, ...] = ()


class Rendered(BaseModel):
    """The benchmarks by name; or the ``error`` of a run file or of data, with its ``hint``."""

    benchmarks: dict[str, RenderedBenchmark] = {}
    error: str = ""
    hint: str = ""
