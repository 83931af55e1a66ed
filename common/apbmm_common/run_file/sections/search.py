"""`[prior]` and `[algorithm]`: what the search knows of the layers, and its method."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from apbmm_common.run_file.sections.section import (
    Name,
    Number,
    OptionalPath,
    Positive,
    Section,
    Table,
    Tokens,
)


class PriorSection(Section):
    """How the layers' importance is measured (Eq. 5-14): once, by one worker, before the search.

    Methods that take no importance ignore this table.
    """

    prompts: OptionalPath = None
    """JSON Lines file of `{"prompt": "..."}` objects that the activation discrepancy is measured
    on. Without it the benchmarks' own questions are taken, which are scored later: name prompts
    that are not scored where the result is to be reported."""
    questions: Positive = 64
    """Most prompts that are run. More make the measurement slower and steadier."""
    max_tokens: Tokens = 256
    """A prompt is cut to so many tokens, its chat template included."""
    batch: Positive = 8
    """Prompts that go through a model at once; also the mini-batch of Eq. 7. Lower it where the
    device runs out of memory."""
    pooling: Literal["last", "mean"] = "last"
    """How the activations of a prompt's tokens become one vector for each layer: that of the last
    token, or the mean over all tokens."""
    parameter_share: Annotated[Number, Field(ge=0, le=1)] = 0.5
    """Weight of the parameter discrepancy in the importance (Eq. 11); the rest is the weight of the
    activation discrepancy."""


class AlgorithmSection(Section):
    """The search method, and settings of its own."""

    name: Name = "ap-bmm-plus"
    """Name of the search method."""
    batch: Positive = 4
    """Vectors in one batch of a synchronous method, which waits for a whole batch before it
    proposes the next. Set it to the number of workers. Asynchronous methods ignore it."""
    settings: Table = Field(default_factory=dict)
    """Settings of the search method, by name. Those of each method are listed with it."""
