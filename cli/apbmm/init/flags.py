"""The flags of `apbmm init`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter, validators

Repeatable = Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)]
AtLeastOne = Annotated[int | None, Parameter(validator=validators.Number(gte=1))]


@Parameter(name="*")
@dataclass(frozen=True)
class InitFlags:
    """What is not given is asked for, at a terminal.

    Parameters
    ----------
    model
        A model, to be given twice: its folder, or its id where the Hugging Face cache has it
        (ORG/MODEL, ORG/MODEL@REVISION). As NAME=FOLDER it is a source of that name: two to eight,
        of which the last one is the merge at x = 0.
    thinking
        The thinking one of the two, where the files do not say which it is. In place of a --model.
    instruct
        The other one. In place of a --model.
    benchmark
        Folder or file with questions; ADAPTER=PATH names EvalScope's adapter, which is guessed from
        the columns otherwise. May be given several times.
    question
        Column with the questions, where its name is not one that is guessed. For every --benchmark
        that has it.
    answer
        Column with the answers, likewise.
    objective
        [NAME=]METRIC[@BENCHMARK,...][:SOURCE], two to five times: what merges are compared by, as
        accuracy, tokens, truncated, or a score that EvalScope reports; SOURCE is the one that is
        good at it. Default: accuracy, at which the first source is good, and tokens, at which the
        last one is.
    gpus
        Cards that the run is for, as apbmm run takes them. Default: all, or cpu where a CPU build
        of PyTorch is installed.
    max_tokens
        Most tokens of an answer. Default: as many as models and card allow, up to 32768.
    evaluations
        Merges to evaluate. Default: 40.
    download
        Fetch models that are named by their ids, and are not there, into the Hugging Face cache.
    name
        Name of the run. Default: that of the file.
    force
        Replace a file that exists.
    """

    model: Repeatable = ()
    thinking: str | None = None
    instruct: str | None = None
    benchmark: Repeatable = ()
    question: str | None = None
    answer: str | None = None
    objective: Repeatable = ()
    gpus: Annotated[str | None, Parameter(name=("--gpus", "--gpu"))] = None
    max_tokens: AtLeastOne = None
    evaluations: AtLeastOne = None
    download: Annotated[bool, Parameter(negative=())] = False
    name: str | None = None
    force: Annotated[bool, Parameter(negative=())] = False


NOTHING_GIVEN = InitFlags()
